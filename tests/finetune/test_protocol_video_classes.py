"""Top-1 and top-5 of videos, case by case as VideoMAE's evaluation has them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from configs import UserError
from finetune.protocols import Run, kinetics, ssv2
from finetune.protocols.video_classes import read, score

CLASSES = ["a", "b", "c", "d", "e", "f"]


def run(rows: list[tuple], task: str = "classification") -> Run:
    """Rows of (recording, target, probabilities)."""
    table = pd.DataFrame({"recording": [r[0] for r in rows], "target": [r[1] for r in rows]})
    for number, name in enumerate(CLASSES):
        table[f"p({name})"] = [r[2][number] for r in rows]
    return Run(Path("run"), {"target": "action", "task": task}, table)


def test_clips_of_a_video_are_averaged_and_counted_once() -> None:
    """Video 1: b by either clip, a by the mean (.4 .35): right. Video 2: e, its label f, is sixth: not even in the first five."""
    rows = [
        ("1", "a", (0.4, 0.6, 0, 0, 0, 0)),
        ("1", "a", (0.4, 0.1, 0.5, 0, 0, 0)),
        ("2", "f", (0.2, 0.2, 0.2, 0.1, 0.25, 0.05)),
        ("3", "b", (0.5, 0.5, 0, 0, 0, 0)),  # of equally probable classes the first counts
    ]
    assert score(read([run(rows)], None)) == pytest.approx({"top-1": 100 / 3, "top-5": 200 / 3, "videos": 3})


def test_probabilities_are_averaged_not_logits_or_votes() -> None:
    rows = [("1", "b", (0.5, 0.3, 0.2, 0, 0, 0))] * 2 + [("1", "b", (0.0, 0.9, 0.1, 0, 0, 0))]
    assert score(read([run(rows)], None))["top-1"] == 100


def test_one_classification_makes_the_figure() -> None:
    with pytest.raises(UserError, match="there are 2"):
        read([run([("1", "a", (1, 0, 0, 0, 0, 0))])] * 2, None)
    with pytest.raises(UserError, match="a classification"):
        read([run([("1", "a", (1, 0, 0, 0, 0, 0))], "multi-label")], None)


def test_rivals_are_figures_of_the_score() -> None:
    metrics = set(score(read([run([("1", "a", (1, 0, 0, 0, 0, 0))])], None)))
    for protocol in (kinetics, ssv2):
        assert {rival.metric for rival in protocol.RIVALS} <= metrics
    assert next(r.value for r in kinetics.RIVALS if "ViT-B" in r.name and r.metric == "top-1") == 81.5
    assert next(r.value for r in ssv2.RIVALS if "ViT-S" in r.name and r.metric == "top-1") == 66.8
