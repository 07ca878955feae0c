"""Method ``prompt``: learned tokens that every block reads beside its own (VPT-deep, arXiv 2203.12119, section 3.2)."""

from __future__ import annotations

import math

import torch
from torch import nn

from finetune.config import PromptConfig
from finetune.swin import SwinBlock
from pretrain.encoder import Encoder
from pretrain.trunk import Block


def install(encoder: Encoder, config: PromptConfig) -> None:
    """Puts fresh prompts [prompts, dim] into all blocks, drawn from torch's generator as in the paper's code."""
    for block in encoder.trunk.blocks:
        assert isinstance(block, (Block, SwinBlock))
        dim = block.mlp.fc1.in_features  # a Swin's blocks differ in it
        bound = math.sqrt(6 / (3 * encoder.config.patch**2 + dim))
        values = torch.empty(config.count, dim).uniform_(-bound, bound)
        block.attn.prompt = nn.Parameter(values.to(encoder.device))
