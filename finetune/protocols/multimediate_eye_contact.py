"""Eye contact (MultiMediate 2021): whom somebody looks at in the last frame of 10 s, 0 nobody, 1 to 4 the seat; accuracy.

Rule: `run.py` of hcmlab/multimediate-participants: scikit-learn's ``accuracy_score`` over the samples of the list.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from sklearn.metrics import accuracy_score

from data_prep.report import write
from finetune.protocols import Run
from finetune.protocols.multimediate import NOT_TOLD, one_run, samples
from finetune.protocols.rivals import Rival

TARGET = "eye_contact"
RULE = (
    "Accuracy over the samples of the official list (whom the subject looks at in the last frame: 0 nobody, 1 to 4 the seat), each "
    f"counted once; a sample without a prediction is wrong. {NOT_TOLD}"
)
RIVALS: tuple[Rival, ...] = ()


def read(runs: Sequence[Run], annotations: Path | None) -> pd.DataFrame:
    """A row a sample: index, label, prediction ("" = none). Raises UserError for other runs than one of eye_contact."""
    del annotations  # the lists are in the labels
    return samples(one_run(runs, "multimediate-eye-contact", (TARGET,), "classification"))


def score(found: pd.DataFrame) -> dict[str, float]:
    """accuracy, and how many samples have no prediction."""
    return {
        "accuracy": float(accuracy_score(found["label"], found["prediction"])),
        "unanswered": float((found["prediction"] == "").sum()),
    }


def submission(found: pd.DataFrame, folder: Path) -> Path:
    """prediction_eye_contact.csv: index, prediction; what was not predicted is 0, nobody."""
    table = found.assign(prediction=found["prediction"].replace("", "0"))[["index", "prediction"]]
    path = folder / f"prediction_{TARGET}.csv"
    write(path, table.to_csv(index=False).encode())
    return path
