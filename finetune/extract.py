"""``kinesic finetune extract``: videos -> features with time stamps, in constant memory, as one Parquet table.

A row is one clip (or some seconds of it), view and stream, for the scene (video, sound) or for one person (face, pose):
``feature`` is the mean of the encoder's tokens there. ``numpy.stack(table["feature"])`` is a matrix.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from finetune.added_streams import AddedStreams
from finetune.config import ExtractConfig, PredictConfig
from finetune.data import chosen_streams, left_out, open_encoder, open_shards
from finetune.features import data_digest, weights_digest
from finetune.labels import SCENE
from finetune.parts import Parts
from pretrain.clips import Clip
from pretrain.encoder import Encoder


def schema_of(columns: Mapping[str, pa.DataType]) -> pa.Schema:
    """A table's schema, which tells pandas as well that whole numbers stay so where some are empty."""
    types = {name: "Int64" if kind == pa.int64() else None for name, kind in columns.items()}
    empty = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in types.items()})
    return pa.Table.from_pandas(empty, pa.schema(columns), preserve_index=False).schema


SCHEMA = schema_of(
    {
        "recording": pa.string(),
        "time": pa.float64(),  # when it begins, in seconds on the recording's clock
        "end": pa.float64(),
        "view": pa.string(),  # empty = the stream belongs to no view
        "person": pa.int64(),  # empty = the scene
        "stream": pa.string(),
        "feature": pa.list_(pa.float32()),
    }
)


def extract(config: ExtractConfig) -> int:
    """Writes ``config.out``; 3 where a file or a clip could not be read. Raises UserError."""
    encoder = open_encoder(config.encoder, config.device, config.swin, config.adapted)
    streams = chosen_streams(encoder, config.streams)
    rows_of = partial(clip_features, encoder, streams=streams, seconds=config.seconds)
    about = {"weights": weights_digest(encoder), "seconds": config.seconds}
    return write_table(config, config.encoder, encoder, streams, rows_of, SCHEMA, about)


def write_table(
    config: ExtractConfig | PredictConfig,
    encoder_folder: Path,
    encoder: Encoder,
    streams: tuple[str, ...],
    rows_of: Callable[[list[Clip]], pd.DataFrame],
    schema: pa.Schema,
    about: Mapping[str, Any],
    beside: Collection[str] = (),
    look: Callable[[Parts], None] | None = None,
    added: AddedStreams | None = None,
) -> int:
    """Prepares what has to be prepared, and writes the rows of all clips into ``config.out``; goes on where it was stopped.

    streams: what is read of a clip. about: what the rows depend on beside the data. beside: what else is wanted of videos.
    look: called when the table is whole, while parts and clips are there.
    added: streams beside the videos. Returns 3 where a file or a clip could not be read. Raises UserError.
    """
    prepared = config.out.with_name(f"{config.out.name}.shards")
    shards, index = open_shards(config.video, encoder_folder, encoder, prepared, {*streams, *beside})
    made = shards != config.video  # else they were given, and stay
    failures = left_out(shards) if made else []
    for note in [] if added is None else added.notes(index):
        print(note)
    parts = Parts(config.out, shards, index, streams, rows_of, schema, config.batch_size, config.workers, added)
    parts.write({**about, "data": data_digest(shards)}, type(config).__name__.removesuffix("Config").lower())
    rows, read = parts.join()
    if look is not None:
        look(parts)
    parts.remove()
    if made:
        shutil.rmtree(prepared, ignore_errors=True)
        prepared.with_name(f"{prepared.name}.manifest.csv").unlink(missing_ok=True)
    print(f"{config.out}: {rows} rows from {read} clips of {index['recording'].nunique()} recordings")
    for failure in failures:
        print(f"left out: {failure}", file=sys.stderr)
    if read < len(index):
        print(f"{len(index) - read} clips hold none of {', '.join(streams)} or cannot be read", file=sys.stderr)
    return 3 if failures or read < len(index) else 0


def whole_or_empty(person: np.ndarray) -> pd.Series:
    """Person ids int [row] as a column: empty for the scene."""
    return pd.Series(person, dtype="Int64").mask(person == SCENE)


@torch.inference_mode()
def clip_features(
    encoder: Encoder, clips: Sequence[Clip], streams: Sequence[str], seconds: float | None = None
) -> pd.DataFrame:
    """Mean of the tokens of every (clip, stream, view, person) as rows of SCHEMA's columns.

    seconds: a row for every so many seconds of a clip, from its start; a token counts where its middle lies.
    """
    encoded = encoder.encode_clips(list(clips), streams)
    step = torch.zeros_like(encoded.clip) if seconds is None else (encoded.time / seconds + 1e-6).floor().long()
    what = torch.stack([encoded.clip, step, encoded.modality, encoded.view, encoded.person], 1)
    kinds, kind_of_token = torch.unique(what, dim=0, return_inverse=True)
    sums = torch.zeros(len(kinds), encoded.tokens.shape[1], device=what.device)
    sums.index_add_(0, kind_of_token, encoded.tokens.float())
    means = sums / torch.bincount(kind_of_token)[:, None]
    clip, step, modality, view, person = kinds.cpu().numpy().T
    names = [list(c.views) for c in clips]
    start, end = np.array([[c.start, c.end] for c in clips])[clip].T
    if seconds is not None:
        start = (start + step * seconds).round(6)
        end = np.minimum(start + seconds, end).round(6)
    return pd.DataFrame(
        {
            "recording": [clips[c].recording for c in clip],
            "time": start,
            "end": end,
            "view": [names[c][v] if v >= 0 else None for c, v in zip(clip, view, strict=True)],
            "person": whole_or_empty(person),
            "stream": [encoder.modalities[m] for m in modality],
            "feature": list(means.cpu().numpy()),
        }
    )
