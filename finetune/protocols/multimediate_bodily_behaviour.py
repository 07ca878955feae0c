"""Bodily behaviour (BBSI, MultiMediate 2023): 14 behaviours in clips of 64 frames; mean average precision.

Rule, as a public evaluator that says it mirrors the official one has it: truth and predictions are put into the order of
``sample_id``, which must agree; scikit-learn's ``average_precision_score`` (no interpolation) for each behaviour; one that no clip
of the test set shows counts 1.0; then the plain mean of 14. (`finetune run` leaves out behaviours that do not occur.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from configs import UserError
from data_prep.data_sets.mpii_clips import BEHAVIOURS
from data_prep.report import write
from finetune.labels import read_table, targets_of
from finetune.protocols import Run
from finetune.protocols.multimediate import NOT_TOLD
from finetune.protocols.rivals import Rival
from finetune.report_record import probabilities

NAME = "multimediate-bodily-behaviour"
WITHOUT_POSITIVES = 1.0
RULE = (
    "Average precision of each of 14 behaviours over all clips (scikit-learn's, no interpolation); one that no clip shows counts "
    f"1.0, as the official evaluator has it; mean AP: the plain mean of 14. {NOT_TOLD}"
)
RIVALS: tuple[Rival, ...] = ()


@dataclass(frozen=True)
class Clips:
    """Of the same clips in the same order: truth, 0 or 1 [clip, behaviour], and probability [clip, behaviour]; index sample_id."""

    truth: pd.DataFrame
    said: pd.DataFrame


def read(runs: Sequence[Run], annotations: Path | None) -> Clips:
    """What a run of all 14 behaviours said of every clip of the official list. Raises UserError where behaviours or clips lack."""
    del annotations
    run = runs[0]
    if len(runs) > 1 or set(targets_of(run.target)) != set(BEHAVIOURS) or run.record["task"] != "multi-label":
        raise UserError(
            f"{run.folder}: {NAME} takes one multi-label run of the 14 behaviours (--config mpii-bodily-behaviour)"
        )
    names = list(BEHAVIOURS)
    said = probabilities(run.predictions).groupby(run.predictions["recording"]).mean().reindex(columns=names)
    table = read_table(Path(run.record["labels"]))
    of_test = table[table["split"].isin(run.predictions["split"].unique())].set_index("recording")
    if missing := sorted(set(of_test.index) - set(said.index)):
        raise UserError(
            f"{run.folder}: no prediction of {len(missing)} of {len(of_test)} clips ({', '.join(missing[:3])}): the rule needs all"
        )
    number = of_test["sample_id"].astype(str)
    said = said.loc[of_test.index].fillna(0.0)  # a behaviour that no labelled clip has is no class of the run
    return Clips(*(part.set_axis(number.to_numpy()).sort_index() for part in (of_test[names].astype(int), said)))


def score(clips: Clips) -> dict[str, float]:
    """mean AP, then the average precision of each behaviour. Raises UserError where truth and predictions are of other clips."""
    if list(clips.truth.index) != list(clips.said.index):
        raise UserError(f"{NAME}: truth and predictions are of different clips")
    by_class = {
        name: average_precision(clips.truth[name].to_numpy(), clips.said[name].to_numpy()) for name in BEHAVIOURS
    }
    return {"mean AP": float(np.mean(list(by_class.values()))), **by_class}


def average_precision(truth: np.ndarray, said: np.ndarray) -> float:
    """Of 0 or 1 [clip] and scores [clip]; 1.0 where no clip is positive."""
    return float(average_precision_score(truth, said)) if truth.any() else WITHOUT_POSITIVES


def submission(clips: Clips, folder: Path) -> Path:
    """predictions.csv: sample_id and a column of probabilities a behaviour, in the order of the official tables."""
    path = folder / "predictions.csv"
    write(path, clips.said.rename_axis("sample_id").reset_index().to_csv(index=False).encode())
    return path
