"""Kinetics: the class of a clip, top-1 and top-5 (video_classes.py); VideoMAE's own figures."""

from __future__ import annotations

from finetune.protocols.rivals import Rival
from finetune.protocols.video_classes import ALLOWED, RULE, read, score

__all__ = ["RIVALS", "RULE", "read", "score"]

RIVALS = tuple(
    Rival(
        f"VideoMAE {size}, no extra data",
        metric,
        value,
        "MCG-NJU/VideoMAE, MODEL_ZOO.md",
        ALLOWED.format("5 segments x 3 crops, 16 frames each, every fourth one"),
        split="K400 validation",
    )
    for size, top1, top5 in (("ViT-S", 79.0, 93.8), ("ViT-B", 81.5, 95.1), ("ViT-L", 85.2, 96.8), ("ViT-H", 86.6, 97.1))
    for metric, value in (("top-1", top1), ("top-5", top5))
)
