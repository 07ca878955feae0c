"""A Video Swin where fine-tuning expects an encoder: clips in, tokens that know their time and place out.

What fine-tuning asks an encoder for is all here: ``config`` (width and size of the picture), ``modalities``, ``device``,
``trunk.blocks``, and ``encode_clips``. It reads video alone.

A view is thinned to ``SwinConfig.frame_rate``, its shorter side scaled to ``side`` (nothing is cropped), colours are normalised
by ImageNet's mean and deviation, and it is read in pieces of ``frames``. The last piece begins earlier where the frames do not
divide, so that it is a whole one, too; a view that is shorter than a piece is read as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from finetune.config import SwinConfig
from finetune.swin import SwinSizes, SwinTrunk
from pretrain.clips import Clip
from pretrain.config import ModelConfig
from pretrain.encoder import Encoded
from pretrain.tokens import IMAGE_MEAN, IMAGE_STD, SCENE, model_frames, projection


class SwinEncoder(nn.Module):
    """SwinTrunk with the settings that it reads video by.

    They are a buffer, ``reading``, for they are part of what the features are: whatever hashes the weights hashes them, too.
    """

    modalities = ("video",)
    reading: Tensor

    def __init__(self, sizes: SwinSizes, reading: SwinConfig):
        super().__init__()
        self.merged, self.tubelet = sizes.merged, sizes.patch[0]
        self.config = ModelConfig(
            dim=sizes.out_dim,
            layers=sum(sizes.depths),
            heads=sizes.heads[-1],
            mlp_dim=round(sizes.mlp_ratio * sizes.out_dim),
            image_height=reading.side,
            image_width=reading.side,
            patch=sizes.patch[1],
            tubelet=sizes.patch[0],
            segment_frames=reading.frames,
            frame_rate=reading.frame_rate,
            streams={},
        )
        self.trunk = SwinTrunk(sizes)
        told = (reading.frames, reading.frame_rate, reading.side)
        self.register_buffer("reading", torch.tensor(told, dtype=torch.float64))

    @property
    def device(self) -> torch.device:
        return self.trunk.norm.weight.device

    def told(self) -> str:
        """How it reads video, in words."""
        frames, rate, side = self.reading.tolist()
        return f"{frames:g} frames at once, {rate:g} a second, the shorter side {side:g} pixels"

    def encode_clips(self, clips: Sequence[Clip], modalities: Collection[str] | None = None) -> Encoded:
        """Features of clips, packed, sorted by clip: a token for every 2 frames and 32 x 32 pixels (see Encoded).

        content: the 8 x 8 patches that a token is made of, as they enter the trunk, under a projection that nothing has learnt.
        Raises ValueError where a clip holds no video, or anything but video is asked for alone.
        """
        parts = [self._clip(clip, number) for number, clip in enumerate(clips)]
        if not all(parts) or (modalities is not None and "video" not in modalities):
            raise ValueError("a clip of the batch holds no stream that this encoder reads (video)")
        encoded = [part for of_clip in parts for part in of_clip]
        columns = ("tokens", "content", "modality", "time", "person", "view", "place", "clip")
        return Encoded(*(torch.cat([getattr(part, name) for part in encoded]) for name in columns))

    def _clip(self, clip: Clip, number: int) -> list[Encoded]:
        """What the pieces of a clip's views give."""
        found = []
        for view_number, view in enumerate(clip.views.values()):
            if view.frames is not None and len(view.frames):
                frames = model_frames(view, self.config)
                for start, skipped, piece in pieces(frames, self.config.segment_frames, self.tubelet):
                    patches, tokens = self._read(piece)
                    begins = view.frame_start + start / self.config.frame_rate
                    found.append(
                        self._encoded(patches[skipped:], tokens[skipped:], begins, skipped, view_number, number)
                    )
        return found

    def _read(self, piece: Tensor) -> tuple[Tensor, Tensor]:
        """Frames uint8 [frame, 3, height, width] of a piece -> SwinTrunk's two results.

        In training its inner values are computed again when the gradient comes by: those of one piece fill gigabytes.
        """
        if torch.is_grad_enabled():
            return cast(tuple[Tensor, Tensor], checkpoint(self.trunk, self.normalised(piece), use_reentrant=False))
        return self.trunk(self.normalised(piece))

    def normalised(self, frames: Tensor) -> Tensor:
        """uint8 [frame, 3, height, width] -> [3, frame, height, width], what the checkpoints were trained on."""
        mean, std = (
            torch.tensor(values, device=self.device)[:, None, None, None] for values in (IMAGE_MEAN, IMAGE_STD)
        )
        video = rearrange(frames.to(self.device), "frame channel height width -> channel frame height width")
        return ((video / 255 - mean) / std).to(self.trunk.norm.weight.dtype)

    def _encoded(self, patches: Tensor, tokens: Tensor, start: float, first: int, view: int, clip: int) -> Encoded:
        """patches, tokens: [time, row, column, ...], from step ``first`` on of a piece that begins at ``start`` seconds."""
        steps, rows, columns, _ = tokens.shape
        step = torch.arange(first, first + steps, device=tokens.device, dtype=torch.float64)
        time = start + (step + 0.5) * self.tubelet / self.config.frame_rate

        def constant(value: int) -> Tensor:
            return torch.full((steps * rows * columns,), value, device=tokens.device)

        return Encoded(
            tokens=rearrange(tokens, "time row column dim -> (time row column) dim"),
            content=self._content(patches),
            modality=constant(0),
            time=time.repeat_interleave(rows * columns),
            person=constant(SCENE),
            view=constant(view),
            place=torch.arange(rows * columns, device=tokens.device).repeat(steps),
            clip=constant(clip),
        )

    def _content(self, patches: Tensor) -> Tensor:
        """patches [time, row, column, dim] as they enter the trunk -> [token, out_dim]"""
        side = self.merged
        whole = pad(patches, (0, 0, 0, -patches.shape[2] % side, 0, -patches.shape[1] % side))
        own = rearrange(whole, "t (row y) (column x) dim -> (t row column) (y x dim)", y=side, x=side)
        return own @ projection(own.shape[1], self.config.dim).to(own)


def pieces(frames: Tensor, length: int, tubelet: int) -> Iterator[tuple[int, int, Tensor]]:
    """Frames [frame, ...] in whole pieces: (number of its first frame, how many of its tubelets were read before, frames)."""
    for start in range(0, len(frames), length):
        begins = start
        if start and start + length > len(frames):
            begins = len(frames) - length
            begins += -begins % tubelet  # tubelets stay where they were
        yield begins, (start - begins) // tubelet, frames[begins : begins + length]
