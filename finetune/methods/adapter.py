"""Method ``adapter``: a bottleneck beside the MLP of every block (AdaptFormer, arXiv 2205.13535, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from finetune.config import AdapterConfig
from finetune.swin import SwinBlock
from pretrain.encoder import Encoder
from pretrain.trunk import Block


class Adapter(nn.Module):
    """scale * up(relu(down(x))); ``up`` starts at zero, so that at step 0 the encoder does what it did."""

    def __init__(self, dim: int, width: int, scale: float):
        super().__init__()
        self.scale = scale
        self.down = nn.Linear(dim, width)
        self.up = nn.Linear(width, dim)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [token, dim], what the MLP reads -> [token, dim], what is added to the MLP's output."""
        return self.scale * self.up(torch.relu(self.down(x)))


def install(encoder: Encoder, config: AdapterConfig) -> None:
    """Puts fresh adapters into all blocks, drawn from torch's generator."""
    for block in encoder.trunk.blocks:
        assert isinstance(block, (Block, SwinBlock))
        dim = block.mlp.fc1.in_features  # a Swin's blocks differ in it
        block.adapter = Adapter(dim, config.width or max(dim // 12, 1), config.scale).to(encoder.device)
