"""``kinesic finetune predict``: a tuned model and videos -> predictions with time stamps, and pictures of them over time.

A row is a clip, or one person of it where the model was trained on people. Videos, parts and stops are as in extract.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from configs import UserError, plain
from finetune.added_streams import AddedStreams, read_added
from finetune.config import PredictConfig, SwinConfig
from finetune.data import open_encoder
from finetune.extract import schema_of, whole_or_empty, write_table
from finetune.features import WHOLE, Part, Rows
from finetune.labels import SCENE
from finetune.predict_pictures import draw
from finetune.tasks import Task
from finetune.tuned import Tuned, load_tuned, read_about
from finetune.windows import windows
from pretrain.clips import Clip


def predict(config: PredictConfig) -> int:
    """Writes ``config.out`` and the pictures; 3 where a file or a clip could not be read. Raises UserError."""
    before = read_about(config.tuned)
    folder = config.encoder or Path(before["encoder"])
    if config.encoder is None and not folder.exists():
        raise UserError(f"{config.tuned} was trained on the encoder {folder}, which is not there: name it by --encoder")
    added = _added(config, before)
    adapted = config.adapted or (Path(before["adapted"]) if before["adapted"] else None)
    encoder = open_encoder(folder, config.device, SwinConfig(**before["swin"]), adapted)
    tuned = load_tuned(config.tuned, encoder)
    rows_of, schema, about = partial(prediction_rows, tuned), schema_of(columns(tuned.task)), digest(config.tuned)
    look = partial(draw, tuned=tuned, folder=config.out.with_suffix(".pictures"), most=config.pictures)
    beside = {"video"} if config.pictures else set()
    beside |= {"face", "pose"} if tuned.people else set()  # who is there
    depends = {"tuned": about, "added": None if added is None else added.digest()}
    return write_table(config, folder, encoder, tuned.streams, rows_of, schema, depends, beside, look, added)


def _added(config: PredictConfig, before: dict[str, Any]) -> AddedStreams | None:
    """The streams beside the videos. Raises UserError where they are not those that the model was trained with."""
    added = None if config.add_stream is None else read_added(config.add_stream)
    if plain({} if added is None else added.streams) != before["added"]:
        names = ", ".join(before["added"]) or "no stream beside the shards"
        raise UserError(
            f"{config.tuned} was trained with {names}: --add_stream must declare the same, with the same numbers"
        )
    return added


def columns(task: Task) -> dict[str, pa.DataType]:
    """The table's columns and their types."""
    about = {"recording": pa.string(), "start": pa.float64(), "end": pa.float64()}
    about |= {"person": pa.int64(), "participant": pa.string()}
    said = {"prediction": pa.string() if task.classes else pa.float64()}
    return about | said | {f"p({name})": pa.float64() for name in task.classes}


def prediction_rows(tuned: Tuned, clips: Sequence[Clip]) -> pd.DataFrame:
    """What the model says of clips, as rows of ``columns``: of the scene or of everybody in it, of a clip or of its windows."""
    asked = [(number, *part) for number, clip in enumerate(clips) for part in _parts(tuned, clip)]
    if not asked:
        return pd.DataFrame({name: [] for name in columns(tuned.task)})
    rows = Rows.of(asked)
    values = tuned.predict(clips, rows)
    start, end = np.array([[c.start, c.end] for c in clips])[rows.clip].T
    names = [{entry["id"]: entry["participant"] for entry in c.people} for c in clips]
    found = {
        "recording": [clips[c].recording for c in rows.clip],
        "start": np.maximum(start + rows.start, start).round(6),
        "end": np.minimum(start + rows.end, end).round(6),
        "person": whole_or_empty(rows.person),
        "participant": [names[c].get(p) for c, p in zip(rows.clip, rows.person, strict=True)],
        "prediction": tuned.task.said(tuned.task.decide(values, tuned.threshold)),
    }
    return pd.DataFrame(found | {f"p({name})": values[:, k] for k, name in enumerate(tuned.task.classes)})


def _parts(tuned: Tuned, clip: Clip) -> list[Part]:
    """What of a clip is asked about: person, start and end."""
    people = [entry["id"] for entry in clip.people] if tuned.people else [SCENE]
    times = [WHOLE[1:]]
    if tuned.window_seconds is not None:
        times = list(windows(0.0, clip.end - clip.start, tuned.window_seconds))
    return [(person, start, end) for person in people for start, end in times]


def digest(folder: Path) -> str:
    """sha256 of what a tuned model is: its files of weights and its config."""
    found = hashlib.sha256()
    for file in (*sorted(folder.glob("*.safetensors")), folder / "config.json"):
        found.update(file.name.encode() + file.read_bytes())
    return found.hexdigest()
