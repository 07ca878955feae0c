"""Clips of shards -> one vector a stream: the frozen encoder's tokens, pooled over a clip or over one person of it.

- Every clip is read and decoded once, whatever number of functions looks at it (``map_clips``).
- The vector of a stream is the mean of its tokens, their standard deviation, and what varies over time: the deviation of a
  token from the mean of its own track (same view, place and person). A stream that is missing is zeros, and a flag says so.
- All three of what the tokens hold before the trunk and as they leave it: a probe should never know less than the streams.
- Results are kept in one npz for each set of weights, data and streams.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from configs import UserError
from data_prep.shards import read_sample
from finetune.added_streams import AddedStreams, stream_state
from finetune.labels import SCENE
from pretrain.clips import Clip, read_clip
from pretrain.encoder import Encoded, Encoder
from pretrain.trunk import SMALL
from pretrain.weights import digest

if TYPE_CHECKING:
    from finetune.steps import Steps

POOLED = 6  # numbers a feature: mean, deviation, deviation over time; before the trunk and after it

AT_ONCE = 64  # rows that are pooled together: for every one of them, all tokens of their clip are looked at

# What is computed for a batch: clips, and what the rows are about -> arrays [row, ...].
ClipFunction = Callable[[list[Clip], "Rows"], Mapping[str, np.ndarray]]
Part = tuple[
    int, float, float
]  # of a clip: person (-1 = the whole clip), start and end in seconds from the clip's start
WHOLE: Part = (SCENE, -np.inf, np.inf)


@dataclass(frozen=True)
class Rows:
    """What each row of features is about: the number of its clip and its person, int [row] (-1 = the whole clip), and its window
    in seconds from the clip's start, float64 [row] (-inf to inf = all of it)."""

    clip: np.ndarray
    person: np.ndarray
    start: np.ndarray
    end: np.ndarray

    @staticmethod
    def of(rows: Sequence[tuple[int, int, float, float]]) -> Rows:
        """(clip, person, start, end) each."""
        clip, person, start, end = zip(*rows, strict=True)
        return Rows(np.array(clip, np.int64), np.array(person, np.int64), np.array(start, float), np.array(end, float))

    @staticmethod
    def of_clips(count: int) -> Rows:
        """A row for each clip, about all of it."""
        return Rows.of([(number, *WHOLE) for number in range(count)])

    def on(self, device: torch.device) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """clip, person and window, as ``members`` has them."""
        clip, person, start, end = (
            torch.from_numpy(v).to(device) for v in (self.clip, self.person, self.start, self.end)
        )
        return clip, person, (start, end)


def pool(
    encoded: Encoded, clip: Tensor, person: Tensor, modalities: int, window: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Mean, standard deviation and deviation over time of the tokens of every modality, before and after the trunk.

    clip, person: int [row], what each row is about; person -1 is the whole clip, otherwise that person's tokens and the
    scene's. window: start and end, float64 [row], in seconds from the clip's start (default: all of it).
    Returns values [row, modality, 6 * dim], zero where a modality is missing, and present bool [row, modality].
    """
    tokens = torch.cat([encoded.content, encoded.tokens], 1).float()
    moved = (tokens - track_means(tokens, encoded)).square()
    pieces = [some for one in clip.unique() for some in (clip == one).nonzero()[:, 0].split(AT_ONCE)]
    parts = []
    for some in pieces:
        within = None if window is None else (window[0][some], window[1][some])
        of_row = members(encoded, clip[some], person[some], within)
        parts.append(_pooled(of_row, tokens, moved, encoded.modality, modalities))
    back = torch.argsort(torch.cat(pieces))
    values, present = (torch.cat(part)[back] for part in zip(*parts, strict=True))
    return values, present


def members(
    encoded: Encoded | Steps, clip: Tensor, person: Tensor, window: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Which tokens each row is about, bool [row, token]: of its clip; of its person and the scene, or all (person -1); of its
    window, where the middle of a token counts.

    clip, person: int [row]; window: start and end, float64 [row], in seconds from the clip's start.
    """
    own = (person[:, None] == SCENE) | (encoded.person == SCENE) | (encoded.person == person[:, None])
    own = own & (encoded.clip == clip[:, None])
    if window is None:
        return own
    return own & (encoded.time >= window[0][:, None]) & (encoded.time < window[1][:, None])


def _pooled(of_row: Tensor, tokens: Tensor, moved: Tensor, modality: Tensor, modalities: int) -> tuple[Tensor, Tensor]:
    """``pool`` for some rows; of_row bool [row, token], moved [token, dim]: squared distance from the mean of the token's track."""
    kept = of_row.any(0)
    of_row, tokens, moved, modality = of_row[:, kept], tokens[kept], moved[kept], modality[kept]
    of_modality = modality == torch.arange(modalities, device=tokens.device)[:, None]  # modality token
    member = rearrange(of_row[:, None] & of_modality, "row modality token -> (row modality) token").to(tokens.dtype)
    count = member.sum(1, keepdim=True)
    mean = member @ tokens / count.clamp(min=1)
    square = member @ tokens.square() / count.clamp(min=1)
    moved = member @ moved / count.clamp(min=1)
    spread = [(variance.clamp(min=1e-8).sqrt() * (count > 0)) for variance in (square - mean.square(), moved)]
    values = rearrange(torch.cat([mean, *spread], 1), "(row modality) dim -> row modality dim", modality=modalities)
    return values, rearrange(count > 0, "(row modality) 1 -> row modality", modality=modalities)


def track_means(tokens: Tensor, encoded: Encoded) -> Tensor:
    """For every token, the mean over time of the tokens that share its clip, modality, view, place and person: [token, dim]."""
    keys = torch.stack([encoded.clip, encoded.modality, encoded.view, encoded.place, encoded.person], 1)
    track = torch.unique(keys, dim=0, return_inverse=True)[1]
    count = torch.bincount(track).to(tokens.dtype)[:, None]
    sums = torch.zeros(len(count), tokens.shape[1], dtype=tokens.dtype, device=tokens.device).index_add(
        0, track, tokens
    )
    return (sums / count)[track]


@dataclass(frozen=True)
class Features:
    """What a head reads: values float32 [example, feature], and of which stream each column tells, int [feature]."""

    values: np.ndarray
    stream: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Features:
        return Features(self.values[rows], self.stream)

    def __len__(self) -> int:
        return len(self.values)


def of_one(values: np.ndarray) -> Features:
    """values [example, feature], all of one stream."""
    return Features(values, np.zeros(values.shape[1], np.int64))


def as_features(values: np.ndarray, present: np.ndarray) -> Features:
    """values [row, modality, dim], present [row, modality] -> [row, modality * dim + modality]."""
    _, modalities, dim = values.shape
    stream = np.arange(modalities)
    return Features(
        np.concatenate([values.reshape(len(values), -1), present.astype(values.dtype)], axis=1),
        np.concatenate([stream.repeat(dim), stream]),
    )


def matrix_of(values: Tensor, present: Tensor) -> Tensor:
    """``as_features`` for tensors, with gradients: the values alone."""
    return torch.cat([rearrange(values, "row modality dim -> row (modality dim)"), present.to(values.dtype)], 1)


class ClipDataset(Dataset):
    """The clips of some rows of an index, decoded; a damaged one is None, and one line says so."""

    def __init__(
        self, shards: Path, index: pd.DataFrame, modalities: Collection[str], added: AddedStreams | None = None
    ):
        self.shards, self.index, self.modalities, self.added = shards, index, tuple(modalities), added

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Clip | None:
        row = self.index.iloc[index]
        try:
            clip = read_clip(read_sample(self.shards, row), self.modalities)
            return clip if self.added is None else self.added.put(clip)
        except (UserError, ValueError, OSError, KeyError) as error:
            print(f"{row['key']}: left out, its sample cannot be read: {error}", file=sys.stderr)
            return None


def batches(
    shards: Path,
    index: pd.DataFrame,
    modalities: Collection[str],
    batch_size: int,
    workers: int,
    added: AddedStreams | None = None,
) -> Iterator[list[Clip | None]]:
    """The clips of an index in its order, read and decoded ahead by ``workers`` processes; added: what lies beside the shards."""
    data = ClipDataset(shards, index, modalities, added)
    yield from DataLoader(data, batch_size=batch_size, num_workers=workers, collate_fn=list)


def map_clips(
    shards: Path,
    index: pd.DataFrame,
    functions: Sequence[ClipFunction],
    modalities: Collection[str],
    *,
    parts: Sequence[Sequence[Part]] | None = None,
    batch_size: int = 16,
    workers: int = 1,
    title: str = "clips",
    added: AddedStreams | None = None,
) -> dict[str, np.ndarray]:
    """Applies functions to every clip of an index, with a progress bar, decoding each clip once.

    parts: what rows are wanted for, clip by clip (default: the whole clip). Returns "clip" (position in index), "person", "start"
    and "end" as in Rows, and the functions' own arrays [row, ...]. A damaged clip has no row.
    """
    from rich.progress import track

    found: dict[str, list[np.ndarray]] = {}
    done = 0
    total = -(-len(index) // batch_size)
    for batch in track(batches(shards, index, modalities, batch_size, workers, added), title, total=total):
        kept = [(number, clip) for number, clip in enumerate(batch) if clip is not None]
        positions = done + np.array([number for number, _ in kept], dtype=np.int64)
        done += len(batch)
        wanted = [
            (number, person, start, end)
            for number, position in enumerate(positions)
            for person, start, end in ((WHOLE,) if parts is None else parts[position])
        ]
        if not wanted:
            continue
        rows = Rows.of(wanted)
        results = {"clip": positions[rows.clip], "person": rows.person, "start": rows.start, "end": rows.end}
        for function in functions:
            results |= function([clip for _, clip in kept], rows)
        for name, values in results.items():
            found.setdefault(name, []).append(values)
    if not found:
        raise UserError(f"{shards}: not one clip could be read")
    return {name: np.concatenate(values) for name, values in found.items()}


def encoding(encoder: Encoder, streams: Sequence[str], prefix: str = "", bf16: bool = False) -> ClipFunction:
    """A function for ``map_clips``: "values" float32 [row, stream, 6 * dim] and "present" bool [row, stream].

    bf16: matrix products in bfloat16.
    """
    columns = [encoder.modalities.index(name) for name in streams]

    @torch.inference_mode()
    def run(clips: list[Clip], rows: Rows) -> Mapping[str, np.ndarray]:
        values, present = encode_rows(encoder, clips, rows, streams, bf16)
        return {
            f"{prefix}values": values[:, columns].cpu().numpy(),
            f"{prefix}present": present[:, columns].cpu().numpy(),
        }

    return run


def encode_rows(
    encoder: Encoder, clips: list[Clip], rows: Rows, streams: Sequence[str], bf16: bool = False
) -> tuple[Tensor, Tensor]:
    """``pool`` of encoded clips; a clip that holds none of the streams counts as one that lacks them all."""
    clip, person, window = rows.on(encoder.device)
    return pool(encode(encoder, clips, streams, bf16), clip, person, len(encoder.modalities), window)


def encode(encoder: Encoder, clips: list[Clip], streams: Sequence[str], bf16: bool = False) -> Encoded:
    """``Encoder.encode_clips``, where a clip that holds none of the streams has no token; bf16: matrix products in bfloat16."""
    read = [number for number, clip in enumerate(clips) if readable(clip, streams)]
    if not read:
        nothing = torch.zeros(0, encoder.config.dim, device=encoder.device)
        return Encoded(nothing, nothing, *(nothing.new_zeros(0, dtype=torch.int64) for _ in range(6)))
    with torch.autocast(encoder.device.type, torch.bfloat16, enabled=bf16):
        encoded = encoder.encode_clips([clips[number] for number in read], streams)
    return replace(encoded, clip=torch.tensor(read, device=encoder.device)[encoded.clip])


def readable(clip: Clip, streams: Sequence[str]) -> bool:
    """Whether a clip has anything that the encoder can read; a single frame is no tubelet, rows may be none."""
    for view in clip.views.values():
        if "video" in streams and view.frames is not None and len(view.frames) > 1:
            return True
        if "audio" in streams and view.audio is not None and view.audio.size:
            return True
        if any(name in streams and len(rows["person"]) for name, rows in view.detections().items()):
            return True
    return any(name in streams and len(stream["times"]) for name, stream in clip.streams.items())


def weights_digest(encoder: Encoder) -> str:
    """sha256 of an encoder's own weights, by name; what a method put into it, and what reads added streams, does not count."""
    more = stream_state(encoder)
    own = {name: v for name, v in encoder.state_dict().items() if not set(SMALL) & set(name.split("."))}
    return digest({name: value for name, value in own.items() if name not in more})


def cached(file: Path, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of an npz file, computed and written (temporary name, then renamed) where there is none yet."""
    if file.is_file():
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    arrays = compute()
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp.npz")
    np.savez(temporary, **arrays)  # pyrefly: ignore[bad-argument-type]
    temporary.replace(file)
    return arrays


def digest_of(*parts: object) -> str:
    """A short name for what a result depends on."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


def data_digest(shards: Path) -> str:
    """sha256 of the index of some shards, which holds the checksum of every sample."""
    return hashlib.sha256((shards / "index.parquet").read_bytes()).hexdigest()
