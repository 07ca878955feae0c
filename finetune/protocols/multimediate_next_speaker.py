"""Next speaker (MultiMediate 2021): which of the four seats speak one second after 10 s; unweighted average recall.

Rule: `run.py` of hcmlab/multimediate-participants: the labels of all samples and four seats are put into one list of 0 and 1, and
scored by scikit-learn's ``recall_score(..., average="macro")``: the mean of the recalls of 0 and 1. Empty seats are pooled too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from sklearn.metrics import recall_score

from data_prep.report import write
from finetune.protocols import Run
from finetune.protocols.multimediate import NOT_TOLD, one_run, samples
from finetune.protocols.rivals import Rival

TARGET = "next_speaker"
SILENT = "0"
RULE = (
    "Unweighted average recall: the four binary labels of every sample (does this seat speak 1 s later?) are pooled, empty seats "
    f"included, and the recalls of 0 and 1 averaged; a seat without a prediction is said to be silent. {NOT_TOLD}"
)
RIVALS: tuple[Rival, ...] = ()


def read(runs: Sequence[Run], annotations: Path | None) -> pd.DataFrame:
    """A row a sample and seat: index, seat, label, prediction ("" = none). Raises UserError for other runs than one of
    next_speaker."""
    del annotations
    return samples(one_run(runs, "multimediate-next-speaker", (TARGET,), "classification"))


def score(found: pd.DataFrame) -> dict[str, float]:
    """uar, and how many seats of samples have no prediction: the empty ones and those that could not be read."""
    said = found["prediction"].replace("", SILENT)
    return {
        "uar": float(recall_score(found["label"], said, average="macro", zero_division=0)),
        "unanswered": float((found["prediction"] == "").sum()),
    }


def submission(found: pd.DataFrame, folder: Path) -> Path:
    """prediction_next_speaker.csv: index, prediction_1 to prediction_4."""
    said = found.assign(prediction=found["prediction"].replace("", SILENT), number=found["seat"].str[-1])
    table = said.pivot(index="index", columns="number", values="prediction").add_prefix("prediction_")
    table = table.reindex(pd.unique(found["index"]))
    path = folder / f"prediction_{TARGET}.csv"
    write(path, table.reset_index().to_csv(index=False).encode())
    return path
