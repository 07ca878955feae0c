"""The target "motion": what is left of a clip when its mean over time is taken out, so that walls and shirts are no target.

Video: pixels minus the mean of that place over the clip's time; a camera that moves leaves more. Streams: numbers minus their
mean over the clip, for each person (or channel) and view. Both divided by the deviation that this has in the data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from pretrain.clips import Clip
from pretrain.config import ModelConfig
from pretrain.tokens import IMAGE_MEAN, IMAGE_STD, Tokens, tokenize

FLOOR = 0.1  # of the median deviation of a stream's numbers: one that never moves must not blow up
PIXEL_FLOOR = 0.02  # of the range of a pixel: below that it is the codec's noise


@dataclass
class Still:
    """Means over a clip's time. values: video float32 [place, channel, pixel], pixels of a cell from 0 to 1; streams float32
    [track, 1, feature]. row: int64 [token], which of them is a token's."""

    values: Tensor
    row: Tensor

    def take(self, index: Tensor) -> Still:
        return Still(self.values, self.row[index])

    def to(self, device: torch.device | str) -> Still:
        return Still(self.values.to(device), self.row.to(device))

    def of(self) -> Tensor:
        """[token, channel or 1, number]"""
        return self.values[self.row]


def still_of(tokens: Tokens, model: ModelConfig) -> Still:
    """The means over time of one modality of a clip; ``tokens`` are all that it has."""
    whose = np.stack([tokens.view, tokens.place if tokens.valid is None else tokens.person], 1)
    row = torch.from_numpy(np.unique(whose, axis=0, return_inverse=True)[1].ravel())
    values, count = frames_of(tokens, model)
    sums = torch.zeros(int(row.max()) + 1, *values.shape[1:2], values.shape[3])
    sums.index_add_(0, row, (values if tokens.valid is None else values * count[:, None]).sum(2))
    number = torch.zeros(len(sums), 1, count.shape[-1]).index_add_(0, row, count.sum(1)[:, None])
    return Still(sums / number.clamp(min=1), row)


def join_stills(parts: Iterable[Still]) -> Still:
    """Means of several clips, one after the other."""
    parts = list(parts)
    starts = np.cumsum([0] + [len(part.values) for part in parts])
    rows = [part.row + int(start) for part, start in zip(parts, starts, strict=False)]
    return Still(torch.cat([part.values for part in parts]), torch.cat(rows))


def frames_of(tokens: Tokens, model: ModelConfig) -> tuple[Tensor, Tensor]:
    """The instants of each token and which of them are there, 1 or 0.

    video: float [token, channel, frame, pixel] from 0 to 1, [token, frame, 1]; streams [token, 1, cell, feature] (0 where a
    number is absent), [token, cell, feature].
    """
    if tokens.valid is not None:
        there = tokens.there()
        return torch.where(there, tokens.values, 0)[:, None], there.to(tokens.values.dtype)
    pixels = rearrange(
        tokens.values,
        "token (channel frame pixel) -> token channel frame pixel",
        channel=3,
        frame=model.tubelet,
    )
    if pixels.dtype == torch.uint8:
        pixels = pixels.float().div_(255)
    else:
        std, mean = (pixels.new_tensor(values)[:, None, None] for values in (IMAGE_STD, IMAGE_MEAN))
        pixels = pixels * std + mean
    return pixels, pixels.new_ones(len(pixels), model.tubelet, 1)


class Motion(nn.Module):
    """How much each number moves in the data: deviations from the mean over a clip, by which targets are divided."""

    def __init__(self, model: ModelConfig):
        super().__init__()
        self.config = model
        self.register_buffer("video", torch.full((3,), 0.1))
        for name, stream in model.streams.items():
            self.register_buffer(f"stream_{name}", torch.ones(stream.features))

    def scale(self, name: str) -> Tensor:
        """video [channel, 1, 1]; streams [feature]"""
        return self.get_buffer("video")[:, None, None] if name == "video" else self.get_buffer(f"stream_{name}")

    def targets(self, name: str, tokens: Tokens, still: Still) -> tuple[Tensor, Tensor | None]:
        """Targets [token, number] in the decoder's order, and weights [token] of tubelets: 0 where nothing moves, 1/2 where as
        much as usual, towards 1 beyond."""
        values, count = frames_of(tokens, self.config)
        moved = (values - still.of()[:, :, None]) * count[:, None] / self.scale(name)
        if name != "video":
            return rearrange(moved, "token 1 cell feature -> token (cell feature)"), None
        energy = moved.square().mean((1, 2, 3))
        return rearrange(moved, "token channel frame pixel -> token (frame pixel channel)"), energy / (energy + 1)

    def undo(self, name: str, targets: Tensor, still: Still) -> Tensor:
        """Targets [token, number] -> what they were made of: pixels from 0 to 1 [token, (channel frame pixel)], or
        [token, cell, feature]."""
        if name != "video":
            cells = rearrange(targets, "token (cell feature) -> token 1 cell feature", feature=still.values.shape[-1])
            return (cells * self.scale(name) + still.of()[:, :, None])[:, 0]
        moved = rearrange(
            targets, "token (frame pixel channel) -> token channel frame pixel", channel=3, frame=self.config.tubelet
        )
        pixels = moved * self.scale(name) + still.of()[:, :, None]
        return rearrange(pixels, "token channel frame pixel -> token (channel frame pixel)")

    @torch.no_grad()
    def fit(self, clips: Iterable[Clip]) -> None:
        """Sets the deviations from these clips; what they lack stays as it is."""
        squares: dict[str, Tensor] = {}
        counts: dict[str, Tensor] = {}
        for clip in clips:
            for name, part in tokenize(clip, 0, self.config, self.config.modalities).items():
                values, count = frames_of(part, self.config)
                moved = ((values - still_of(part, self.config).of()[:, :, None]) * count[:, None]).double().square()
                sums = moved.mean(3).sum((0, 2)) if name == "video" else moved.sum((0, 1, 2))
                squares[name] = squares.get(name, torch.zeros(())) + sums
                counts[name] = counts.get(name, torch.zeros(())) + count.double().sum((0, 1))
        for name, total in squares.items():
            deviation = (total / counts[name].clamp(min=1)).sqrt().float()
            seen = (counts[name] > 0).expand_as(deviation)
            floor = PIXEL_FLOOR if name == "video" else max(FLOOR * float(deviation[seen].median()), 1e-6)
            self.scale(name).view(-1).copy_(torch.where(seen, deviation.clamp(min=floor), 1))
