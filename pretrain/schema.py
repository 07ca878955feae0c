"""Which numbers a model was taught: raised whenever a stream is told to it otherwise than before (stream_vectors.py).

1   a face's points relative to its recent place
2   a face's points as its head sees them

What is older is read where it means the same today: an encoder of schema 1 that reads no faces, one of video alone, settings
that have come since (ModelConfig's defaults are what was done before), a release without README.md, licence or digests. All else
is refused: besides faces these are encoders of several streams whose model names no ``pooling``, for what they read through
the gated branch was not weighed by how much had been pooled.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs import UserError

SCHEMA = 2


def check_schema(schema: Any, model: Mapping[str, Any], file: Path) -> None:
    """Raises UserError where a model (its settings, out of ``file``) would misread the streams as they are told now."""
    if type(schema) is not int or schema < 1:
        raise UserError(f"{file}: schema {schema!r} is no version of kinesic's: damaged, or another program's")
    if schema > SCHEMA:
        raise UserError(f"{file}: schema {schema} is newer than {SCHEMA}: update kinesic")
    streams = model.get("streams", {})
    if streams and "pooling" not in model:
        raise UserError(
            f"{file}: its encoder read {', '.join(streams)} without weighing what it pooled; it would compute something "
            "else today: pretrain anew"
        )
    if schema < SCHEMA and "face" in streams:
        raise UserError(
            f"{file}: its encoder learnt faces as schema {schema} told them; it would misread those of schema {SCHEMA}: "
            "pretrain anew"
        )
