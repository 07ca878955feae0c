"""From shards to batches: a WebDataset pipeline that reads every clip once an epoch and goes on exactly where it was left.

The order of an epoch follows from (seed, epoch) alone and is cut into batches before it is dealt out to processes and
loader workers. So a step holds the same clips whatever the number of processes; to resume at a step is arithmetic, nothing
is read to be thrown away; and index.parquet's offsets lead straight to the bytes (docs/decisions.md).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import webdataset as wds

from configs import UserError
from data_prep.shards import read_index, read_sample
from pretrain.clips import Clip, read_clip
from pretrain.config import DataConfig, RunConfig
from pretrain.objective import Batch
from pretrain.processes import ignore_stop_signals
from pretrain.tracking import say


def epoch_order(shards: np.ndarray, seed: int, epoch: int, mixed: int) -> np.ndarray:
    """The row numbers of an epoch: shards in random order, the clips of ``mixed`` of them at a time shuffled together.

    shards: the shard of each row [row]. Returns a permutation of the rows, int64 [row].
    """
    random = np.random.default_rng([seed, epoch])
    names, shard_of_row = np.unique(shards, return_inverse=True)
    group_of_shard = np.empty(len(names), np.int64)
    group_of_shard[random.permutation(len(names))] = np.arange(len(names)) // mixed
    shuffled = random.permutation(len(shards))
    return shuffled[np.argsort(group_of_shard[shard_of_row[shuffled]], kind="stable")]


def mask_seed(seed: int, key: str, epoch: int) -> int:
    """The seed of a clip's mask: another one each epoch, the same again after an interruption."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{epoch}/{key}".encode(), digest_size=8).digest()[:7], "big")


class Clips:
    """The clips of a folder of shards, by row of its index. Raises UserError where there are none."""

    def __init__(self, config: DataConfig, modalities: Sequence[str]):
        self.folder, self.modalities = config.shards, modalities
        index = read_index(config.shards)
        if config.splits is not None:
            index = index[index["split"].isin(config.splits)]
        if index.empty:
            raise UserError(f"{config.shards}: no clips" + (f" of split {config.splits}" if config.splits else ""))
        self.index = index.sort_values("key", ignore_index=True)
        self.shards = self.index["shard"].to_numpy()
        self._cache: dict[int, Clip] | None = {} if config.cache else None
        self._unreadable: set[int] = set()

    def __len__(self) -> int:
        return len(self.index)

    def digest(self) -> str:
        """Changes when clips are added, removed or renamed."""
        return hashlib.sha256("\n".join(self.index["key"]).encode()).hexdigest()

    def __getitem__(self, row: int) -> Clip:
        """The clip of a row; in place of one that cannot be read, the next that can (said in one line)."""
        if self._cache is not None and row in self._cache:
            return self._cache[row]
        for number in range(row, row + len(self)):
            clip = self._read(number % len(self))
            if clip is not None:
                if self._cache is not None:
                    self._cache[row] = clip
                return clip
        raise UserError(f"{self.folder}: none of {len(self)} clips can be read")

    def _read(self, row: int) -> Clip | None:
        if row in self._unreadable:
            return None
        try:
            clip = read_clip(read_sample(self.folder, self.index.iloc[row]), self.modalities)
            if holds_something(clip):
                return clip
            reason = f"holds nothing of {', '.join(self.modalities)}"
        except (UserError, ValueError) as error:
            reason = " ".join(str(error).split())
        say(f"{self.folder / self.shards[row]}: clip {self.index['key'][row]}: {reason}; the next clip takes its place")
        self._unreadable.add(row)
        return None

    def spread(self, count: int) -> list[Clip]:
        """``count`` clips (or all, where there are fewer), evenly spread: the same ones in every process."""
        return [self[row] for row in np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).astype(int))]

    def seconds(self) -> float:
        """How long all clips are together."""
        return float((self.index["end"] - self.index["start"]).sum())

    def summary(self) -> dict[str, object]:
        """What the model card says of the data: counts and digests, no names of recordings or people and no paths.

        The digest of a shard is the sha256 of its clips' sums in the index, a line each, in the order of their offsets.
        """
        people = {
            name
            if not name.isdigit()
            else (recording, name)  # a number without a name means somebody within a recording
            for recording, names in zip(self.index["recording"], self.index["people"], strict=True)
            for name in names
        }
        by_shard = self.index.sort_values("offset").groupby("shard")["sha256"]
        shards = {name: hashlib.sha256("".join(f"{s}\n" for s in sums).encode()).hexdigest() for name, sums in by_shard}
        members = [{name.split(".")[-2] for name in names if "." in name} for names in self.index["members"]]
        return {
            "clips": len(self),
            "recordings": int(self.index["recording"].nunique()),
            "hours": round(self.seconds() / 3600, 4),
            "people": len(people),
            "streams": {name: sum(name in found for found in members) for name in self.modalities},
            "shards": shards,
        }


def holds_something(clip: Clip) -> bool:
    """Whether there is anything to learn from: two frames, sound, or a row of any other stream."""
    views = clip.views.values()
    rows = [stream for view in views for stream in view.detections().values()] + list(clip.streams.values())
    return (
        any(view.frames is not None and len(view.frames) > 1 for view in views)
        or any(view.audio is not None and view.audio.shape[1] > 0 for view in views)
        or any(len(stream.get("window", stream.get("values", ()))) > 0 for stream in rows)
    )


@dataclass(frozen=True)
class Plan:
    """Which clips a process reads: ``each`` clips a forward pass, ``accumulate`` passes a step, from step ``step`` on."""

    shards: np.ndarray
    seed: int
    mixed: int
    each: int
    accumulate: int
    rank: int
    processes: int
    step: int

    def passes(self, worker: int = 0, workers: int = 1) -> Iterator[list[tuple[int, int]]]:
        """Without end: the (row, epoch) of every clip of each forward pass that this worker prepares."""
        order = functools.lru_cache(2)(lambda epoch: epoch_order(self.shards, self.seed, epoch, self.mixed))
        rows = len(self.shards)
        for number in itertools.count(self.step * self.accumulate + worker, workers):
            first = (number * self.processes + self.rank) * self.each
            places = [divmod(place, rows) for place in range(first, first + self.each)]
            yield [(int(order(epoch)[place]), epoch) for epoch, place in places]

    def __call__(self) -> Iterator[list[tuple[int, int]]]:
        """The passes of the loader worker that asks (webdataset calls its source)."""
        info = torch.utils.data.get_worker_info()
        return self.passes() if info is None else self.passes(info.id, info.num_workers)


def batches(
    config: RunConfig,
    clips: Clips,
    collate: Callable[[list[Clip], list[int]], Batch],
    rank: int,
    processes: int,
    step: int,
) -> Iterator[Batch]:
    """The batches of one process from a step on, ``accumulate`` a step, without end.

    Raises UserError where the batch cannot be divided evenly.
    """
    passes = processes * config.accumulate
    if config.batch % passes:
        raise UserError(
            f"batch {config.batch} is no multiple of processes ({processes}) x accumulate ({config.accumulate}): "
            f"take {max(config.batch // passes, 1) * passes} or {(config.batch // passes + 1) * passes}"
        )
    each = config.batch // passes
    plan = Plan(clips.shards, config.seed, config.data.shuffle_shards, each, config.accumulate, rank, processes, step)

    def read(places: list[tuple[int, int]]) -> tuple[list[Clip], list[int]]:
        found = [clips[row] for row, _ in places]
        return found, [mask_seed(config.seed, clip.key, epoch) for clip, (_, epoch) in zip(found, places, strict=True)]

    pipeline = wds.DataPipeline(plan, wds.map(read), wds.map(lambda found: collate(*found)))
    loader = wds.WebLoader(
        pipeline,
        batch_size=None,
        num_workers=config.data.workers,
        worker_init_fn=lambda worker: ignore_stop_signals(),
    )
    return iter(loader)
