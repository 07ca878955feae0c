"""A tuned model on disk: what was trained and nothing else, tied to the release that it was trained on.

TUNED/head.safetensors       the head, with the statistics of its features
TUNED/adapter.safetensors    what was trained in the encoder (``full``: all of it), absent for ``linear`` and ``attentive``
TUNED/streams.safetensors    of streams that --add_stream gave: what reads them and was not trained, if there are any
TUNED/config.json            method, task, classes, streams, and the digest of the encoder's weights
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from configs import UserError, plain
from finetune.added_streams import add, added, stream_state, tokenizers
from finetune.config import SETTINGS, RunConfig
from finetune.features import Rows, encode, weights_digest
from finetune.heads import AttentiveHead, Head
from finetune.methods import install, remove, small_weights
from finetune.tasks import HALF, Task
from pretrain.clips import Clip
from pretrain.config import StreamConfig
from pretrain.encoder import Encoder

SCHEMA = 1  # of config.json


@dataclass
class Tuned:
    """An encoder with the small weights in its blocks, and the head that reads it."""

    encoder: Encoder
    head: Head
    task: Task
    target: str
    streams: tuple[str, ...]
    people: bool = False
    """whether it was trained on examples of single persons"""
    window_seconds: float | None = None
    """whether it was trained on windows of so many seconds; empty = on clips"""
    threshold: float = HALF
    """of two classes, the probability from which the second is said"""

    @torch.inference_mode()
    def predict(self, clips: Sequence[Clip], rows: Rows | None = None) -> np.ndarray:
        """Probabilities [row, class] (columns: task.classes), or values in the target's unit [row, 1].

        rows: whom and which window each row is about; default: a row a clip, about all of it.
        """
        rows = Rows.of_clips(len(clips)) if rows is None else rows
        modalities = torch.tensor([self.encoder.modalities.index(name) for name in self.streams])
        encoded = encode(self.encoder, list(clips), self.streams)
        outputs = self.head.of_tokens(encoded, rows, modalities.to(self.encoder.device))
        return self.head.predictions(outputs, self.task)


def save_tuned(
    folder: Path,
    encoder: Encoder,
    head: Head,
    task: Task,
    streams: Sequence[str],
    config: RunConfig,
    people: bool,
    threshold: float = HALF,
) -> None:
    """Writes the files (config.json last, each under a temporary name first), and takes the method out of the encoder.

    people, threshold: as in Tuned."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)  # what a kill leaves behind must not pass for a model of before
    _write(folder / "head.safetensors", head.state_dict())
    (folder / "adapter.safetensors").unlink(missing_ok=True)
    if trained := small_weights(encoder):
        _write(folder / "adapter.safetensors", {name: value.detach() for name, value in trained.items()})
    (folder / "streams.safetensors").unlink(missing_ok=True)
    if more := {name: value.detach() for name, value in stream_state(encoder).items() if name not in trained}:
        _write(folder / "streams.safetensors", more)
    remove(encoder)  # the digest below is the released encoder's
    about = {
        "schema": SCHEMA,
        "method": config.method,
        "layers": config.layers,
        "swin": plain(config.swin),
        **{name: plain(getattr(config, name)) for name in SETTINGS},
        "target": config.target,
        "task": task.name,
        "classes": task.classes,
        "window_seconds": config.window_seconds,
        "streams": list(streams),
        "people": people,
        "threshold": threshold,
        "added": plain(added(encoder)),
        "adapted": None if config.adapted is None else str(config.adapted.absolute()),
        "encoder": str(config.encoder.absolute()),
        "encoder_sha256": weights_digest(encoder),
    }
    temporary = folder / ".config.json.tmp"
    temporary.write_text(json.dumps(about, indent=1))
    temporary.replace(folder / "config.json")


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, temporary)
    temporary.replace(path)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def read_about(folder: Path) -> dict[str, Any]:
    """config.json of a tuned model. Raises UserError."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json: is this the --out of a kinesic finetune run?")
    try:
        saved = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'}: not readable as JSON ({error})") from None
    if not isinstance(saved, dict) or "schema" not in saved:
        raise UserError(f"{folder / 'config.json'}: tells of no model: is this the --out of a kinesic finetune run?")
    about: dict[str, Any] = {"added": {}, "adapted": None, "threshold": HALF, **saved}
    if about["schema"] > SCHEMA:
        raise UserError(f"{folder}: schema {about['schema']} is newer than {SCHEMA}: update kinesic")
    if not {"method", "target", "task", "encoder_sha256"} <= set(about):
        raise UserError(f"{folder / 'config.json'}: tells of no model: is this the --out of a kinesic finetune run?")
    return about


def _add_streams(folder: Path, encoder: Encoder, about: dict[str, Any]) -> None:
    """Lets the encoder read the streams that a tuned model was given."""
    if not about["added"]:
        return
    add(encoder, {name: StreamConfig(**stream) for name, stream in about["added"].items()})
    missing, unexpected = encoder.load_state_dict(_read(folder / "streams.safetensors"), strict=False)
    if unexpected or any(name.endswith((".mean", ".std")) for name in set(missing) & set(stream_state(encoder))):
        raise UserError(f"{folder / 'streams.safetensors'}: does not hold the streams that config.json describes")
    for tokenizer in tokenizers(encoder).values():
        tokenizer.keep()


def load_tuned(folder: Path | str, encoder: Encoder) -> Tuned:
    """Puts a tuned model's weights into the encoder that it was trained on. Raises UserError for any other encoder."""
    folder = Path(folder)
    about = read_about(folder)
    remove(encoder)
    own = weights_digest(encoder)
    if own != about["encoder_sha256"]:
        raise UserError(
            f"{folder} was trained on another encoder ({about['encoder']}, weights {about['encoder_sha256'][:12]}; "
            f"this one has {own[:12]})"
            + (f"; it was adapted: --adapted {about['adapted']}" if about["adapted"] else "")
        )
    _add_streams(folder, encoder, about)
    method = about["method"]
    settings = SETTINGS[method](**about[method]) if method in SETTINGS else None
    install(encoder, settings, about.get("layers"), seed=0)
    if settings is not None:
        saved = _read(folder / "adapter.safetensors")
        missing, unexpected = encoder.load_state_dict(saved, strict=False)
        if unexpected or set(missing) & set(small_weights(encoder)):
            raise UserError(f"{folder / 'adapter.safetensors'}: does not hold the weights that config.json describes")
    task = Task(about["task"], tuple(about["classes"]))
    weights = _read(folder / "head.safetensors")
    features = weights["mean"].shape[0]
    attends = "query" in weights
    head = AttentiveHead(features, task.outputs, len(weights["query"])) if attends else Head(features, task.outputs)
    head.load_state_dict(weights)
    return Tuned(
        encoder,
        head.to(encoder.device).eval(),
        task,
        about["target"],
        tuple(about["streams"]),
        about["people"],
        about["window_seconds"],
        about["threshold"],
    )
