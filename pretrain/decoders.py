"""The light decoder: visible tokens and queries for hidden ones -> the hidden tokens' contents.

VideoMAE's decoder (a narrow trunk over visible tokens and mask tokens of a segment), with the same gated branch as the
encoder, so that a stream can be rebuilt from the others. Its parameters for video are VideoMAE's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pretrain.config import ModelConfig
from pretrain.pooling import Layout
from pretrain.tokens import Tokens, position_codes
from pretrain.trunk import Trunk, initialise


class Decoder(nn.Module):
    """One narrow trunk for all modalities; a mask token and a head for each.

    video: how many numbers a video token is rebuilt as, where they are not its pixels.
    """

    def __init__(self, config: ModelConfig, video: int | None = None):
        super().__init__()
        self.base = config.base
        width = config.decoder_dim
        outputs = {name: s.cells_per_token * s.features for name, s in config.streams.items()}
        outputs = {"video": video or 3 * config.tubelet * config.patch**2, **outputs}
        self.from_encoder = nn.Linear(config.dim, width, bias=False)
        self.mask_tokens = nn.ParameterDict({name: nn.Parameter(torch.zeros(width)) for name in outputs})
        self.trunk = Trunk(
            width,
            config.decoder_layers,
            config.decoder_heads,
            4 * width,
            config.modalities,
            eps=config.layer_norm_eps,
            qv_bias=config.qv_bias,
            final_norm_eps=1e-5,  # Hugging Face's decoder norm keeps PyTorch's default, whatever the layers have
            pooling=config.pooling,
        )
        self.heads = nn.ModuleDict({name: nn.Linear(width, size) for name, size in outputs.items()})
        for token in self.mask_tokens.values():
            nn.init.normal_(token, std=0.02)
        self.from_encoder.apply(initialise)
        self.heads.apply(initialise)

    def forward(
        self, encoded: Tensor, visible: Tensor, tokens: dict[str, Tokens], queries: dict[str, Tensor], layout: Layout
    ) -> dict[str, Tensor]:
        """Contents of the hidden tokens by modality, [query, cell * feature].

        encoded [visible, dim]: the encoder's output. tokens: visible tokens and queries, packed as ``layout`` says.
        visible [visible]: their rows in that packing, in the encoder's order. queries: rows of each modality's queries.
        """
        width = self.from_encoder.out_features
        parts = []
        for name, part in tokens.items():
            code = position_codes(part, self.base if name == "video" else None, width).to(encoded.dtype)
            parts.append(
                code.index_add(0, queries[name], self.mask_tokens[name].expand(len(queries[name]), -1).to(code.dtype))
            )
        x = torch.cat(parts).index_add(0, visible, self.from_encoder(encoded).to(encoded.dtype))
        x = self.trunk(x, layout)
        starts = torch.tensor([0] + [len(part) for part in tokens.values()]).cumsum(0).tolist()
        return {name: self.heads[name](x[start + queries[name]]) for name, start in zip(tokens, starts, strict=False)}
