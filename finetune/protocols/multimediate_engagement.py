"""Engagement (MultiMediate 2023 to 2026): a number for each of 25 frames a second; concordance correlation (Lin 1989).

Rule: `baseline/5_CreateResulttable.py` of hcmlab/MultiMediate26. A label or prediction file has a number a line. Lines that are
empty, nan or -nan(ind) are taken out, file by file; then each pair of files is cut to the shorter one; pairs in which either is no
number go. What is left of ALL recordings and roles of a data set is one list, and the concordance is computed once over it
(float32, population variances, no epsilon; nan where both are one and the same constant, so that a constant prediction of varying
labels is 0). The combined figure is the mean over the data sets that have one.

Here a frame is what the labels have a row for: a frame without a label takes its prediction with it, as the rule does where a
prediction file says nan at the same lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from data_prep.data_sets.multimediate import RATE, SET_NAMES, read_lines
from data_prep.report import write
from finetune.protocols import Run
from finetune.protocols.multimediate import official, one_run
from finetune.protocols.rivals import Rival

TARGET = "engagement"
SETS = ("NoXi", "NoXi (additional)", "NoXi-J", "MPIIGI")
MEAN = "mean"
DROPPED = ("", "nan", "-nan(ind)")
RULE = (
    "Concordance correlation (CCC) over all frames of a data set at once, 25 a second, all recordings and roles in one list: not a "
    "mean over recordings. mean: over the data sets that are there. A frame takes the prediction of the window that it lies in."
)

_ALLOWED_24 = (
    "Only roughly: MultiMediate 2024's test set, whose labels the organisers keep; its mean is over three data sets. A val figure "
    "beside it says how large such numbers are, not who is better."
)
_ALLOWED_26 = (
    "Only roughly: MultiMediate 2026's test set, whose labels the organisers keep; its mean is over four data sets. Baselines read "
    "one feature each. MPIIGI has no training labels: whoever reports it has trained on NoXi."
)
_SOURCE_24 = "MSA-LMC/DAT README"
_SOURCE_26 = "hcmlab/MultiMediate26 README"


def _rivals(name: str, values: Sequence[float | None], source: str, compare: str) -> list[Rival]:
    named = zip((*SETS, MEAN), values, strict=True)
    return [Rival(name, metric, value, source, compare, None, "test") for metric, value in named if value is not None]


RIVALS = tuple(
    rival
    for name, values, source, compare in (
        ("MM'24 USTC-IAT-United", (0.72, 0.73, None, 0.59, 0.68), _SOURCE_24, _ALLOWED_24),
        ("MM'24 AI-lab", (0.69, 0.72, None, 0.54, 0.65), _SOURCE_24, _ALLOWED_24),
        ("MM'24 HFUT-LMC", (0.76, 0.67, None, 0.49, 0.64), _SOURCE_24, _ALLOWED_24),
        ("MM'24 baseline", (0.64, 0.51, None, 0.09, 0.41), _SOURCE_24, _ALLOWED_24),
        ("MM'26 baseline, eGeMAPS v2", (0.554, 0.491, 0.313, 0.454, 0.453), _SOURCE_26, _ALLOWED_26),
        ("MM'26 baseline, VideoMAE", (0.607, 0.560, 0.217, 0.017, 0.350), _SOURCE_26, _ALLOWED_26),
        ("MM'26 baseline, w2v-BERT2", (0.599, 0.471, 0.318, 0.054, 0.360), _SOURCE_26, _ALLOWED_26),
    )
    for rival in _rivals(name, values, source, compare)
)


def read(runs: Sequence[Run], annotations: Path | None) -> pd.DataFrame:
    """A row a labelled frame of the test set: set, session, role, split, participant, frame, label, prediction (nan where nothing
    was said of the person). Raises UserError for other runs than one regression of engagement."""
    del annotations  # the labels hold every frame of the label files
    run = one_run(runs, "multimediate-engagement", (TARGET,), "regression")
    told = official(run, ("participant", "start", "set", "session", "role", "frame")).rename(columns={TARGET: "label"})
    said = {key: rows.sort_values("start") for key, rows in run.predictions.groupby(["recording", "participant"])}
    parts = [
        of.assign(
            prediction=at_frames(of["start"].to_numpy() + 0.5 / RATE, said.get(key))
        )  # pyrefly: ignore[bad-argument-type]
        for key, of in told.groupby(["recording", "participant"], sort=False)
    ]
    return pd.concat(parts, ignore_index=True)


def at_frames(times: np.ndarray, said: pd.DataFrame | None) -> np.ndarray:
    """What is said at times [frame] (seconds): of the window that holds each, else of the nearest one before it, at the very start
    of the first. said: start, prediction, in order of time; None = nothing was said: nan."""
    if said is None:
        return np.full(len(times), np.nan)
    at = np.searchsorted(said["start"].to_numpy(), times, side="right") - 1
    return said["prediction"].to_numpy(float)[np.maximum(at, 0)]


def score(found: pd.DataFrame) -> dict[str, float]:
    """CCC of each data set (nan where it is not there) and their mean; how many people have labels and no prediction."""
    known = found[found["prediction"].notna()]
    by_set = {name: concordance(of["label"], of["prediction"]) for name, of in known.groupby("set")}
    figures = {name: by_set.get(name, np.nan) for name in SETS}
    finite = [value for value in figures.values() if np.isfinite(value)]
    silent = found[found["prediction"].isna()]["participant"].nunique()
    return figures | {MEAN: float(np.mean(finite)) if finite else np.nan, "unanswered": float(silent)}


def concordance(labels: Sequence[float] | pd.Series, said: Sequence[float] | pd.Series) -> float:
    """2 cov / (var + var + squared difference of means), population figures of float32; nan where that is 0 / 0."""
    x, y = np.asarray(labels, np.float32), np.asarray(said, np.float32)
    under = np.var(x) + np.var(y) + (np.mean(x) - np.mean(y)) ** 2
    if under == 0:
        return float("nan")
    return float(2 * np.mean((x - np.mean(x)) * (y - np.mean(y))) / under)


def read_pair(labels: Path, said: Path) -> tuple[np.ndarray, np.ndarray]:
    """What the rule makes of a label file and a prediction file: two lists of one length, float32 [frame]."""
    x, y = _numbers(labels), _numbers(said)
    length = min(len(x), len(y))
    x, y = x[:length], y[:length]
    both = np.isfinite(x) & np.isfinite(y)
    return x[both], y[both]


def _numbers(path: Path) -> np.ndarray:
    found = []
    for line in read_lines(path):
        if line.lower() in DROPPED:
            continue
        try:
            found.append(float(line))
        except ValueError:
            found.append(np.nan)
    return np.array(found, np.float32)


def submission(found: pd.DataFrame, folder: Path) -> Path:
    """<data set>/<session>/<role>.engagement.pred.csv, a number a line, beside which the organisers' label files lie; nan where a
    frame has no label. Returns the folder."""
    for (name, session, role), of in found.groupby(["set", "session", "role"]):
        if of["prediction"].isna().all():
            continue
        lines = np.full(int(of["frame"].max()) + 1, np.nan)
        lines[of["frame"]] = of["prediction"]
        text = "\n".join("nan" if np.isnan(value) else f"{value:.6f}" for value in lines)
        path = folder / _folder(str(name)) / str(session) / f"{role}.engagement.pred.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, f"{text}\n".encode())
    return folder


def _folder(name: str) -> str:
    """What the organisers' table calls the folder of a data set's predictions."""
    by_name = {told: short for short, told in SET_NAMES.items()}
    by_name |= {"NoXi": "noxi-base", "NoXi (additional)": "noxi-additional", "MPIIGI": "mpiigroupinteraction"}
    return by_name[name]
