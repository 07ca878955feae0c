"""Method ``prefix``: learned keys and values that a block reads beside its own (prefix tuning, arXiv 2101.00190, section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from finetune.config import PrefixConfig
from finetune.swin import SwinBlock
from pretrain.encoder import Encoder
from pretrain.trunk import Block

SPREAD = (
    0.02  # of the values at the start: as transformers draws weights; small keys take an even share of the attention
)


def install(encoder: Encoder, blocks: Sequence[Block | SwinBlock], config: PrefixConfig) -> None:
    """Puts fresh keys and values [2, prefixes, dim] into blocks, drawn from torch's generator."""
    for block in blocks:
        values = SPREAD * torch.randn(2, config.count, block.mlp.fc1.in_features)  # a Swin's blocks differ in it
        block.attn.prefix = nn.Parameter(values.to(encoder.device))
