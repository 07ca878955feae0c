"""Method ``cross``: low-rank cross-attention towards other streams beside a block's own (after CM3T, WACV 2025).

It is the trunk's gated branch at a width of ``rank``: the same pooled rows, times and sources. Here the gates start open and the
output projection at zero: at step 0 the encoder does what it did, and the projection has a gradient at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from configs import UserError
from finetune.config import CrossConfig
from finetune.swin import SwinBlock
from pretrain.encoder import Encoder
from pretrain.trunk import Block, GatedReading

HEAD = 16  # width of a head


def install(encoder: Encoder, blocks: Sequence[Block | SwinBlock], config: CrossConfig) -> None:
    """Puts fresh branches into blocks, drawn from torch's generator. Raises UserError for a stream that the encoder lacks."""
    read = encoder.modalities if config.streams is None else config.streams
    if unknown := [name for name in read if name not in encoder.modalities]:
        raise UserError(
            f"cross.streams: this encoder knows no {unknown[0]!r}; it reads {', '.join(encoder.modalities)}"
        )
    for block in blocks:
        assert isinstance(block, Block)  # a Swin reads no other stream
        sources = [source for source in block.reading.gates if source.rpartition("_")[0] in read]
        branch = GatedReading(encoder.config.dim, config.rank // HEAD, sources, "mean", width=config.rank)
        branch.start_near()
        nn.init.zeros_(branch.proj.weight)
        for gate in branch.gates.values():
            nn.init.ones_(gate)
        block.cross = branch.to(encoder.device)
