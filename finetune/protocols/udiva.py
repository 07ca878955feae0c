"""UDIVA v0.5, self-reported personality: the squared error of five traits, per participant.

Targets are z-scores of the BFI-2, one value a participant and trait; lower is better. The organisers' scorer could not be read, nor
how they pool the windows of a participant, so that the pooling is named with every figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from sklearn.metrics import mean_squared_error

from configs import UserError
from finetune.protocols import Run
from finetune.protocols.rivals import Rival

TRAITS = {
    "OPENMINDEDNESS_Z": "O",
    "CONSCIENTIOUSNESS_Z": "C",
    "EXTRAVERSION_Z": "E",
    "AGREEABLENESS_Z": "A",
    "NEGATIVEEMOTIONALITY_Z": "N",
}
MEAN = "mean"
RULE = (
    "Mean squared error of each trait's z-score, lower is better; a participant counts once: the mean of what is said of all "
    "clips, tasks and recordings of that person. mean: over the five traits; beside it by the median of the clips, and with each "
    "clip counted."
)

_TABLE = "third-party result table on UDIVA v0.5, mean ± deviation of 5 seeds"
_ALLOWED = (
    "Only roughly: the same z-scores, but the table tells neither the part of the data nor how windows are pooled to a "
    "participant, and copies of the data differ. The metadata row is a serious rival (a challenge team's informed baseline, "
    "arXiv 2207.11012, reads metadata alone): what does not beat it has learnt nothing from pictures and sound."
)
RIVALS = tuple(
    Rival(name, MEAN, value, _TABLE, _ALLOWED, spread)
    for name, value, spread in (
        ("TimeSformer, video only", 1.309, 0.040),
        ("ViViT, video only", 1.283, 0.018),
        ("Video Swin, video only", 1.331, 0.015),
        ("cross-modal attention, first variant", 1.100, 0.016),
        ("cross-modal attention, second variant", 1.279, 0.014),
        ("cross-modal attention, third variant", 1.229, 0.090),
    )
)


def read(runs: Sequence[Run], annotations: Path | None) -> pd.DataFrame:
    """One row a trait and clip: trait (O C E A N), participant, target, prediction. Raises UserError unless there are all five."""
    del annotations  # the labels are in the predictions
    by_target = {run.target: run for run in runs}
    if missing := [target for target in TRAITS if target not in by_target]:
        raise UserError(f"udiva: no run of {', '.join(missing)}: its figure is over five traits, a finetune run each")
    if strange := [target for target in by_target if target not in TRAITS]:
        raise UserError(f"udiva: {strange[0]} is none of its targets: {', '.join(TRAITS)}")
    parts = []
    for target, trait in TRAITS.items():
        said = by_target[target].predictions[["participant", "target", "prediction"]]
        if by_target[target].record["task"] != "regression" or (said["participant"] == "").any():
            raise UserError(f"{by_target[target].folder}: {target} is no regression of participants")
        parts.append(said.assign(trait=trait))
    found = pd.concat(parts, ignore_index=True)
    people = [set(part["participant"]) for part in parts]
    if any(names != people[0] for names in people):
        raise UserError("udiva: the runs are about different participants")
    return found


def score(found: pd.DataFrame) -> dict[str, float]:
    """MSE of O C E A N and their mean, a participant counted once by the mean of the clips; the mean by two other poolings."""
    by_mean = _by_trait(found.groupby(["trait", "participant"])[["target", "prediction"]].mean())
    by_median = _by_trait(found.groupby(["trait", "participant"])[["target", "prediction"]].median())
    of_clips = _by_trait(found.set_index("trait"))
    traits = {trait: float(by_mean[trait]) for trait in TRAITS.values()}
    return traits | {
        MEAN: float(by_mean.mean()),
        "mean, by the median": float(by_median.mean()),
        "mean, each clip counted": float(of_clips.mean()),
    }


def _by_trait(rows: pd.DataFrame) -> pd.Series:
    errors = {trait: mean_squared_error(of["target"], of["prediction"]) for trait, of in rows.groupby("trait")}
    return pd.Series(errors)
