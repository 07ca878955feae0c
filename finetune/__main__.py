"""``kinesic finetune COMMAND``: a release and labels in, small weights, predictions and features out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import configs
from configs import Command
from finetune.config import (
    AdaptConfig,
    CompareConfig,
    ExtractConfig,
    MergeConfig,
    PredictConfig,
    RunConfig,
)
from finetune.score_config import MultiviewConfig, ScoreConfig

COMMANDS = {
    "run": Command("release + labels -> adapter, head, predictions, report", RunConfig, "finetune.run:run"),
    "adapt": Command("unlabelled recordings of a new setting -> adapters", AdaptConfig, "finetune.adapt:adapt"),
    "compare": Command("runs -> one table and picture", CompareConfig, "finetune.compare:compare", ("runs",)),
    "score": Command(
        "runs -> a data set's official figures, beside the literature's",
        ScoreConfig,
        "finetune.score:score",
        ("set", "runs"),
    ),
    "multiview": Command(
        "published fine-tuned VideoMAE -> its own table's figures",
        MultiviewConfig,
        "finetune.multiview:multiview",
        ("set", "manifest", "labels"),
    ),
    "merge": Command(
        "what lora or full learnt -> a release of its own", MergeConfig, "finetune.merge:merge", ("tuned",)
    ),
    "extract": Command("videos -> features with time stamps", ExtractConfig, "finetune.extract:extract", ("video",)),
    "predict": Command(
        "tuned model + videos -> predictions over time", PredictConfig, "finetune.predict:predict", ("tuned", "video")
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    return configs.main("finetune", COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main())
