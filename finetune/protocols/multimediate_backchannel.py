"""Backchannel (MultiMediate 2022): does somebody give a backchannel at the end of 10 s; accuracy.

Neither the file names nor the organisers' script of this task could be read: that the figure is accuracy is not confirmed, so
that the mean recall of the two classes, which does not reward the commoner one, stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from sklearn.metrics import accuracy_score, recall_score

from finetune.protocols import Run
from finetune.protocols.multimediate import NOT_TOLD, one_run, samples
from finetune.protocols.rivals import Rival

TARGET = "backchannel"
RULE = (
    "Accuracy over the samples of the official list, each counted once; a sample without a prediction is wrong. That accuracy is "
    f"the official figure is not confirmed; uar is the mean recall of the two classes. {NOT_TOLD}"
)
RIVALS: tuple[Rival, ...] = ()


def read(runs: Sequence[Run], annotations: Path | None) -> pd.DataFrame:
    """A row a sample: index, label, prediction ("" = none). Raises UserError for other runs than one of backchannel."""
    del annotations
    return samples(one_run(runs, "multimediate-backchannel", (TARGET,), "classification"))


def score(found: pd.DataFrame) -> dict[str, float]:
    """accuracy; uar, the recalls of the classes of the labels averaged; how many samples have no prediction."""
    classes = sorted(found["label"].unique())
    recall = recall_score(found["label"], found["prediction"], labels=classes, average="macro", zero_division=0)
    return {
        "accuracy": float(accuracy_score(found["label"], found["prediction"])),
        "uar": float(recall),
        "unanswered": float((found["prediction"] == "").sum()),
    }
