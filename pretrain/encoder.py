"""The encoder: a clip with all its views and streams -> tokens that know when, where and whose they are.

    clips -> tokens (tokens.py) -> layout (pooling.py) -> trunk (trunk.py) -> Encoded

One 16-frame segment of video alone gives VideoMAE's own output; everything else is read through gates that start at zero.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from pretrain.clips import Clip, View
from pretrain.config import ModelConfig
from pretrain.pooling import plan
from pretrain.tokens import StreamTokenizer, Tokens, VideoTokenizer, join, tokenize, video_tokens
from pretrain.trunk import Trunk


@dataclass
class Encoded:
    """Features of tokens. ``encode_clips`` gives them packed, [token, ...]; ``encode`` gives [batch, token, ...].

    tokens: [..., dim]. content: [..., dim], what the same tokens hold before the trunk mixes it: video's as it enters the trunk,
    a stream's cells under a projection that nothing has learnt (``StreamTokenizer.content``). modality: index into
    Encoder.modalities. time: seconds from the clip's start. person: -1 for the scene. view: number of the view in the clip.
    place: which cell of the picture (0 for streams). clip: number of the clip in the list. Where clips of a batch differ in
    length, ``encode`` fills up with rows of modality -1.
    """

    tokens: Tensor
    content: Tensor
    modality: Tensor
    time: Tensor
    person: Tensor
    view: Tensor
    place: Tensor
    clip: Tensor


class Encoder(nn.Module):
    """Tokenizers and trunk of a ModelConfig."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.modalities = config.modalities
        self.video = VideoTokenizer(config)
        self.streams = nn.ModuleDict({name: StreamTokenizer(s, config.dim) for name, s in config.streams.items()})
        self.trunk = Trunk(
            config.dim,
            config.layers,
            config.heads,
            config.mlp_dim,
            config.modalities,
            eps=config.layer_norm_eps,
            qv_bias=config.qv_bias,
            final_norm_eps=config.layer_norm_eps if config.final_norm else None,
            pooling=config.pooling,
            upper_layers=config.upper_layers,
        )

    def tokenizer(self, modality: str) -> VideoTokenizer | StreamTokenizer:
        module = self.video if modality == "video" else self.streams[modality]
        assert isinstance(module, (VideoTokenizer, StreamTokenizer))
        return module

    @property
    def device(self) -> torch.device:
        return self.video.bias.device

    def embed(self, tokens: dict[str, Tokens]) -> Tensor:
        """Raw tokens by modality -> packed [token, dim]."""
        return torch.cat([self.tokenizer(name)(part) for name, part in tokens.items()])

    def embed_and_keep(self, tokens: dict[str, Tokens]) -> tuple[Tensor, Tensor]:
        """What enters the trunk, and ``Encoded.content``: packed [token, dim] each."""
        tokens = {name: part.to(self.device) for name, part in tokens.items()}
        embedded = self.embed(tokens)
        parts = []
        for (name, part), own in zip(
            tokens.items(), embedded.split([len(part) for part in tokens.values()]), strict=True
        ):
            tokenizer = self.tokenizer(name)
            parts.append(tokenizer.content(part) if isinstance(tokenizer, StreamTokenizer) else own)
        return embedded, torch.cat(parts)

    def encode_clips(self, clips: Sequence[Clip], modalities: Collection[str] | None = None) -> Encoded:
        """Features of clips, packed: all tokens of video, then of each stream; sorted by clip within each.

        modalities: what to read (default: all that the encoder knows); what a clip lacks is absent.
        Raises ValueError where a clip holds nothing that can be read.
        """
        wanted = [name for name in self.modalities if modalities is None or name in modalities]
        return self._encode([tokenize(clip, number, self.config, wanted) for number, clip in enumerate(clips)])

    def _encode(self, clips: Sequence[dict[str, Tokens]]) -> Encoded:
        for number, tokens in enumerate(clips):
            if not tokens:
                raise ValueError(
                    f"clip {number} of the batch holds no stream that this encoder reads ({', '.join(self.modalities)})"
                )
        tokens = {
            name: join([c[name] for c in clips if name in c])
            for name in self.modalities
            if any(name in c for c in clips)
        }
        layout = plan(tokens, self.config).to(self.device)
        embedded, content = self.embed_and_keep(tokens)
        return encoded(self.trunk(embedded, layout), content, tokens, self.config)

    def encode(
        self,
        video: Tensor | None = None,
        *,
        audio: Tensor | None = None,
        face: Sequence[Mapping[str, np.ndarray]] | None = None,
        pose: Sequence[Mapping[str, np.ndarray]] | None = None,
        hands: Sequence[Mapping[str, np.ndarray]] | None = None,
        audio_rate: int = 16000,
        aspect: float | None = None,
        **streams: Sequence[Mapping[str, np.ndarray]],
    ) -> Encoded:
        """Features of a batch of clips filmed by one camera; every stream begins at the clip's start, any may be missing.

        video: float [batch, frame, 3, height, width], normalised with ImageNet's mean and deviation, ``config.frame_rate``
        frames a second, height and width multiples of the patch; any even number of frames (16 a segment).
        audio: float [batch, sample] or [batch, channel, sample] in [-1, 1] at ``audio_rate`` Hz.
        face, pose, hands and others: a mapping of arrays for each clip, as in a shard's npz (times in seconds, rows a detection).
        aspect: width / height of the picture that face, pose and hands are fractions of (default: of video as it is given, else 1).
        Returns Encoded with [batch, token, ...]: video first, in VideoMAE's order (time, row, column), then the streams.
        Raises ValueError where sizes do not fit or a stream is unknown.
        """
        given = {"video": video, "audio": audio, "face": face, "pose": pose, "hands": hands, **streams}
        batch = {name: len(value) for name, value in given.items() if value is not None}
        for name in batch:
            if name not in self.modalities:
                raise ValueError(f"this encoder reads no stream {name!r}; it reads {', '.join(self.modalities)}")
        if len(set(batch.values())) != 1:
            raise ValueError(f"the streams hold different numbers of clips: {batch or 'none'}")
        clips = []
        for number in range(next(iter(batch.values()))):
            view = View(
                frames=None,
                frame_start=0.0,
                frame_rate=self.config.frame_rate,
                audio=None if audio is None else np.atleast_2d(audio[number].detach().cpu().numpy()),
                audio_start=0.0,
                audio_rate=audio_rate,
                face=None if face is None else dict(face[number]),
                pose=None if pose is None else dict(pose[number]),
                hands=None if hands is None else dict(hands[number]),
                aspect=aspect or (None if video is None else video.shape[-1] / video.shape[-2]),
            )
            others = {name: dict(value[number]) for name, value in streams.items()}
            clip = Clip(str(number), str(number), 0.0, 0.0, [], {"main": view}, others, {})
            tokens = tokenize(clip, number, self.config, self.modalities)
            clips.append(tokens if video is None else {"video": self._given_video(video[number], number)} | tokens)
        return _by_clip(self._encode(clips), len(clips))

    def _given_video(self, frames: Tensor, number: int) -> Tokens:
        """frames [frame, 3, height, width], normalised."""
        patch = self.config.patch
        if frames.ndim != 4 or frames.shape[1] != 3 or frames.shape[2] % patch or frames.shape[3] % patch:
            got = ", ".join(str(side) for side in ("batch", *frames.shape))
            raise ValueError(
                f"video: expected [batch, frame, 3, height, width], sides that {patch} divides, got [{got}]"
            )
        tokens = video_tokens(frames, 0.0, self.config, number, 0)
        if tokens is None:
            raise ValueError(f"video: {len(frames)} frames are less than one tubelet of {self.config.tubelet}")
        return tokens


def encoded(x: Tensor, content: Tensor, tokens: dict[str, Tokens], config: ModelConfig) -> Encoded:
    """Features x [token, dim] of packed tokens, with what is known of them."""

    def column(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(part, name) for part in tokens.values()])).to(x.device)

    counts = [len(tokens[name]) if name in tokens else 0 for name in config.modalities]
    modality = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(x.device)
    return Encoded(x, content, modality, *(column(name) for name in ("time", "person", "view", "place", "clip")))


def _by_clip(packed: Encoded, batch: int) -> Encoded:
    """Packed tokens -> [batch, token, ...], filled up with modality -1 where clips differ in length."""
    order = torch.argsort(packed.clip, stable=True)
    counts = torch.bincount(packed.clip, minlength=batch)
    longest = int(counts.max())
    row = torch.arange(longest, device=counts.device)
    index = torch.cumsum(counts, 0)[:, None] - counts[:, None] + row  # batch token
    there = row < counts[:, None]
    index = order[torch.where(there, index, 0)]
    absent = ~there

    def rows(values: Tensor, fill: int) -> Tensor:
        out = rearrange(values[index.flatten()], "(batch token) ... -> batch token ...", batch=batch)
        return out if not absent.any() else out.masked_fill(absent.view(*absent.shape, *[1] * (out.ndim - 2)), fill)

    return Encoded(
        rows(packed.tokens, 0),
        rows(packed.content, 0),
        rows(packed.modality, -1),
        rows(packed.time, 0),
        rows(packed.person, -1),
        rows(packed.view, 0),
        rows(packed.place, 0),
        rows(packed.clip, 0),
    )
