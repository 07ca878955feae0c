"""Method ``prompt``: learned tokens that every block reads beside its own (VPT-deep, arXiv 2203.12119, section 3.2)."""

from __future__ import annotations

import math

import torch
from torch import nn

from finetune.config import PromptConfig
from pretrain.encoder import Encoder
from pretrain.trunk import Block


def install(encoder: Encoder, config: PromptConfig) -> None:
    """Puts fresh prompts [prompts, dim] into all blocks, drawn from torch's generator as in the paper's code."""
    model = encoder.config
    bound = math.sqrt(6 / (3 * model.patch**2 + model.dim))
    for block in encoder.trunk.blocks:
        assert isinstance(block, Block)
        values = torch.empty(config.count, model.dim).uniform_(-bound, bound)
        block.attn.prompt = nn.Parameter(values.to(encoder.device))
