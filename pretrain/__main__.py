"""``kinesic pretrain COMMAND``: shards in, a checkpoint and then a release out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import configs
from configs import Command
from pretrain.config import ExportConfig, ReleaseConfig, RunConfig

COMMANDS = {
    "run": Command("train on shards; the same command goes on where it was stopped", RunConfig, "pretrain.engine:run"),
    "release": Command(
        "a run's newest checkpoint -> a folder for collaborators; --check RELEASE verifies one",
        ReleaseConfig,
        "pretrain.release:release",
        ("run", "out"),
    ),
    "export": Command(
        "a release's trunk -> a Hugging Face VideoMAE folder",
        ExportConfig,
        "pretrain.export:export",
        ("encoder", "out"),
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    return configs.main("pretrain", COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main())
