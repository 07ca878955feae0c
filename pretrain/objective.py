"""The masked autoencoder: hide tokens, encode what is left, rebuild what was hidden, compare.

``collate`` works on the CPU and touches no parameter (loader workers call it); ``forward`` returns sums of errors, one a
modality, so that the engine can divide by counts over all ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import mse_loss, smooth_l1_loss

from pretrain.clips import Clip
from pretrain.config import KINDS, MaskConfig, ModelConfig, OptimizerConfig, loss_names
from pretrain.decoders import Decoder
from pretrain.encoder import Encoder
from pretrain.masking import NOT_REBUILT, Mask, draw_mask
from pretrain.motion import Motion, Still, join_stills, still_of
from pretrain.pooling import Layout, plan
from pretrain.teacher import Lesson, Teacher
from pretrain.tokens import IMAGE_MEAN, IMAGE_STD, SCENE, StreamTokenizer, Tokens, join, tokenize
from pretrain.weights import of_the_trunk

TRUNK_RATE = {"full": 1.0, "low_lr": 0.1}
STD_FLOOR = 0.1  # of the median deviation of a stream's numbers: a constant one must not blow up


@dataclass
class Batch:
    """Masked clips, packed. visible: what the encoder sees; both: visible tokens and queries, what the decoder sees.

    visible_rows [visible]: rows of ``both``; queries: rows of each modality in ``both[modality]`` that are rebuilt;
    kinds: for which kind of masking, int64 [query], numbers in KINDS. stills: means over time of the queries' clips, for
    the target "motion" alone. lessons: what the teacher is asked, for the target "teacher" alone, in the order of video's
    queries. counts: targets a modality, by which the engine divides, and of each kind of them, "<kind>/<modality>".
    keys: the samples' keys.
    """

    visible: dict[str, Tokens]
    both: dict[str, Tokens]
    visible_rows: Tensor
    queries: dict[str, Tensor]
    kinds: dict[str, Tensor]
    stills: dict[str, Still]
    lessons: list[Lesson]
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
            kinds={name: kinds.to(device) for name, kinds in self.kinds.items()},
            stills={name: still.to(device) for name, still in self.stills.items()},
            lessons=[lesson.to(device) for lesson in self.lessons],
            encoder_layout=self.encoder_layout.to(device),
            decoder_layout=self.decoder_layout.to(device),
        )


@dataclass
class Used:
    """The tokens of a modality of a clip that are seen or rebuilt; the kind that each is rebuilt for, or NOT_REBUILT where it is
    seen; of those that are rebuilt, what the targets motion and teacher need."""

    tokens: Tokens
    kinds: np.ndarray
    still: Still | None
    lesson: Lesson | None


class MaskedAutoencoder(nn.Module):
    """Encoder and decoder with the objective of VideoMAE, for every modality.

    teacher: who is asked for the target "teacher". It is no part of the weights, and nothing is learnt through it.
    """

    def __init__(self, model: ModelConfig, mask: MaskConfig, teacher: Teacher | None = None):
        super().__init__()
        if (teacher is None) != (mask.target != "teacher"):
            raise ValueError(f"mask.target {mask.target} and {'no' if teacher is None else 'a'} teacher given")
        self.config = model
        self.mask = mask
        self.encoder = Encoder(model)
        self.decoder = Decoder(model, teacher.dim if teacher else None)
        self.motion = Motion(model) if mask.target == "motion" else None
        self.teacher = teacher

    def collate(self, clips: Sequence[Clip], seeds: Sequence[int]) -> Batch:
        """Tokens, masks and layouts of a batch; the mask of a clip follows from its seed alone."""
        used = []
        for number, (clip, seed) in enumerate(zip(clips, seeds, strict=True)):
            tokens = tokenize(clip, number, self.config, self.config.modalities)
            used.append(self.used(clip.key, tokens, draw_mask(clip, tokens, self.config, self.mask, seed)))
        return self.pack(used, [clip.key for clip in clips])

    def used(self, key: str, tokens: dict[str, Tokens], drawn: Mask) -> dict[str, Used]:
        """What is used of a clip's tokens under a mask, by modality; ``key``: the sample's."""
        found = {}
        for name, part in tokens.items():
            rebuilt = drawn.rebuilt[name]
            asked = np.flatnonzero(rebuilt != NOT_REBUILT)
            used = np.flatnonzero(~drawn.hidden[name] | (rebuilt != NOT_REBUILT))
            still, lesson = None, None
            if self.motion is not None:
                still = still_of(part, self.config).take(torch.from_numpy(asked))
            if self.teacher is not None and name == "video" and len(asked):
                lesson = self.teacher.lesson(key, part, asked)
            if name == "audio" and drawn.unnamed is not None:
                part = replace(part, person=np.where(drawn.unnamed, SCENE, part.person))
            if len(used):
                found[name] = Used(part.take(used), rebuilt[used], still, lesson)
        return found

    def pack(self, clips: Sequence[dict[str, Used]], keys: list[str]) -> Batch:
        """A batch of what is used of each clip."""
        found = {name: [clip[name] for clip in clips if name in clip] for name in self.config.modalities}
        found = {name: used for name, used in found.items() if used}
        if not found:
            raise ValueError(f"no clip of the batch holds a stream to learn from: {', '.join(keys)}")
        return _batch(found, self.config, keys)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Sum over targets of the mean error of a target, by modality; divide by the count over all ranks.

        Modalities that this batch lacks come as zeros that touch their parameters, so that all ranks reduce the same gradients.
        Where there are several kinds of masking, the part of each in these sums stands beside them, "<kind>/<modality>"
        (``loss_names`` lists all).
        """
        # made first, so that it comes last in the backward pass
        untouched = _Last.apply(self._absent(batch), *(p for p in self.parameters() if p.requires_grad))
        predictions = self.rebuild(batch)
        losses = dict.fromkeys(self.config.modalities, untouched)
        parts = {name: untouched for name in loss_names(self.config, self.mask) if name not in losses}
        for name, predicted in predictions.items():
            errors = self.errors(name, batch, predicted)
            losses[name] = errors.sum() + untouched
            for number, kind in enumerate(KINDS):
                if (label := f"{kind}/{name}") in parts:
                    parts[label] = (errors * (batch.kinds[name] == number)).sum() + untouched
        return losses | parts

    def errors(self, name: str, batch: Batch, predicted: Tensor) -> Tensor:
        """The mean error of each target of a modality, [query]: squared, or of the teacher's features smooth L1 (data2vec);
        of a tubelet, times its weight."""
        target, valid, weight = self.targets(name, batch)
        if name == "video" and self.teacher is not None:
            return smooth_l1_loss(predicted.float(), target, reduction="none").mean(1)
        errors = _masked_mean(mse_loss(predicted.to(target.dtype), target, reduction="none"), valid)
        return errors if weight is None else errors * weight

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
    def targets(self, name: str, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What is to be rebuilt: targets [query, cell * feature], which of their numbers count, and the weight [query] of each
        target (None: all of them, and all the same)."""
        rows = batch.queries[name]
        part = batch.both[name]
        valid = None
        if part.valid is not None:
            valid = _rows(part, rows).there().flatten(1)
        if self.motion is not None:
            target, weight = self.motion.targets(name, _rows(part, rows), batch.stills[name])
            return target, valid, weight
        if name == "video" and self.teacher is not None:
            return self.teacher.targets(batch.lessons, part.values.device), None, None
        if name == "video":
            return pixel_targets(part.values[rows], self.mask.pixel_floor, self.encoder.video.weight.dtype), None, None
        tokenizer = self.encoder.tokenizer(name)
        assert isinstance(tokenizer, StreamTokenizer)
        return tokenizer.standardised(part)[rows].flatten(1), valid, None

    @torch.no_grad()
    def fit_statistics(self, clips: Iterable[Clip]) -> None:
        """Sets mean and deviation of every stream's numbers from these clips; what a release brought along stays."""
        clips = list(clips)
        if self.motion is not None:
            self.motion.fit(clips)
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
            mean, deviation = moments(np.concatenate(cells))
            tokenizer = self.encoder.tokenizer(name)
            assert isinstance(tokenizer, StreamTokenizer)
            tokenizer.mean.copy_(torch.from_numpy(mean))
            tokenizer.std.copy_(torch.from_numpy(deviation))

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


def _batch(used: dict[str, list[Used]], config: ModelConfig, keys: list[str]) -> Batch:
    """Everything that the two passes need, from what is used of each clip."""
    both = {name: join([one.tokens for one in clips]) for name, clips in used.items()}
    kinds = {name: np.concatenate([one.kinds for one in clips]) for name, clips in used.items()}
    stills = {name: [one.still for one in clips if one.still] for name, clips in used.items()}
    hidden = {name: numbers != NOT_REBUILT for name, numbers in kinds.items()}
    visible = {name: part.take(np.flatnonzero(~hidden[name])) for name, part in both.items()}
    counts = {name: int(rows.sum()) for name, rows in hidden.items()}
    parts = {f"{kind}/{name}": int((kinds[name] == n).sum()) for n, kind in enumerate(KINDS) for name in both}
    return Batch(
        visible=visible,
        both=both,
        visible_rows=torch.from_numpy(np.flatnonzero(~np.concatenate(list(hidden.values())))),
        queries={name: torch.from_numpy(np.flatnonzero(rows)) for name, rows in hidden.items()},
        kinds={name: torch.from_numpy(kinds[name][rows]) for name, rows in hidden.items()},
        stills={name: join_stills(parts) for name, parts in stills.items() if parts},
        lessons=[one.lesson for one in used.get("video", ()) if one.lesson],
        encoder_layout=plan(visible, config),
        decoder_layout=plan(both, config, {name: ~rows for name, rows in hidden.items()}),
        counts=counts | parts,
        keys=keys,
    )


def _rows(part: Tokens, rows: Tensor) -> Tokens:
    """The contents of some tokens, on their device; what else is known of them is left as it is."""
    return replace(part, values=part.values[rows], valid=None if part.valid is None else part.valid[rows])


def pixel_targets(tubelets: Tensor, floor: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Tubelets normalised by their own mean and deviation, a channel at a time (VideoMAE, norm_pix_loss).

    tubelets [token, (channel frame row column)], uint8 or normalised float -> [token, (frame row column channel)], as VideoMAE's
    decoder writes them; bytes become numbers of ``dtype``.
    """
    pixels, white = rearrange(tubelets, "token (channel pixel) -> token channel pixel", channel=3), 1
    if pixels.dtype == torch.uint8:
        pixels, white = pixels.to(dtype), 255  # whole numbers, so that a constant has a mean that is exact
    else:
        std, mean = (pixels.new_tensor(values)[:, None] for values in (IMAGE_STD, IMAGE_MEAN))
        pixels = pixels * std + mean
    # in place, by a mean and a norm (var_mean is ten times slower), and before numbers are put in VideoMAE's order
    pixels.sub_(pixels.mean(-1, keepdim=True))
    deviation = torch.linalg.vector_norm(pixels, dim=-1, keepdim=True) / (pixels.shape[-1] - 1) ** 0.5
    normed = pixels.div_(deviation.add_(white * floor))
    return rearrange(normed, "token channel pixel -> token (pixel channel)")


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation [feature] of a stream's numbers, values [cell, feature] with nan for absent ones; 0 and 1 of a number
    that is never there."""
    seen = ~np.isnan(values)
    count = np.maximum(seen.sum(0), 1)
    mean = np.where(seen, values, 0).sum(0) / count
    deviation = np.sqrt((np.where(seen, values - mean, 0) ** 2).sum(0) / count)
    floor = max(STD_FLOOR * float(np.median(deviation[seen.any(0)])), 1e-6)
    return mean, np.where(seen.any(0), np.maximum(deviation, floor), 1.0)


def _masked_mean(errors: Tensor, valid: Tensor | None) -> Tensor:
    """errors [query, number] -> mean over the numbers that are there [query]."""
    if valid is None:
        return errors.mean(1)
    return (errors * valid).sum(1) / valid.sum(1).clamp(min=1)
