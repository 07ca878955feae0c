"""Small Video Swins of torchvision with every parameter redrawn, and their weights as the original repository names them."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.models.video.swin_transformer import SwinTransformer3d

SMALL = {"patch_size": [2, 4, 4], "embed_dim": 24, "num_heads": [1, 2, 4, 8], "num_classes": 5}


def torchvision_swin(depths=(1, 1, 1, 1), window=(8, 7, 7), **changes) -> SwinTransformer3d:
    """In eval mode, always the same numbers; nothing is left at 0 or 1, where a wrong name would not show."""
    torch.manual_seed(0)
    model = SwinTransformer3d(**{**SMALL, "depths": list(depths), "window_size": list(window), **changes})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.5 if parameter.ndim == 1 or name.endswith("table") else 1.5 * parameter[0].numel() ** -0.5
            parameter.normal_(float("norm" in name and name.endswith("weight")), spread)
    return model.eval().requires_grad_(False)


def features(model: SwinTransformer3d, video: Tensor) -> Tensor:
    """What torchvision's model pools: video [channel, frame, height, width] -> [time, row, column, dim]."""
    return model.norm(model.features(model.patch_embed(video[None])))[0]


def original_names(model: SwinTransformer3d) -> dict[str, Tensor]:
    """The parameters and buffers as a Recognizer3D of the original repository saves them."""
    theirs = OrderedDict()
    for name, value in model.state_dict().items():
        if name.startswith("head."):
            theirs[name.replace("head.", "cls_head.fc_cls.")] = value
            continue
        if found := re.match(r"features\.(\d+)\.", name):
            layer, merging = divmod(int(found[1]), 2)
            name = name.replace(found[0], f"layers.{layer}." + ("downsample." if merging else "blocks."))
        theirs["backbone." + name.replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")] = value
    return theirs


def save_original(model: SwinTransformer3d, path: Path) -> Path:
    """A checkpoint as mmcv writes it while it evaluates: numpy's numbers lie in its notes."""
    notes = {"epoch": 30, "time": "now", "hook_msgs": {"best_score": np.float64(0.5), "best_ckpt": "epoch_29.pth"}}
    torch.save({"meta": notes, "state_dict": original_names(model), "optimizer": {"state": {}}}, path)
    return path
