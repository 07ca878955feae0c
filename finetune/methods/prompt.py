"""Method ``prompt``: learned tokens beside a block's own (VPT, arXiv 2203.12119, section 3.2).

Deep: every block has its own. Shallow: one set enters before the first block, once for each block of the packed sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from finetune.config import PromptConfig
from finetune.swin import SwinBlock
from pretrain.encoder import Encoder
from pretrain.trunk import Block


def install(encoder: Encoder, blocks: Sequence[Block | SwinBlock], config: PromptConfig) -> None:
    """Puts fresh prompts [prompts, dim] into blocks or before them, drawn from torch's generator as in the paper's code."""
    for block in blocks[:1] if config.depth == "shallow" else blocks:
        dim = block.mlp.fc1.in_features  # a Swin's blocks differ in it
        bound = math.sqrt(6 / (3 * encoder.config.patch**2 + dim))
        values = torch.empty(config.count, dim).uniform_(-bound, bound)
        into = encoder.trunk if config.depth == "shallow" else block.attn
        into.prompt = nn.Parameter(values.to(encoder.device))
