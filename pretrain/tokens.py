"""From a clip in memory to raw tokens, and from raw tokens to vectors of the trunk's width.

- video: tubelets of 2 x 16 x 16 pixels in VideoMAE's order, segment by segment;
- every other stream: a vector every ``cell_seconds`` (StreamConfig); a token holds ``cells_per_token`` of them and
  knows which are there. Cells come from time stamps, never from row numbers.

A token carries its modality, time, place, view, person and the block that it attends in: the segment for video; one
stream, person and chunk of the time grid for the rest. Person numbers tell who is the same, and enter no code.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from configs import UserError
from pretrain.clips import Clip, View
from pretrain.config import ModelConfig, StreamConfig
from pretrain.stream_vectors import audio_cells, person_cells

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
SCENE = -1  # the person of a token that belongs to nobody


@dataclass
class Tokens:
    """Raw tokens of one modality; every array has a row a token, blocks are contiguous.

    values: video uint8 or float [token, pixel] in the order (channel, frame, row, column); streams float32 [token, cell, feature],
    nan where a number of a cell is not there (a hand that is not seen, a gap in a measurement).
    valid: bool [token, cell], None for video. clip, view, person, block, chunk, place, position: int64 [token].
    time: seconds from the clip's start, float64 [token]. grids: the (time, rows, columns) that ``position`` counts in.
    """

    values: Tensor
    valid: Tensor | None
    clip: np.ndarray
    view: np.ndarray
    person: np.ndarray
    block: np.ndarray
    chunk: np.ndarray
    place: np.ndarray
    position: np.ndarray
    time: np.ndarray
    grid: np.ndarray
    grids: list[tuple[int, int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.time)

    def there(self) -> Tensor:
        """Which numbers of a stream's cells there are: bool [token, cell, feature]."""
        assert self.valid is not None
        return self.valid[..., None] & ~self.values.isnan()

    def take(self, index: np.ndarray) -> Tokens:
        """The tokens of these rows, in this order."""
        rows = torch.from_numpy(index)
        taken = {
            f.name: getattr(self, f.name)[index] for f in fields(self) if f.name not in {"values", "valid", "grids"}
        }
        valid = None if self.valid is None else self.valid[rows]
        return replace(self, values=self.values[rows], valid=valid, **taken)

    def to(self, device: torch.device | str) -> Tokens:
        valid = None if self.valid is None else self.valid.to(device)
        return replace(self, values=self.values.to(device), valid=valid)


def join(parts: Sequence[Tokens]) -> Tokens:
    """Tokens of several clips or blocks, one after the other; blocks are numbered anew."""
    grids = list(dict.fromkeys(grid for part in parts for grid in part.grids))
    arrays: dict[str, list[np.ndarray]] = {}
    blocks = 0
    for part in parts:
        for f in fields(part):
            if f.name not in {"values", "valid", "grids", "block", "grid"}:
                arrays.setdefault(f.name, []).append(getattr(part, f.name))
        numbers = np.unique(part.block, return_inverse=True)[1]
        arrays.setdefault("block", []).append(numbers + blocks)
        blocks += int(numbers.max(initial=-1)) + 1
        renumber = np.array([grids.index(grid) for grid in part.grids] or [0])
        arrays.setdefault("grid", []).append(renumber[part.grid])
    valid = [part.valid for part in parts if part.valid is not None]
    return Tokens(
        values=torch.cat([part.values for part in parts]),
        valid=torch.cat(valid) if valid else None,
        grids=grids,
        **{name: np.concatenate(values) for name, values in arrays.items()},
    )


def tokenize(clip: Clip, number: int, config: ModelConfig, modalities: Sequence[str]) -> dict[str, Tokens]:
    """The raw tokens of a clip by modality; what the clip lacks is absent. ``number`` becomes Tokens.clip."""
    parts: dict[str, list[Tokens]] = {}
    for view_number, (view_name, view) in enumerate(clip.views.items()):
        if "video" in modalities and view.frames is not None:
            video = video_tokens(model_frames(view, config), view.frame_start, config, number, view_number)
            if video is not None:
                parts.setdefault("video", []).append(video)
        for name, person, vectors, cells in _streams_of_view(clip, view_name, config, modalities):
            parts.setdefault(name, []).append(
                stream_tokens(vectors, cells, config.streams[name], config, number, view_number, person)
            )
    for name, stream in clip.streams.items():
        if name in config.streams and name in modalities:
            _check_numbers(clip, name, stream, config.streams[name])
            for person, vectors, cells in person_cells(name, stream, config.streams[name].cell_seconds, 1.0):
                parts.setdefault(name, []).append(
                    stream_tokens(vectors, cells, config.streams[name], config, number, SCENE, person)
                )
    return {name: join(parts[name]) for name in config.modalities if name in parts}


def _check_numbers(clip: Clip, name: str, rows: Mapping[str, np.ndarray], stream: StreamConfig) -> None:
    """Raises UserError where a user's stream holds other vectors than the config says: a single number would be taken for all."""
    shape = rows["values"].shape
    if len(shape) != 2 or shape[1] != stream.features:
        raise UserError(
            f"{clip.key}: values of {name}.npz are {list(shape)}, not [row, {stream.features}] as model.streams.{name} says"
        )


def _streams_of_view(clip: Clip, view_name: str, config: ModelConfig, modalities: Sequence[str]):
    """(stream, person, vectors [cell, feature], cell numbers [cell]) of everything but pixels in a view."""
    view = clip.views[view_name]
    if "audio" in modalities and "audio" in config.streams and view.audio is not None:
        stream = config.streams["audio"]
        for number, channel in enumerate(view.audio):
            vectors, cells = audio_cells(channel, view.audio_start, view.audio_rate, stream)
            speech = [s for s in clip.meta.get("speech", ()) if (s["view"], s["channel"]) == (view_name, number)]
            chunks = np.floor(cells * stream.cell_seconds / config.chunk_seconds + 1e-6).astype(np.int64)
            whose = np.array([speaker(speech, chunk, config.chunk_seconds) for chunk in np.unique(chunks)], np.int64)
            whose = whose[np.unique(chunks, return_inverse=True)[1]] if len(chunks) else whose
            for person in np.unique(whose).tolist():
                yield "audio", person, vectors[whose == person], cells[whose == person]
    for name, rows in view.detections().items():
        if name in modalities and name in config.streams:
            for person, vectors, cells in person_cells(
                name, rows, config.streams[name].cell_seconds, view.picture_aspect
            ):
                yield name, person, vectors, cells


def speaker(speech: Sequence[Mapping[str, Any]], chunk: int, seconds: float) -> int:
    """Whose a channel's sound is in a chunk: who is known to speak more than half of all speech there, else the scene's.

    speech: the entries of meta.json for the channel.
    """
    spoken: dict[int | None, float] = {}
    for said in speech:
        lasts = min(said["end"], (chunk + 1) * seconds) - max(said["start"], chunk * seconds)
        if lasts > 0:
            spoken[said["person"]] = spoken.get(said["person"], 0.0) + lasts
    most = max(spoken, key=lambda person: spoken[person], default=None)
    return SCENE if most is None or 2 * spoken[most] <= sum(spoken.values()) else most


def model_frames(view: View, config: ModelConfig) -> Tensor:
    """The frames of a view at the encoder's rate and size, uint8 [time, channel, height, width].

    The short side becomes the configured one, the aspect is kept to the nearest patch; nothing is cropped.
    """
    assert view.frames is not None
    step = view.frame_rate / config.frame_rate
    index = np.arange(int(np.ceil(len(view.frames) / step - 1e-6))) * step
    frames = torch.from_numpy(view.frames[np.minimum(np.round(index).astype(int), len(view.frames) - 1)])
    frames = rearrange(frames, "time height width channel -> time channel height width")
    height, width = frames.shape[-2:]
    short = min(config.image_height, config.image_width)
    size = [max(round(side * short / min(height, width) / config.patch), 1) * config.patch for side in (height, width)]
    if size == [height, width]:
        return frames
    # as bytes: 18 times faster than as float32, and nowhere more than one grey level from it
    return nn.functional.interpolate(frames, size=size, mode="bilinear", antialias=True)


def tubelets(frames: Tensor, config: ModelConfig) -> Tensor:
    """frames [time, channel, height, width] -> [token, pixel], tokens in the order (time, row, column)."""
    return rearrange(
        frames,
        "(t frame) channel (h row) (w column) -> (t h w) (channel frame row column)",
        frame=config.tubelet,
        row=config.patch,
        column=config.patch,
    )


def video_tokens(frames: Tensor, start: float, config: ModelConfig, clip: int, view: int) -> Tokens | None:
    """Tubelets of a view, a block a segment; the last segment may be shorter, an odd last frame is left out.

    frames [time, channel, height, width], uint8 or normalised float; start: seconds of its first frame in the clip.
    """
    steps = len(frames) // config.tubelet
    if steps == 0:
        return None
    values = tubelets(frames[: steps * config.tubelet], config)
    rows, columns = frames.shape[-2] // config.patch, frames.shape[-1] // config.patch
    per_segment = config.grid[0]
    step = np.repeat(np.arange(steps), rows * columns)
    place = np.tile(np.arange(rows * columns), steps)
    segment = step // per_segment
    segment_start = start + segment * config.segment_frames / config.frame_rate
    return Tokens(
        values=values,
        valid=None,
        time=start + (step + 0.5) * config.tubelet / config.frame_rate,
        place=place,
        position=(step % per_segment) * rows * columns + place,
        block=segment,
        chunk=np.floor(segment_start / config.chunk_seconds + 1e-6).astype(np.int64),
        grid=np.zeros(len(place), np.int64),
        grids=[(per_segment, rows, columns)],
        **_constants(len(place), clip=clip, view=view, person=SCENE),
    )


def stream_tokens(
    vectors: np.ndarray,
    cells: np.ndarray,
    stream: StreamConfig,
    config: ModelConfig,
    clip: int,
    view: int,
    person: int,
) -> Tokens:
    """Tokens of one stream of one person (or of the scene), a block a chunk of the time grid.

    vectors float32 [cell, feature] at cell numbers ``cells`` [cell]; a token without any cell does not exist.
    """
    numbers, row = np.unique(cells // stream.cells_per_token, return_inverse=True)
    values = np.zeros((len(numbers), stream.cells_per_token, vectors.shape[-1]), np.float32)
    valid = np.zeros(values.shape[:2], bool)
    values[row, cells % stream.cells_per_token] = vectors
    valid[row, cells % stream.cells_per_token] = True
    per_chunk = max(round(config.chunk_seconds / stream.token_seconds), 1)
    return Tokens(
        values=torch.from_numpy(values),
        valid=torch.from_numpy(valid),
        time=(numbers + 0.5) * stream.token_seconds,
        position=numbers % per_chunk,
        block=numbers // per_chunk,
        chunk=numbers // per_chunk,
        grid=np.zeros(len(numbers), np.int64),
        grids=[(per_chunk, 1, 1)],
        **_constants(len(numbers), clip=clip, view=view, person=person, place=0),
    )


def _constants(length: int, **values: int) -> dict[str, np.ndarray]:
    return {name: np.full(length, value, np.int64) for name, value in values.items()}


def sinusoids(positions: int, dim: int) -> Tensor:
    """The sin-cos table of VideoMAE ("Attention is all you need", section 3.5), computed in float64: float32 [position, dim]."""
    exponent = 2 * (np.arange(dim) // 2) / dim
    angle = np.arange(positions)[:, None] / np.power(10000, exponent)
    angle[:, 0::2], angle[:, 1::2] = np.sin(angle[:, 0::2]), np.cos(angle[:, 1::2])
    return torch.from_numpy(angle).float()


@functools.cache
def position_table(base: tuple[int, int, int], grid: tuple[int, int, int], dim: int) -> Tensor:
    """Codes of the places of a grid, float32 [time * rows * columns, dim].

    VideoMAE's table is a sin-cos over the FLATTENED places of its base grid: computed anew for another grid it would
    name other places, so that it is interpolated in time and space instead.
    """
    table = sinusoids(base[0] * base[1] * base[2], dim)
    if grid == base:
        return table
    cube = rearrange(table, "(t h w) dim -> 1 dim t h w", t=base[0], h=base[1], w=base[2])
    cube = nn.functional.interpolate(cube, size=grid, mode="trilinear", align_corners=False)
    return rearrange(cube, "1 dim t h w -> (t h w) dim")


def position_codes(tokens: Tokens, base: tuple[int, int, int] | None, dim: int) -> Tensor:
    """The position code of every token, [token, dim]; ``base`` is the grid of the published table, None for a stream."""
    tables = [position_table(base or grid, grid, dim) for grid in tokens.grids]
    starts = np.cumsum([0] + [len(table) for table in tables])[:-1]
    index = torch.from_numpy(starts[tokens.grid] + tokens.position)
    return torch.cat(tables).index_select(0, index).to(tokens.values.device)


@functools.cache
def projection(numbers: int, dim: int) -> Tensor:
    """A map that nearly keeps the distances of vectors (Johnson and Lindenstrauss, 1984): float32 [number, dim].

    It is the same everywhere: numpy promises RandomState's numbers for all of its versions and machines.
    """
    return torch.from_numpy(np.random.RandomState(0).standard_normal((numbers, dim)) / np.sqrt(numbers)).float()


class VideoTokenizer(nn.Module):
    """VideoMAE's patch embedding: a convolution whose stride is its kernel, so a matrix on every tubelet."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.base = config.base
        self.weight = nn.Parameter(torch.empty(config.dim, 3, config.tubelet, config.patch, config.patch))
        self.bias = nn.Parameter(torch.zeros(config.dim))
        nn.init.xavier_uniform_(self.weight.view(config.dim, -1))

    def forward(self, tokens: Tokens) -> Tensor:
        """-> [token, dim]"""
        pixels = tokens.values
        if pixels.dtype == torch.uint8:
            pixels = normalised(pixels, self.weight.dtype)
        embedded = nn.functional.linear(pixels.to(self.weight.dtype), self.weight.flatten(1), self.bias)
        return embedded + position_codes(tokens, self.base, embedded.shape[-1]).to(embedded.dtype)


def normalised(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 tubelets [token, (channel frame row column)] -> what VideoMAE reads: mean and deviation of ImageNet."""
    per_channel = rearrange(pixels.to(dtype) / 255, "token (channel pixel) -> token channel pixel", channel=3)
    mean = torch.tensor(IMAGE_MEAN, dtype=dtype, device=pixels.device)[:, None]
    std = torch.tensor(IMAGE_STD, dtype=dtype, device=pixels.device)[:, None]
    return rearrange((per_channel - mean) / std, "token channel pixel -> token (channel pixel)")


class StreamTokenizer(nn.Module):
    """A linear map of the standardised cells of a token, with a code for the modality; what is absent counts as average."""

    mean: Tensor
    std: Tensor

    def __init__(self, stream: StreamConfig, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(stream.features))
        self.register_buffer("std", torch.ones(stream.features))
        self.project = nn.Linear(stream.cells_per_token * (stream.features + 1), dim)
        self.modality = nn.Parameter(torch.zeros(dim))
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.normal_(self.modality, std=0.02)

    def standardised(self, tokens: Tokens) -> Tensor:
        """[token, cell, feature], zero where a cell or a number of it is absent."""
        return torch.where(tokens.there(), (tokens.values - self.mean) / self.std, 0)

    def content(self, tokens: Tokens) -> Tensor:
        """The standardised cells under ``projection``: [token, dim]. Training cannot lose any of it."""
        cells = rearrange(self.standardised(tokens), "token cell feature -> token (cell feature)")
        return cells @ projection(cells.shape[-1], self.project.out_features).to(cells)

    def forward(self, tokens: Tokens) -> Tensor:
        """-> [token, dim]"""
        assert tokens.valid is not None
        cells = torch.cat([self.standardised(tokens), tokens.valid[..., None].to(self.mean.dtype)], -1)
        embedded = self.project(
            rearrange(cells, "token cell feature -> token (cell feature)").to(self.project.weight.dtype)
        )
        code = position_codes(tokens, None, embedded.shape[-1]).to(embedded.dtype)
        return embedded + self.modality + code
