"""Who attends to whom in a packed batch, and what is read beyond one's own block, pooled over time.

Own attention: a block (a video segment; one stream of one person in one chunk of the time grid) attends to itself.
Reading: a block reads every other block of its clip that lies within ``reach_chunks``, one source at a time. A source
is a modality and a relation (same person, other person, scene), never an index. The keys of a source are averages over
``pool_seconds`` of what stands at the same place, so that the cost is linear in the clip's length.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pretrain.attention import Blocks, Rows, ranges
from pretrain.config import ModelConfig
from pretrain.tokens import SCENE, Tokens

RELATIONS = ("same", "other", "scene")


def relation(reader: int, read: int) -> str:
    """How two persons stand to each other: "same", "other", or "scene" where either token belongs to nobody."""
    if SCENE in (reader, read):
        return "scene"
    return "same" if reader == read else "other"


@dataclass
class Layout:
    """The plan of one packed batch, the same for every layer.

    own: the blocks. readable [readable]: the tokens that others may read; pool [readable]: the pooled row that each of them
    adds to; pool_size [pooled]: how many do. query_time [token], key_time [pooled]: seconds. sources: which tokens read which
    pooled rows, by "<modality>_<relation>".
    """

    own: Blocks
    readable: Rows
    pool: Tensor
    pool_size: Tensor
    query_time: Tensor
    key_time: Tensor
    sources: dict[str, Blocks]

    def to(self, device: torch.device | str) -> Layout:
        self.own.to(device)
        self.readable.to(device)
        for name in ("pool", "pool_size", "query_time", "key_time"):
            setattr(self, name, getattr(self, name).to(device))
        for source in self.sources.values():
            source.to(device)
        return self

    def pooled(self, x: Tensor) -> Tensor:
        """Means over time: x [token, dim] -> [pooled, dim]."""
        sums = torch.zeros(len(self.pool_size), x.shape[-1], dtype=x.dtype, device=x.device)
        sums = sums.index_add(0, self.pool, self.readable.of(x))
        return sums / self.pool_size[:, None].to(x.dtype)


@dataclass
class _BlockTable:
    """One row a block of the packed batch."""

    modality: np.ndarray
    clip: np.ndarray
    view: np.ndarray
    person: np.ndarray
    chunk: np.ndarray
    start: np.ndarray
    length: np.ndarray
    pooled_start: np.ndarray
    pooled_length: np.ndarray


def plan(tokens: dict[str, Tokens], config: ModelConfig, readable: dict[str, np.ndarray] | None = None) -> Layout:
    """The layout of packed tokens: the modalities one after the other, blocks contiguous in each.

    ``readable``: bool [token] a modality: which tokens others may read (all of them where None; a decoder's queries are not).
    """
    names = list(tokens)
    column = {
        name: np.concatenate([getattr(tokens[m], name) for m in names])
        for name in ("clip", "view", "person", "chunk", "place", "time")
    }
    modality = np.repeat(np.arange(len(names)), [len(tokens[m]) for m in names])
    edges = np.flatnonzero(
        np.concatenate([np.ones(len(tokens[m])) if not len(tokens[m]) else _edges(tokens[m].block) for m in names])
    )
    block = np.zeros(len(modality), np.int64)
    block[edges] = 1
    block = np.cumsum(block) - 1
    can_read = np.ones(len(block), bool) if readable is None else np.concatenate([readable[m] for m in names])

    bucket = np.floor(column["time"] / config.pool_seconds + 1e-6).astype(np.int64)
    keys = np.stack([block, bucket, column["place"]], 1)[can_read]
    groups, pool = np.unique(keys, axis=0, return_inverse=True)
    pool = pool.ravel()
    size = np.bincount(pool, minlength=len(groups))
    key_time = np.bincount(pool, column["time"][can_read], minlength=len(groups)) / np.maximum(size, 1)

    pooled_length = np.bincount(groups[:, 0], minlength=len(edges)) if len(groups) else np.zeros(len(edges), np.int64)
    length = np.diff(np.append(edges, len(block)))
    table = _BlockTable(
        modality=modality[edges],
        clip=column["clip"][edges],
        view=column["view"][edges],
        person=column["person"][edges],
        chunk=column["chunk"][edges],
        start=edges,
        length=length,
        pooled_start=np.cumsum(pooled_length) - pooled_length,
        pooled_length=pooled_length,
    )
    return Layout(
        own=Blocks(length),
        readable=Rows(np.flatnonzero(can_read)),
        pool=torch.from_numpy(pool),
        pool_size=torch.from_numpy(size).float(),
        query_time=torch.from_numpy(column["time"]).float(),
        key_time=torch.from_numpy(key_time).float(),
        sources=_sources(table, names, config.reach_chunks),
    )


def _edges(block: np.ndarray) -> np.ndarray:
    return np.concatenate([[True], block[1:] != block[:-1]])


def _sources(table: _BlockTable, names: Sequence[str], reach: int) -> dict[str, Blocks]:
    """For every source, the blocks that read and the pooled rows that each of them reads."""
    at: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, place in enumerate(zip(table.clip.tolist(), table.chunk.tolist(), strict=True)):
        at[place].append(number)
    readings: dict[str, list[tuple[int, list[int]]]] = defaultdict(list)
    person, modality, pooled = table.person.tolist(), table.modality.tolist(), table.pooled_length.tolist()
    for (clip, chunk), readers in at.items():
        near = [b for c in range(chunk - reach, chunk + reach + 1) for b in at.get((clip, c), ()) if pooled[b]]
        for reader in readers:
            read: dict[str, list[int]] = defaultdict(list)
            for other in near:
                if other != reader:
                    read[f"{names[modality[other]]}_{relation(person[reader], person[other])}"].append(other)
            for source, others in read.items():
                readings[source].append((reader, others))
    return {name: _source(table, sorted(readings[name])) for name in sorted(readings)}


def _source(table: _BlockTable, readings: list[tuple[int, list[int]]]) -> Blocks:
    readers = np.array([reader for reader, _ in readings])
    others = np.array([block for _, blocks in readings for block in blocks])
    per_reader = np.repeat(np.arange(len(readings)), [len(blocks) for _, blocks in readings])
    key_lengths = np.bincount(per_reader, table.pooled_length[others], minlength=len(readings)).astype(np.int64)
    return Blocks(
        table.length[readers],
        key_lengths,
        query_rows=ranges(table.start[readers], table.length[readers]),
        key_rows=ranges(table.pooled_start[others], table.pooled_length[others]),
    )
