"""What MultiMediate's tasks have in common: every sample of the official list counts, whatever a run has said of it.

A run predicts what it could read; an empty seat or a damaged file has no prediction. The official samples are those of the
run's labels (``kinesic data_prep manifest mpii-group`` or ``noxi``), which keep the split and the number in the list.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from configs import UserError
from finetune.labels import read_table
from finetune.protocols import Run

NOT_TOLD = (
    "No figure of this task with its part of the data could be read from a public page, so that none stands here; test labels "
    "are the organisers', and five test evaluations a team and task are allowed."
)


def one_run(runs: Sequence[Run], name: str, targets: Sequence[str], task: str) -> Run:
    """The run of a protocol that asks for one target. Raises UserError for several, another target or another task."""
    run = runs[0]
    if len(runs) > 1:
        raise UserError(f"{name}: takes one run, of {' or '.join(targets)}; {len(runs)} were given")
    if run.target not in targets:
        raise UserError(f"{run.folder}: its target is {run.target}; {name} is about {' or '.join(targets)}")
    if run.record["task"] != task:
        raise UserError(f"{run.folder}: {run.target} was run as {run.record['task']}; {name} needs --task {task}")
    return run


@lru_cache(maxsize=2)
def _labels(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"{path}: no such file, and the official samples stand in these labels of the run")
    table = read_table(path)
    if missing := [name for name in columns if name not in table]:
        raise UserError(
            f"{path}: no column {missing[0]!r}: labels of kinesic data_prep manifest name every official sample with it"
        )
    return table[list(columns)]


def official(run: Run, columns: Sequence[str]) -> pd.DataFrame:
    """The official samples of the test set that a run's predictions are about, those with a label: the columns and the target.

    They are the labels of the same split; where folds were reported, those of the predicted recordings. Raises UserError.
    """
    told = _labels(Path(run.record["labels"]), (*columns, "recording", "split", run.target))
    splits = run.predictions["split"].unique()
    known = np.isin(splits, told["split"].unique()).all()
    of_test = told["split"].isin(splits) if known else told["recording"].isin(run.predictions["recording"])
    return told[of_test & told[run.target].notna()].reset_index(drop=True)


def samples(run: Run) -> pd.DataFrame:
    """A row an official sample and person: index, seat, recording, participant, start; text: label, prediction ("" = none)."""
    told = official(run, ("index", "seat", "participant", "start", "end"))
    told = told.rename(columns={run.target: "label"})
    told["at"] = (told["start"] * 1000).round()  # a clip's start has six decimals, a list's may have more
    said = run.predictions[["recording", "participant", "start", "prediction"]]
    said = said.assign(at=(said["start"] * 1000).round()).drop(columns="start")
    found = told.merge(said, how="left", on=["recording", "participant", "at"], validate="many_to_one")
    found["label"] = [_text(value) for value in found["label"]]
    return found.assign(prediction=found["prediction"].fillna("")).drop(columns="at")


def _text(value: object) -> str:
    """A class as predictions.csv writes it: 1.0 is 1."""
    return str(int(value)) if isinstance(value, float) and value == int(value) else str(value)
