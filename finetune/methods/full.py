"""Method ``full``: every weight of the encoder, the lower a block the slower (as VideoMAE is fine-tuned)."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from finetune.config import FullConfig
from pretrain.encoder import Encoder

_RELEASED: WeakKeyDictionary[Encoder, dict[str, Tensor]] = WeakKeyDictionary()


def install(encoder: Encoder) -> None:
    """Sets all weights free; what they were is kept in memory."""
    _RELEASED[encoder] = {name: weight.detach().clone() for name, weight in encoder.named_parameters()}
    encoder.requires_grad_(True)


@torch.no_grad()
def restore(encoder: Encoder) -> None:
    """Puts the released weights back, where ``install`` was called."""
    for name, value in _RELEASED.pop(encoder, {}).items():
        encoder.get_parameter(name).copy_(value)


def rates(encoder: Encoder, config: FullConfig) -> list[dict]:
    """Parameter groups of AdamW: the last block and what is above it at ``config.lr``, each block below times the decay.

    Layer-wise decay: BEiT, arXiv 2106.08254. What stands between two blocks goes with the lower one; tokenizers are the lowest.
    """
    blocks = list(encoder.trunk.blocks)
    depth_of = {weight: depth for depth, block in enumerate(blocks) for weight in block.parameters()}
    groups: dict[int, list[nn.Parameter]] = {}
    depth = -1
    for weight in encoder.parameters():  # in the order that they work in
        depth = depth_of.get(weight, depth)
        groups.setdefault(len(blocks) - 1 - depth, []).append(weight)
    return [{"params": group, "lr": config.lr * config.layer_decay**below} for below, group in groups.items()]
