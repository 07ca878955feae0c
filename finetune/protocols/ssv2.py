"""Something-Something v2: the class of a video, top-1 and top-5 (video_classes.py); VideoMAE's own figures."""

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
        ALLOWED.format("2 segments x 3 crops, 16 frames each over the whole video"),
        split="validation",
    )
    for size, top1, top5 in (("ViT-S", 66.8, 90.3), ("ViT-B", 70.8, 92.4))
    for metric, value in (("top-1", top1), ("top-5", top5))
)
