"""Files of Video Swin weights -> a SwinEncoder that computes what they computed: a renaming, no number is changed.

- original: the Video-Swin-Transformer repository (mmaction), names under ``backbone.`` beside a ``cls_head.``; mmaction2 calls
  the last norm ``norm3``;
- torchvision's ``swin3d_t``, ``swin3d_s``, ``swin3d_b``: ``features.N`` are stages and what merges patches, in turn.

Sizes are deduced from shapes. What no shape tells, frames a second and the size of the picture, is SwinConfig's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs import UserError
from finetune.config import SwinConfig
from finetune.swin import Size, SwinSizes, relative_index
from finetune.swin_encoder import SwinEncoder
from pretrain.weights import FILES, parameters_of, read_file

TABLE, INDEX = ".relative_position_bias_table", ".relative_position_index"
FIRST = "patch_embed.proj.weight"
REST = ("head.", "cls_head.")  # the classifier
USUAL_SIDE = 7  # of a window, in every published checkpoint


def read_swin(path: Path, reading: SwinConfig) -> SwinEncoder | None:
    """The encoder of a file of Video Swin weights, in eval mode; None for a file that holds no Swin. Raises UserError."""
    if not path.is_file() or path.suffix not in FILES:
        return None
    theirs = parameters_of(read_file(path))
    if not any(name.endswith(TABLE) for name in theirs):
        return None
    try:
        weights, indices = renamed(theirs)
        encoder = SwinEncoder(sizes(weights, indices), reading)
        encoder.trunk.load_state_dict(weights)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{path}: no Video Swin that can be read: {' '.join(str(error).split())[:300]}") from None
    return encoder.eval()


def renamed(theirs: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Parameters by SwinTrunk's names, and the saved indices into the bias tables. Raises ValueError."""
    prefixes = [name.removesuffix(FIRST) for name in theirs if name.endswith(FIRST)]
    if len(prefixes) != 1:
        raise ValueError(f"{len(prefixes)} parameters are called {FIRST}, not one")
    inside = {n.removeprefix(prefixes[0]): value for n, value in theirs.items() if n.startswith(prefixes[0])}
    indices = [value for name, value in inside.items() if name.endswith(INDEX)]
    kept = {n: v for n, v in inside.items() if not n.startswith(REST) and not n.endswith((INDEX, ".attn_mask"))}
    return {_our_name(name): value for name, value in kept.items()}, indices


def _our_name(name: str) -> str:
    name = re.sub(r"^norm3\.", "norm.", name)
    found = re.fullmatch(r"features\.(\d+)\.(.+)", name)
    if found is None:
        return name
    stage, rest = divmod(int(found[1]), 2)[0], found[2]
    if int(found[1]) % 2:
        return f"layers.{stage}.downsample.{rest}"
    return f"layers.{stage}.blocks.{rest}".replace(".mlp.0.", ".mlp.fc1.").replace(".mlp.3.", ".mlp.fc2.")


def sizes(weights: Mapping[str, Tensor], indices: list[Tensor]) -> SwinSizes:
    """What the shapes of parameters, by our names, tell. Raises ValueError for what is no Video Swin."""
    shape = weights[FIRST].shape
    if len(shape) != 5 or shape[1] != 3:
        raise ValueError(f"its patches are {list(shape[1:])}, not [3, time, height, width]: is this a Swin of images?")
    blocks = [found for name in weights if (found := re.fullmatch(rf"layers\.(\d+)\.blocks\.(\d+)\.attn{TABLE}", name))]
    stages = sorted({int(block[1]) for block in blocks})
    tables = [weights.get(f"layers.{stage}.blocks.0.attn{TABLE}") for stage in range(len(stages))]
    hidden = weights.get("layers.0.blocks.0.mlp.fc1.weight")
    if hidden is None or not stages or any(table is None for table in tables):
        raise ValueError("stages or blocks are missing in it")
    heads = [table.shape[1] for table in tables if table is not None]
    assert tables[0] is not None
    return SwinSizes(
        dim=shape[0],
        depths=tuple(sum(int(block[1]) == stage for block in blocks) for stage in stages),
        heads=tuple(heads),
        mlp_ratio=hidden.shape[0] / hidden.shape[1],
        patch=(shape[2], shape[3], shape[4]),
        window=window_of(len(tables[0]), indices[0] if indices else None),
    )


def window_of(rows: int, index: Tensor | None) -> Size:
    """The window that a bias table of so many rows belongs to. index [token, token]: the saved one, which leaves no doubt.

    Raises ValueError where there is none, or several windows are possible.
    """
    if index is None:
        time, left = divmod(rows, (2 * USUAL_SIDE - 1) ** 2)
        if left or time % 2 == 0:
            raise ValueError(f"a bias table has {rows} rows, and no relative_position_index tells its window's shape")
        return (time + 1) // 2, USUAL_SIDE, USUAL_SIDE
    tokens = len(index)
    for time in _divisors(tokens):
        for height in _divisors(tokens // time):
            window = (time, height, tokens // time // height)
            if (2 * time - 1) * (2 * height - 1) * (2 * window[2] - 1) == rows:
                own = relative_index(window)
                if own.shape == index.shape and torch.equal(own, index.to(own)):
                    return window
    raise ValueError(f"its relative_position_index fits no window of {tokens} tokens with a bias table of {rows} rows")


def _divisors(number: int) -> list[int]:
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]
