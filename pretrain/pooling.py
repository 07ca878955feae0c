"""Who attends to whom in a packed batch, and what is read beyond one's own block, pooled over time.

Own attention: a block (a video segment; one stream of one person in one chunk of the time grid) attends to itself.
Reading: a block reads every other block of its clip that lies within ``reach_chunks`` (before and after its own; before
alone where ``causal``), one source at a time. A source is a modality and a relation (same person, other person, scene),
never an index. The keys of a source stand for all tokens of one place within ``pool_seconds``, so that the cost is linear in
the clip's length.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor

from pretrain.attention import Blocks, Rows, ranges
from pretrain.config import ModelConfig
from pretrain.tokens import SCENE, Tokens

RELATIONS = ("same", "other", "scene")
PART = 2048  # tokens that go through a layer at once, where no gradient is wanted
SHORTEST_PERIOD, LONGEST_PERIOD = 0.5, 1000.0  # seconds, of the rotary embedding


def relation(reader: int, read: int) -> str:
    """How two persons stand to each other: "same", "other", or "scene" where either token belongs to nobody."""
    if SCENE in (reader, read):
        return "scene"
    return "same" if reader == read else "other"


class Moments:
    """Times in seconds, float64 [row], and the turns of their rotary embedding: made once for all layers."""

    def __init__(self, seconds: np.ndarray):
        self.seconds = torch.from_numpy(seconds)
        self._turns: dict[tuple[int, torch.dtype], tuple[Tensor, Tensor]] = {}

    def to(self, device: torch.device | str) -> Moments:
        self.seconds = self.seconds.to(device)
        return self

    def between(self, start: int, end: int) -> Moments:
        """Those of the rows from ``start`` to ``end``."""
        return Moments(self.seconds[start:end].numpy())

    def turns(self, half: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine [row, 1, half]; in float64 before they are rounded: hours are long for float32."""
        if (half, dtype) not in self._turns:
            ratio = torch.arange(half, device=self.seconds.device) / max(half - 1, 1)
            period = SHORTEST_PERIOD * (LONGEST_PERIOD / SHORTEST_PERIOD) ** ratio.double()
            angle = (2 * torch.pi * self.seconds[:, None] / period)[:, None]
            self._turns[half, dtype] = angle.cos().to(dtype), angle.sin().to(dtype)
        return self._turns[half, dtype]

    def rotate(self, x: Tensor) -> Tensor:
        """x [row, head, dim] turned by its time, so that products see differences of time alone."""
        half = x.shape[-1] // 2
        cos, sin = self.turns(half, x.dtype)
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


@dataclass
class Groups:
    """Rows that are put together: rows [taken], the group of each of them [taken], and how many a group has [group]."""

    rows: Rows
    group: Tensor
    size: Tensor

    def to(self, device: torch.device | str) -> Groups:
        self.rows.to(device)
        self.group, self.size = self.group.to(device), self.size.to(device)
        return self

    def mean(self, x: Tensor) -> Tensor:
        """x [row, dim] -> [group, dim]"""
        sums = torch.zeros(len(self.size), x.shape[-1], dtype=x.dtype, device=x.device)
        return sums.index_add(0, self.group, self.rows.of(x)) / self.size[:, None].to(x.dtype)

    def weighted_mean(self, x: Tensor, score: Tensor) -> Tensor:
        """x [row, dim] weighted by the softmax of ``score`` [row] within each group -> [group, dim]."""
        score = self.rows.of(score)
        highest = torch.full_like(self.size, -torch.inf, dtype=score.dtype)
        highest = highest.scatter_reduce(0, self.group, score.detach(), "amax")
        weight = (score - highest[self.group]).exp()
        total = torch.zeros_like(highest).index_add(0, self.group, weight)
        weight = (weight / total[self.group])[:, None].to(x.dtype)
        sums = torch.zeros(len(self.size), x.shape[-1], dtype=x.dtype, device=x.device)
        return sums.index_add(0, self.group, self.rows.of(x) * weight)


class Tracks:
    """The tokens of one place of a block, step by step: int64 [token] each."""

    def __init__(self, block: np.ndarray, place: np.ndarray, step: np.ndarray):
        self.block, self.place, self.step = block, place, step
        self._neighbours: tuple[Tensor, Tensor] | None = None

    def between(self, start: int, end: int) -> Tracks:
        """Those of the rows from ``start`` to ``end``, whole blocks."""
        return Tracks(self.block[start:end], self.place[start:end], self.step[start:end])

    def neighbours(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The rows of the tokens one step before and one step after each, int64 [token]; the token count where there is none."""
        if self._neighbours is None:
            order = np.lexsort((self.step, self.place, self.block))
            block, place, step = self.block[order], self.place[order], self.step[order]
            follows = (np.diff(block) == 0) & (np.diff(place) == 0) & (np.diff(step) == 1)
            before, after = np.full(len(order), len(order)), np.full(len(order), len(order))
            before[order[1:][follows]], after[order[:-1][follows]] = order[:-1][follows], order[1:][follows]
            self._neighbours = torch.from_numpy(before).to(device), torch.from_numpy(after).to(device)
        return self._neighbours


@dataclass
class Layout:
    """The plan of one packed batch, the same for every layer.

    own: the blocks. pool: the tokens that others may read, and the pooled row that each of them adds to. query_time [token],
    key_time [pooled]: when. sources: which tokens read which pooled rows, by "<modality>_<relation>". key_weight [pooled]:
    logarithm of the number of tokens that a pooled row stands for. tracks: which token follows which at its place. upper: for
    the layers that run on fewer tokens.
    """

    own: Blocks
    pool: Groups
    query_time: Moments
    key_time: Moments
    key_weight: Tensor
    sources: dict[str, Blocks]
    tracks: Tracks
    upper: Upper | None = None

    @functools.cached_property
    def parts(self) -> list[tuple[slice, Layout]]:
        """The layout cut between blocks: rows of about PART tokens, or of one block, and the layout of each; whole where a block's
        tokens do not lie together."""
        if not self.own.query.consecutive:
            return [(slice(None), self)]
        ends = np.cumsum(self.own.query_lengths)
        numbers = (ends - self.own.query_lengths) // PART
        edges = [0, *ends[np.diff(numbers, append=-1) != 0].tolist()]
        return [(slice(*rows), self.between(*rows)) for rows in itertools.pairwise(edges)]

    def between(self, start: int, end: int) -> Layout:
        """The layout of the rows from ``start`` to ``end``, whole blocks, which read the pooled rows of all."""
        ends = np.cumsum(self.own.query_lengths)
        sources = {name: source.between(start, end) for name, source in self.sources.items()}
        return Layout(
            own=Blocks(self.own.query_lengths[(ends > start) & (ends <= end)]),
            pool=self.pool,
            query_time=self.query_time.between(start, end),
            key_time=self.key_time,
            key_weight=self.key_weight,
            sources={name: source for name, source in sources.items() if len(source.query_lengths)},
            tracks=self.tracks.between(start, end),
        )

    def to(self, device: torch.device | str) -> Layout:
        for part in (self.own, self.pool, self.query_time, self.key_time, *self.sources.values()):
            part.to(device)
        self.key_weight = self.key_weight.to(device)
        if self.upper:
            self.upper.groups.to(device)
            self.upper.layout.to(device)
        return self


@dataclass
class Upper:
    """Tokens of one place put together over time (``groups``), and the layout of what becomes of them."""

    groups: Groups
    layout: Layout


@dataclass
class Columns:
    """What the plan needs to know of each packed token: int64 [token], time in float64 seconds.

    step: which token in time of its block. readable: bool [token], whether others may read it.
    """

    modality: np.ndarray
    clip: np.ndarray
    view: np.ndarray
    person: np.ndarray
    chunk: np.ndarray
    block: np.ndarray
    place: np.ndarray
    step: np.ndarray
    time: np.ndarray
    readable: np.ndarray

    def of(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {f.name: getattr(self, f.name)[rows] for f in fields(self)}


@dataclass
class BlockTable:
    """One row a block of the packed batch, int64 [block]; pooled_start counts pooled rows."""

    modality: np.ndarray
    clip: np.ndarray
    view: np.ndarray
    person: np.ndarray
    chunk: np.ndarray
    start: np.ndarray
    length: np.ndarray
    pooled_start: np.ndarray
    pooled_length: np.ndarray


@dataclass
class Pooled:
    """The blocks of packed tokens, and what others read of them: groups, their times (seconds) and sizes [pooled]."""

    table: BlockTable
    groups: Groups
    time: np.ndarray
    size: np.ndarray
    query_time: np.ndarray = field(repr=False)
    tracks: Tracks


def plan(tokens: dict[str, Tokens], config: ModelConfig, readable: dict[str, np.ndarray] | None = None) -> Layout:
    """The layout of packed tokens: the modalities one after the other, blocks contiguous in each.

    ``readable``: bool [token] a modality: which tokens others may read (all of them where None; a decoder's queries are
    not). A decoder, which says so, has no upper layers on fewer tokens.
    """
    columns = columns_of(tokens, config, readable)
    layout = lay_out(columns, config)
    if config.upper_rate > 1 and readable is None:
        groups, fewer = coarser(columns, config.upper_rate)
        layout.upper = Upper(groups, lay_out(fewer, config))
    return layout


def columns_of(tokens: dict[str, Tokens], config: ModelConfig, readable: dict[str, np.ndarray] | None) -> Columns:
    """The columns of packed tokens; modalities are counted as in ``config.modalities``."""

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in tokens.values()])

    counts = [len(part) for part in tokens.values()]
    places = [np.array([rows * columns for _, rows, columns in part.grids])[part.grid] for part in tokens.values()]
    first = np.concatenate([_edges(part.block) for part in tokens.values()])
    return Columns(
        modality=np.repeat([config.modalities.index(name) for name in tokens], counts),
        **{name: column(name) for name in ("clip", "view", "person", "chunk", "place", "time")},
        block=np.cumsum(first) - 1,
        step=column("position") // np.concatenate(places),
        readable=np.ones(len(first), bool) if readable is None else np.concatenate([readable[m] for m in tokens]),
    )


def _edges(block: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ones(min(len(block), 1), bool), block[1:] != block[:-1]])


def coarser(columns: Columns, rate: int) -> tuple[Groups, Columns]:
    """``rate`` steps of a place and block become one token: the groups, and the columns of the fewer tokens."""
    keys = np.stack([columns.block, columns.step // rate, columns.place], 1)
    _, first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    group = group.ravel()
    size = np.bincount(group)
    fewer = columns.of(first) | {"time": np.bincount(group, columns.time) / size, "step": keys[first, 1]}
    groups = Groups(Rows(np.arange(len(group))), torch.from_numpy(group), torch.from_numpy(size))
    return groups, Columns(**fewer)


def lay_out(columns: Columns, config: ModelConfig) -> Layout:
    """The layout of tokens of which these columns are known."""
    pooled = pool(columns, config.pool_seconds)
    return layout_of(pooled.table, pooled, pooled, np.arange(len(pooled.table.chunk)), config)


def pool(columns: Columns, seconds: float) -> Pooled:
    """The blocks, and the groups of readable tokens that stand at one place of a block within ``seconds``."""
    edges = np.flatnonzero(_edges(columns.block))
    rows = np.flatnonzero(columns.readable)
    bucket = np.floor(columns.time / seconds + 1e-6).astype(np.int64)
    keys = np.stack([columns.block, bucket, columns.place], 1)[rows]
    groups, group = np.unique(keys, axis=0, return_inverse=True)
    group = group.ravel()
    size = np.bincount(group, minlength=len(groups))
    lengths = np.bincount(groups[:, 0], minlength=len(edges))
    table = BlockTable(
        **{name: getattr(columns, name)[edges] for name in ("modality", "clip", "view", "person", "chunk")},
        start=edges,
        length=np.diff(np.append(edges, len(columns.block))),
        pooled_start=np.cumsum(lengths) - lengths,
        pooled_length=lengths,
    )
    return Pooled(
        table,
        Groups(Rows(rows), torch.from_numpy(group), torch.from_numpy(size)),
        np.bincount(group, columns.time[rows], minlength=len(groups)) / np.maximum(size, 1),
        size,
        columns.time,
        Tracks(columns.block, columns.place, columns.step),
    )


def layout_of(table: BlockTable, mine: Pooled, keys: Pooled, readers: np.ndarray, config: ModelConfig) -> Layout:
    """The layout in which the blocks ``readers`` of the table, whose tokens ``mine`` holds, read the pooled rows of ``keys``."""
    return Layout(
        own=Blocks(mine.table.length),
        pool=mine.groups,
        query_time=Moments(mine.query_time),
        key_time=Moments(keys.time),
        key_weight=torch.from_numpy(np.log(keys.size)),
        sources=_sources(table, readers, keys.size, config),
        tracks=mine.tracks,
    )


def with_prompts(layout: Layout, count: int) -> Layout:
    """The layout of the same tokens and, after them, ``count`` more for each block, which attend and are attended to in it only."""
    lengths, tokens = layout.own.query_lengths, len(layout.query_time.seconds)
    blocks = np.arange(len(lengths))
    rows = np.argsort(np.concatenate([blocks.repeat(lengths), blocks.repeat(count)]), kind="stable")
    more = len(blocks) * count
    seconds = np.concatenate(
        [layout.query_time.seconds.cpu().numpy(), np.zeros(more)]
    )  # of no use: prompts read nothing else
    upper = layout.upper
    if upper is not None:
        groups = upper.groups
        group, size = groups.group.cpu(), groups.size.cpu()
        longer = Groups(
            Rows(np.arange(tokens + more)),
            torch.cat([group, len(size) + torch.arange(more)]),
            torch.cat([size, size.new_ones(more)]),
        )
        upper = Upper(longer, with_prompts(upper.layout, count))
    own = Blocks(lengths + count, query_rows=rows, key_rows=rows)
    return replace(layout, own=own, query_time=Moments(seconds), upper=upper)


def _sources(table: BlockTable, readers: np.ndarray, size: np.ndarray, config: ModelConfig) -> dict[str, Blocks]:
    """For every source, the blocks that read and the pooled rows that each of them reads."""
    at: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, place in enumerate(zip(table.clip.tolist(), table.chunk.tolist(), strict=True)):
        at[place].append(number)
    reading: dict[tuple[int, int], list[int]] = defaultdict(list)
    for reader in readers.tolist():
        reading[int(table.clip[reader]), int(table.chunk[reader])].append(reader)
    ahead = 0 if config.causal else config.reach_chunks
    readings: dict[str, list[tuple[int, list[int]]]] = defaultdict(list)
    person, modality, pooled = table.person.tolist(), table.modality.tolist(), table.pooled_length.tolist()
    for (clip, chunk), some in reading.items():
        chunks = range(chunk - config.reach_chunks, chunk + ahead + 1)
        near = [block for c in chunks for block in at.get((clip, c), ()) if pooled[block]]
        for reader in some:
            read: dict[str, list[int]] = defaultdict(list)
            for other in near:
                if other != reader:
                    name = config.modalities[modality[other]]
                    read[f"{name}_{relation(person[reader], person[other])}"].append(other)
            for source, others in read.items():
                readings[source].append((reader, others))
    return {name: _source(table, sorted(readings[name]), size) for name in sorted(readings)}


def _source(table: BlockTable, readings: list[tuple[int, list[int]]], size: np.ndarray) -> Blocks:
    readers = np.array([reader for reader, _ in readings])
    others = np.array([block for _, blocks in readings for block in blocks])
    per_reader = np.repeat(np.arange(len(readings)), [len(blocks) for _, blocks in readings])
    key_lengths = np.bincount(per_reader, table.pooled_length[others], minlength=len(readings)).astype(np.int64)
    key_rows = ranges(table.pooled_start[others], table.pooled_length[others])
    edges = np.cumsum(key_lengths) - key_lengths
    sizes = size[key_rows]
    return Blocks(
        table.length[readers],
        key_lengths,
        query_rows=ranges(table.start[readers], table.length[readers]),
        key_rows=key_rows,
        # a weight that all keys of a softmax share changes nothing
        weighted=bool((np.maximum.reduceat(sizes, edges) > np.minimum.reduceat(sizes, edges)).any()),
    )


def joined(parts: Sequence[Pooled]) -> tuple[BlockTable, Pooled]:
    """The blocks and pooled rows of several pieces of a clip, one after the other; a block's ``start`` counts in its piece."""
    rows = np.cumsum([0] + [len(part.size) for part in parts[:-1]])
    columns = {f.name: np.concatenate([getattr(part.table, f.name) for part in parts]) for f in fields(BlockTable)}
    columns["pooled_start"] = columns["pooled_start"] + np.repeat(rows, [len(part.table.start) for part in parts])
    time, size = (np.concatenate([getattr(part, name) for part in parts]) for name in ("time", "size"))
    nothing = Groups(Rows(np.arange(0)), torch.zeros(0), torch.zeros(0))  # each piece has pooled its own
    table = BlockTable(**columns)
    no = np.zeros(0, np.int64)
    return table, Pooled(table, nothing, time, size, np.zeros(0), Tracks(no, no, no))
