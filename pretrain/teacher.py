"""The target "teacher": what a frozen, published or released trunk makes of the whole video, for the student to tell from a part.

The teacher reads every segment alone and unmasked; its features are layer-normed (data2vec, arXiv 2202.03555, section 3.3). They
do not change, so each clip is encoded once: in float16 in an npz a clip, in a folder named after the teacher's weights.
Loader workers look there (``lesson``); what they do not find is computed where the training runs (``targets``).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from configs import UserError
from data_prep.shards import decode_npz, encode_npz
from pretrain.config import ModelConfig
from pretrain.encoder import Encoder
from pretrain.pooling import plan
from pretrain.tokens import Tokens
from pretrain.weights import digest

AT_ONCE = 16  # segments that the teacher reads at a time: a clip of an hour has thousands


@dataclass
class Lesson:
    """What is asked of one clip. rows: int64 [query], of all its video tokens; features: float16 [query, dim] where the clip is
    known; video: all its tokens where it is not."""

    key: str
    rows: Tensor
    features: Tensor | None
    video: Tokens | None

    def to(self, device: torch.device | str) -> Lesson:
        features = None if self.features is None else self.features.to(device)
        video = None if self.video is None else self.video.to(device)
        return replace(self, rows=self.rows.to(device), features=features, video=video)


class Teacher:
    """A frozen encoder and the folder of what it said. No module: it is no part of a model's weights.

    path: where it was read from, for messages. Raises UserError where it cuts video into other tokens than the student.
    """

    def __init__(self, encoder: Encoder, student: ModelConfig, cache: Path, path: Path):
        for name in ("patch", "tubelet", "grid"):
            theirs, ours = getattr(encoder.config, name), getattr(student, name)
            if theirs != ours:
                what = "tokens of a segment (time, height, width)" if name == "grid" else f"model.{name}"
                raise UserError(f"mask.teacher {path}: {what}: {theirs} there and {ours} here; they must be the same")
        self.encoder = encoder.eval().requires_grad_(False)
        self.dim = encoder.config.dim
        read = f"{encoder.config} {student.frame_rate}"
        self.folder = cache / hashlib.sha256(f"{digest(encoder.state_dict())} {read}".encode()).hexdigest()[:16]

    def lesson(self, key: str, video: Tokens, rows: np.ndarray) -> Lesson:
        """The lesson of a clip's hidden tokens, with what the folder has. video: all tokens of the clip."""
        known = self._read(key, len(video))
        features = None if known is None else torch.from_numpy(known[rows])
        return Lesson(key, torch.from_numpy(rows), features, video if known is None else None)

    @torch.no_grad()
    def targets(self, lessons: Sequence[Lesson], device: torch.device) -> Tensor:
        """The teacher's features of hidden tokens, float32 [query, dim], lesson by lesson; writes those of new clips."""
        nothing = torch.empty(0, self.dim, device=device)
        return torch.cat([nothing, *(self._features(lesson, device).to(device).float() for lesson in lessons)])

    def _features(self, lesson: Lesson, device: torch.device) -> Tensor:
        """float16 [query, dim]"""
        if lesson.features is not None:
            return lesson.features
        assert lesson.video is not None
        known = self._read(lesson.key, len(lesson.video))  # written since the worker looked
        if known is None:
            known = self.read(lesson.video.to(device)).half().cpu().numpy()
            self._write(lesson.key, known)
        return torch.from_numpy(known)[lesson.rows.cpu()]

    def read(self, video: Tokens) -> Tensor:
        """Layer-normed features of all tokens of a video, float32 [token, dim], each segment read alone."""
        self.encoder.to(video.values.device)
        segments = np.unique(video.block, return_inverse=True)[1]
        found = torch.empty(len(video), self.dim, device=video.values.device)
        # in float32 whatever the student runs in: the same clip must give the same targets
        with torch.autocast(video.values.device.type, enabled=False):
            for first in range(0, int(segments.max()) + 1, AT_ONCE):
                rows = np.flatnonzero((segments >= first) & (segments < first + AT_ONCE))
                # as clips of their own: nothing is read through a release's open gates
                alone = {"video": replace(video.take(rows), clip=segments[rows])}
                layout = plan(alone, self.encoder.config).to(video.values.device)
                found[torch.from_numpy(rows)] = self.encoder.trunk(self.encoder.embed(alone), layout).float()
        return layer_norm(found, (self.dim,))

    def _read(self, key: str, tokens: int) -> np.ndarray | None:
        """float16 [token, dim], None where there is none or no whole one."""
        try:
            features = decode_npz((self.folder / f"{key}.npz").read_bytes())["features"]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None
        return features if features.shape == (tokens, self.dim) else None

    def _write(self, key: str, features: np.ndarray) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{key}.{os.getpid()}.tmp"
        temporary.write_bytes(encode_npz({"features": features}))
        temporary.replace(self.folder / f"{key}.npz")

    def gigabytes(self, seconds: float, model: ModelConfig) -> float:
        """What the features of one view will take, of pictures in the configured size."""
        time, height, width = model.grid
        return seconds * model.frame_rate / model.segment_frames * time * height * width * self.dim * 2 / 1e9
