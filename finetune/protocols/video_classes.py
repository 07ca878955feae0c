"""Top-1 and top-5 accuracy of the class of a video: Something-Something v2 and Kinetics, as VideoMAE's evaluation has them.

What is said of all clips (or views) of a video is averaged as probabilities; the label is among the first five of that, or not
(MCG-NJU/VideoMAE engine_for_finetuning.py, merge and compute_video).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from configs import UserError
from finetune.protocols import Run
from finetune.report_record import probabilities

TARGET = "action"
RULE = (
    "Accuracy over videos in per cent: the class of a video is the most probable one after the probabilities of all its clips are "
    "averaged (top-1); top-5: among the five most probable."
)
ALLOWED = (
    "The same validation part and the same pooling; VideoMAE was trained whole, and looks at {}. `finetune multiview` looks "
    "at these views: with it a published checkpoint must give its own row."
)


def read(runs: Sequence[Run], annotations: Path | None) -> tuple[np.ndarray, pd.DataFrame]:
    """The class of every video, str [video], and its probabilities, a row a video and a column a class. Raises UserError."""
    del annotations  # the labels are in the predictions
    if len(runs) != 1 or runs[0].record["task"] != "classification":
        raise UserError(
            f"one run of the target {TARGET!r}, a classification, makes up the figure; there are {len(runs)}"
        )
    said = runs[0].predictions
    p = probabilities(said).groupby(said["recording"]).mean()
    labels = said.groupby("recording")["target"].first()
    return labels.loc[p.index].to_numpy(str), p


def score(found: tuple[np.ndarray, pd.DataFrame]) -> dict[str, float]:
    """top-1, top-5 in per cent, and how many videos they are of; of equally probable classes the first counts."""
    labels, p = found
    ranked = p.columns.to_numpy(str)[np.argsort(-p.to_numpy(), axis=1, kind="stable")]
    right = ranked == labels[:, None]
    return {
        "top-1": 100 * float(right[:, 0].mean()),
        "top-5": 100 * float(right[:, :5].any(1).mean()),
        "videos": float(len(labels)),
    }
