"""kinesic: features of long multimodal video of people interacting.

>>> from kinesic import load_encoder
>>> encoder = load_encoder("RELEASE")            # or a published VideoMAE: a Hugging Face folder, a .pth
>>> out = encoder.encode(video=frames)           # out.tokens [batch, tokens, dim]

Everything here is imported when it is first used, so that ``import kinesic`` and ``kinesic --help`` cost nothing.
The console command ``kinesic STAGE COMMAND ...`` is ``python -m STAGE COMMAND ...``, whatever folder one stands in.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_prep.shards import read_index, read_sample
    from pretrain.clips import Clip, read_clip
    from pretrain.encoder import Encoded, Encoder
    from pretrain.release import load_encoder
    from pretrain.streaming import StreamingEncoder

__all__ = ["Clip", "Encoded", "Encoder", "StreamingEncoder", "load_encoder", "read_clip", "read_index", "read_sample"]

_HOME = {
    "Clip": "pretrain.clips",
    "Encoded": "pretrain.encoder",
    "Encoder": "pretrain.encoder",
    "StreamingEncoder": "pretrain.streaming",
    "load_encoder": "pretrain.release",
    "read_clip": "pretrain.clips",
    "read_index": "data_prep.shards",
    "read_sample": "data_prep.shards",
}

STAGES = {
    "data_prep": "recordings -> shards",
    "pretrain": "shards -> checkpoint -> release",
    "finetune": "release + labels -> adapter, predictions, features",
    "slurm": "any of the above on a cluster",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'kinesic' has no attribute {name!r}")


def main(argv: list[str] | None = None) -> int:
    """The console command: ``kinesic STAGE COMMAND ...``."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in STAGES:
        return importlib.import_module(f"{argv[0]}.__main__").main(argv[1:])
    print("usage: kinesic STAGE COMMAND ...\n")
    for stage, help_text in STAGES.items():
        print(f"  {stage:<10} {help_text}")
    print("\n'kinesic STAGE --help' lists a stage's commands.")
    return 0 if argv and argv[0] in {"-h", "--help"} else 2


if __name__ == "__main__":
    sys.exit(main())
