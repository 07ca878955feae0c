"""The views of a video that VideoMAE's own figures are made of (MCG-NJU/VideoMAE: kinetics.py, ssv2.py, mode 'test').

- dense (Kinetics): every fourth frame; segments of 16 of these begin at equal distances, from the first frame to the last that
  leaves 16. A video that is too short repeats its last frame.
- uniform (Something-Something): 16 frames over the whole video, from the beginning of 16 equal parts in the first segment, from
  their middles in the second.
- crops: the shorter side is scaled to the model's, bilinearly; squares lie at equal distances along the longer side.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import av
import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate

from data_prep.decode import Damage, Probe, UnreadableError, probe, read

STRIDE = 4
Sampling = Literal["dense", "uniform"]


def chosen_frames(sampling: Sampling, frames: int, length: int, segments: int) -> list[list[int]]:
    """The numbers of the frames of each segment, [segment][length], of a video that has so many frames (1 or more)."""
    if sampling == "uniform":
        part = frames / length
        shifts = (0.0, part / 2)[:segments]
        return [[int(shift + part * number) for number in range(length)] for shift in shifts]
    strided = list(range(0, frames, STRIDE))
    strided += strided[-1:] * (length - len(strided))
    rest = len(strided) - length
    step = rest / (segments - 1) if segments > 1 else 0.0
    starts = [int(number * step) for number in range(segments)] if segments > 1 else [rest // 2]
    return [strided[start : start + length] for start in starts]


def views(path: Path, sampling: Sampling, length: int, segments: int, crops: int, side: int) -> Tensor:
    """uint8 [view, frame, 3, side, side]: the crops of the first segment, then those of the next. Raises UnreadableError."""
    probed = probe(path)
    count = sum(1 for _ in _pictures(path, probed))
    if not count:
        raise UnreadableError("no picture in it can be decoded", "copy it again, or leave it out")
    chosen = chosen_frames(sampling, count, length, segments)
    wanted = {number for segment in chosen for number in segment}
    found = {
        n: scaled(frame.to_ndarray(format="rgb24"), side)
        for n, frame in enumerate(_pictures(path, probed))
        if n in wanted
    }
    parts = [torch.stack([found[number] for number in segment]) for segment in chosen]
    return torch.stack([crop for part in parts for crop in cropped(part, crops, side)])


def _pictures(path: Path, probed: Probe) -> Iterator[av.VideoFrame]:
    """The pictures of a file in their order."""
    for event in read(path, probed, Damage(), audio=False):
        if isinstance(event.frame, av.VideoFrame):
            yield event.frame


def scaled(picture: np.ndarray, side: int) -> Tensor:
    """uint8 [height, width, 3] -> uint8 [3, height, width], the shorter side ``side`` long; as OpenCV's INTER_LINEAR."""
    height, width = picture.shape[:2]
    size = (side, int(side * width / height)) if height <= width else (int(side * height / width), side)
    pixels = rearrange(torch.from_numpy(picture), "height width channel -> 1 channel height width")
    if size == (height, width):
        return pixels[0]
    return interpolate(pixels.float(), size, mode="bilinear").round().clamp(0, 255).to(torch.uint8)[0]


def cropped(frames: Tensor, crops: int, side: int) -> list[Tensor]:
    """Squares of frames [frame, 3, height, width] along the longer side, from its beginning to its end; one: the middle."""
    height, width = frames.shape[-2:]
    rest = max(height, width) - side
    starts = [int(number * rest / (crops - 1)) for number in range(crops)] if crops > 1 else [rest // 2]
    if height >= width:
        return [frames[..., start : start + side, :] for start in starts]
    return [frames[..., start : start + side] for start in starts]
