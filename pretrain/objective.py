"""The masked autoencoder: hide tokens, encode what is left, rebuild what was hidden, compare.

``collate`` works on the CPU and touches no parameter (loader workers call it); ``forward`` returns sums of squared
errors, one a modality, so that the engine can divide by counts over all ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from pretrain.clips import Clip
from pretrain.config import MaskConfig, ModelConfig, OptimizerConfig
from pretrain.decoders import Decoder
from pretrain.encoder import Encoder
from pretrain.masking import decoded_tokens, hidden_tokens
from pretrain.pooling import Layout, plan
from pretrain.tokens import IMAGE_MEAN, IMAGE_STD, StreamTokenizer, Tokens, join, tokenize
from pretrain.weights import of_the_trunk

TRUNK_RATE = {"full": 1.0, "low_lr": 0.1}
STD_FLOOR = 0.1  # of the median deviation of a stream's numbers: a constant one must not blow up


@dataclass
class Batch:
    """Masked clips, packed. visible: what the encoder sees; both: visible tokens and queries, what the decoder sees.

    visible_rows [visible]: rows of ``both``; queries: rows of each modality in ``both[modality]`` that are rebuilt.
    counts: targets a modality, by which the engine divides. keys: the samples' keys.
    """

    visible: dict[str, Tokens]
    both: dict[str, Tokens]
    visible_rows: Tensor
    queries: dict[str, Tensor]
    encoder_layout: Layout
    decoder_layout: Layout
    counts: dict[str, int]
    keys: list[str]

    def to(self, device: torch.device | str) -> Batch:
        return replace(
            self,
            visible={name: part.to(device) for name, part in self.visible.items()},
            both={name: part.to(device) for name, part in self.both.items()},
            visible_rows=self.visible_rows.to(device),
            queries={name: rows.to(device) for name, rows in self.queries.items()},
            encoder_layout=self.encoder_layout.to(device),
            decoder_layout=self.decoder_layout.to(device),
        )


class MaskedAutoencoder(nn.Module):
    """Encoder and decoder with the objective of VideoMAE, for every modality."""

    def __init__(self, model: ModelConfig, mask: MaskConfig):
        super().__init__()
        self.config = model
        self.mask = mask
        self.encoder = Encoder(model)
        self.decoder = Decoder(model)

    def collate(self, clips: Sequence[Clip], seeds: Sequence[int]) -> Batch:
        """Tokens, masks and layouts of a batch; the mask of a clip follows from its seed alone."""
        hidden: dict[str, list[np.ndarray]] = {}
        tokens: dict[str, list[Tokens]] = {}
        for number, (clip, seed) in enumerate(zip(clips, seeds, strict=True)):
            rng = np.random.default_rng(seed)
            for name, part in tokenize(clip, number, self.config, self.config.modalities).items():
                covered = hidden_tokens(name, part, self.config, self.mask, rng)
                decoded = decoded_tokens(covered, self.mask.decoded, rng)
                used = np.sort(np.concatenate([np.flatnonzero(~covered), decoded]))
                tokens.setdefault(name, []).append(part.take(used))
                hidden.setdefault(name, []).append(covered[used])
        if not tokens:
            raise ValueError(
                f"no clip of the batch holds a stream to learn from: {', '.join(clip.key for clip in clips)}"
            )
        names = [name for name in self.config.modalities if name in tokens]
        return _batch(
            {name: join(tokens[name]) for name in names},
            {name: np.concatenate(hidden[name]) for name in names},
            self.config,
            [clip.key for clip in clips],
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Sum over targets of the mean squared error of a target, by modality; divide by the count over all ranks.

        Modalities that this batch lacks come as zeros that touch their parameters, so that all ranks reduce the same gradients.
        """
        # made first, so that it comes last in the backward pass
        untouched = _Last.apply(self._absent(batch), *(p for p in self.parameters() if p.requires_grad))
        predictions = self.rebuild(batch)
        losses = {}
        for name, predicted in predictions.items():
            target, valid = self.targets(name, batch)
            losses[name] = _masked_mean(torch.square(predicted.float() - target), valid).sum()
        return {name: losses[name] + untouched if name in losses else untouched for name in self.config.modalities}

    def _absent(self, batch: Batch) -> set[nn.Parameter]:
        """The parameters that a batch does not use: of streams that it lacks, and of sources that nobody reads."""
        absent: list[nn.Module | nn.Parameter] = []
        for name in set(self.config.modalities) - set(batch.both):
            absent += [self.encoder.tokenizer(name), self.decoder.heads[name], self.decoder.mask_tokens[name]]
        for trunk, layout in ((self.encoder.trunk, batch.encoder_layout), (self.decoder.trunk, batch.decoder_layout)):
            for reading in trunk.readings():
                absent += [reading] if not layout.sources else [
                    gate for source, gate in reading.gates.items() if source not in layout.sources
                ]  # fmt: skip
        absent += [self.encoder.tokenizer(name) for name in batch.both if name not in batch.visible]
        return {p for part in absent for p in ([part] if isinstance(part, nn.Parameter) else part.parameters())}

    def rebuild(self, batch: Batch) -> dict[str, Tensor]:
        """What the decoder says of the hidden tokens: modality -> [query, cell * feature]."""
        encoded = self.encoder.trunk(self.encoder.embed(batch.visible), batch.encoder_layout)
        return self.decoder(encoded, batch.visible_rows, batch.both, batch.queries, batch.decoder_layout)

    @torch.no_grad()
    def targets(self, name: str, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """What the hidden tokens hold: target [query, cell * feature], and which numbers count (None: all of them)."""
        rows = batch.queries[name]
        part = batch.both[name]
        if name == "video":
            return pixel_targets(part.values[rows], self.mask.pixel_floor), None
        tokenizer = self.encoder.tokenizer(name)
        assert isinstance(tokenizer, StreamTokenizer)
        assert part.valid is not None
        cells = tokenizer.standardised(part)[rows]
        valid = part.valid[rows][..., None].expand_as(cells)
        return cells.flatten(1), valid.flatten(1)

    @torch.no_grad()
    def fit_statistics(self, clips: Iterable[Clip]) -> None:
        """Sets mean and deviation of every stream's numbers from these clips; what a release brought along stays."""
        sums: dict[str, list[np.ndarray]] = {}
        unset = [
            name
            for name, module in self.encoder.streams.items()
            if isinstance(module, StreamTokenizer) and bool((module.std == 1).all())
        ]
        for number, clip in enumerate(clips):
            for name, part in tokenize(clip, number, self.config, unset).items():
                assert part.valid is not None
                sums.setdefault(name, []).append(part.values[part.valid].numpy().astype(np.float64))
        for name, cells in sums.items():
            values = np.concatenate(cells)
            deviation = values.std(0)
            floor = max(STD_FLOOR * float(np.median(deviation)), 1e-6)
            tokenizer = self.encoder.tokenizer(name)
            assert isinstance(tokenizer, StreamTokenizer)
            tokenizer.mean.copy_(torch.from_numpy(values.mean(0)))
            tokenizer.std.copy_(torch.from_numpy(np.maximum(deviation, floor)))

    def parameter_groups(self, config: OptimizerConfig) -> list[dict]:
        """Groups for AdamW: matrices with weight decay, vectors without, gates and the trunk at rates of their own.

        Sets ``requires_grad`` of the trunk and the video embedding to what ``config.trunk`` says.
        """
        rates = {"gates": config.gate_lr, "trunk": config.lr * TRUNK_RATE.get(config.trunk, 0.0), "rest": config.lr}
        groups: dict[str, dict[str, Any]] = {}
        for name, parameter in self.named_parameters():
            part = "rest"
            if ".gates." in name:
                part = "gates"
            elif name.startswith("encoder.") and of_the_trunk(name.removeprefix("encoder.")):
                part = "trunk"
                parameter.requires_grad_(config.trunk != "frozen")
            if parameter.requires_grad:
                decay = config.weight_decay if parameter.ndim > 1 else 0.0
                kind = f"{part} {'matrices' if parameter.ndim > 1 else 'vectors'}"
                group = {"name": kind, "params": [], "lr": rates[part], "weight_decay": decay}
                groups.setdefault(kind, group)["params"].append(parameter)
        return list(groups.values())


class _Last(torch.autograd.Function):
    """Zero that depends on all parameters: their gradients are ready when this one is, which comes last.

    So they are ready in the same order on all ranks, whatever streams their clips have (ZeRO 2 fills its buckets in that
    order and would add up different weights); and a parameter that the batch does not use has a gradient, zero.
    """

    @staticmethod
    def forward(ctx: Any, absent: set[nn.Parameter], *parameters: nn.Parameter) -> Tensor:
        ctx.absent, ctx.parameters = absent, parameters
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(torch.zeros_like(p) if p in ctx.absent else None for p in ctx.parameters)


def _batch(both: dict[str, Tokens], hidden: dict[str, np.ndarray], config: ModelConfig, keys: list[str]) -> Batch:
    """Everything that the two passes need, from the used tokens and which of them are hidden."""
    visible = {name: part.take(np.flatnonzero(~hidden[name])) for name, part in both.items()}
    return Batch(
        visible=visible,
        both=both,
        visible_rows=torch.from_numpy(np.flatnonzero(~np.concatenate(list(hidden.values())))),
        queries={name: torch.from_numpy(np.flatnonzero(rows)) for name, rows in hidden.items()},
        encoder_layout=plan(visible, config),
        decoder_layout=plan(both, config, {name: ~rows for name, rows in hidden.items()}),
        counts={name: int(rows.sum()) for name, rows in hidden.items()},
        keys=keys,
    )


def pixel_targets(tubelets: Tensor, floor: float) -> Tensor:
    """Tubelets normalised by their own mean and deviation, a channel at a time (VideoMAE, norm_pix_loss).

    tubelets [token, (channel frame row column)], uint8 or normalised float -> [token, (frame row column channel)], as VideoMAE's
    decoder writes them.
    """
    pixels = rearrange(tubelets, "token (channel pixel) -> token channel pixel", channel=3)
    if pixels.dtype == torch.uint8:
        pixels = pixels.float() / 255
    else:
        std, mean = (pixels.new_tensor(values)[:, None] for values in (IMAGE_STD, IMAGE_MEAN))
        pixels = pixels * std + mean
    var, mean = torch.var_mean(
        pixels, -1, keepdim=True
    )  # before numbers are put in VideoMAE's order: four times faster
    normed = pixels.sub_(mean).div_(var.sqrt_().add_(floor))
    return rearrange(normed, "token channel pixel -> token (pixel channel)")


def _masked_mean(errors: Tensor, valid: Tensor | None) -> Tensor:
    """errors [query, number] -> mean over the numbers that are there [query]."""
    if valid is None:
        return errors.mean(1)
    return (errors * valid).sum(1) / valid.sum(1).clamp(min=1)
