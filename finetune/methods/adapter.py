"""Method ``adapter``: a bottleneck beside the MLP of a block (AdaptFormer, arXiv 2205.13535, section 3.2).

With ``temporal``, the bottleneck looks one step back and ahead at its place (ST-Adapter, arXiv 2206.13559, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finetune.config import AdapterConfig
from finetune.swin import SwinBlock
from pretrain.encoder import Encoder
from pretrain.pooling import Tracks
from pretrain.trunk import Block


class Adapter(nn.Module):
    """scale * up(relu(down(x))); ``up`` starts at zero, so that at step 0 the encoder does what it did."""

    def __init__(self, dim: int, width: int, scale: float, temporal: bool):
        super().__init__()
        self.scale = scale
        self.down = nn.Linear(dim, width)
        self.time = DepthwiseTime(width) if temporal else None
        self.up = nn.Linear(width, dim)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, tracks: Tracks | None = None) -> Tensor:
        """x [..., dim], what the MLP reads -> [..., dim], what is added to its output; tracks: needed where time is looked at."""
        x = self.down(x)
        x = x if self.time is None else self.time(x, tracks)
        return self.scale * self.up(torch.relu(x))


class DepthwiseTime(nn.Module):
    """A convolution of three steps a channel along the tokens of one place of a block, zeros beyond; starts as the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.0, 1.0, 0.0])[:, None].repeat(1, width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, tracks: Tracks) -> Tensor:
        """x [token, width] -> [token, width]"""
        before, after = tracks.neighbours(x.device)
        padded = torch.cat([x, x.new_zeros(1, x.shape[1])])
        return padded[before] * self.weight[0] + x * self.weight[1] + padded[after] * self.weight[2] + self.bias


def install(encoder: Encoder, blocks: Sequence[Block | SwinBlock], config: AdapterConfig) -> None:
    """Puts fresh adapters into blocks, drawn from torch's generator."""
    for block in blocks:
        dim = block.mlp.fc1.in_features  # a Swin's blocks differ in it
        made = Adapter(dim, config.width or max(dim // 12, 1), config.scale, config.temporal)
        block.adapter = made.to(encoder.device)
