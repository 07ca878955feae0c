"""The settings of the commands that score by a public data set's own rule; nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune.config import Device

Protocol = Literal[
    "udiva",
    "epic-kitchens",
    "ssv2",
    "kinetics",
    "multimediate-engagement",
    "multimediate-bodily-behaviour",
    "multimediate-next-speaker",
    "multimediate-eye-contact",
    "multimediate-backchannel",
]


@dataclass
class ScoreConfig:
    """Runs of ``finetune run`` -> the official figures of a data set, beside the literature's."""

    set: Protocol
    """the data set whose rule is followed"""
    runs: list[Path]
    """folders that finetune run wrote, one a target (docs/data_sets.md says which the set needs)"""
    out: Path = Path("score")
    """folder for score.html, scores.csv and, where the organisers take one, the submission"""
    annotations: Path | None = None
    """folder of the set's own annotation files, where its rule needs them"""


@dataclass
class MultiviewConfig:
    """A published fine-tuned VideoMAE, head included -> its figures on the views that VideoMAE's own table is made of."""

    set: Literal["kinetics", "ssv2"]
    """whose views: kinetics: 5 segments of every fourth frame x 3 crops; ssv2: 2 segments over the whole video x 3 crops"""
    manifest: Path
    """manifest that manifest kinetics or manifest ssv2 wrote; nothing is built of it, files are read as they are"""
    labels: Path
    """labels that the same command wrote: recording, action, class_number"""
    encoder: Path
    """the fine-tuned VideoMAE: a Hugging Face folder or a .pth of the original repository"""
    out: Path = Path("multiview")
    """folder for predictions.csv, scores.csv and score.html"""
    split: str = "test_validation"
    """which videos of the manifest"""
    segments: int | None = None
    """other number of views in time; empty = the set's"""
    crops: int = 3
    """views in space, along the longer side; 1 = the middle"""
    workers: int = 1
    """processes that read and decode videos; 0 = none beside this one"""
    device: Device = "auto"
    """auto = the GPU where there is one"""

    def __post_init__(self) -> None:
        if self.crops < 1 or self.workers < 0 or (self.segments is not None and self.segments < 1):
            raise ValueError("segments and crops must be 1 or more, workers 0 or more")
        if self.set == "ssv2" and (self.segments or 2) > 2:
            raise ValueError(f"segments: {self.segments}: frames over the whole video give two segments at most")
