"""Attention over packed tokens: the only place that knows which kernel runs.

Tokens of many blocks lie one after the other in one sequence; a query sees the keys of its own block and no others
(a block-diagonal mask), and nothing is padded. On CUDA that is xformers' BlockDiagonalMask; elsewhere blocks of equal
shape are stacked and go through PyTorch's scaled_dot_product_attention, which is exact and needs no mask either.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention


class Rows:
    """Row numbers; consecutive ones are taken as a view, for gathering is what packed attention costs on a CPU."""

    def __init__(self, numbers: np.ndarray):
        self.index = torch.from_numpy(numbers)
        self.consecutive = len(numbers) > 0 and bool((np.diff(numbers) == 1).all())
        self.start = int(numbers[0]) if self.consecutive else 0

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str) -> Rows:
        self.index = self.index.to(device)
        return self

    def of(self, x: Tensor) -> Tensor:
        """x [row, ...] -> the rows of these numbers."""
        if self.consecutive:
            return x[self.start : self.start + len(self)]
        return x.index_select(0, self.index)

    def put(self, x: Tensor, total: int) -> Tensor:
        """x [number, ...] -> [total, ...] with x at these rows and zero elsewhere."""
        if self.consecutive and len(self) == total:
            return x
        return x.new_zeros(total, *x.shape[1:]).index_copy(0, self.index, x)


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """start, start + 1, ... start + length - 1 of every row, one after the other."""
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - before, lengths)


class Group(NamedTuple):
    """Blocks of one shape: how many, and how many query and key rows they have together."""

    blocks: int
    queries: int
    keys: int


class Blocks:
    """Which rows attend to which: query block b (query_lengths [block]) reads key block b (key_lengths [block]).

    query_rows, key_rows: the rows of the query and key tensors that the blocks hold, one block after the other; None where
    they are all rows, in order. weighted: whether keys of one block differ in their weight. Blocks of equal shape are
    grouped once, for all layers.
    """

    def __init__(
        self,
        query_lengths: np.ndarray,
        key_lengths: np.ndarray | None = None,
        query_rows: np.ndarray | None = None,
        key_rows: np.ndarray | None = None,
        weighted: bool = False,
    ):
        key_lengths = query_lengths if key_lengths is None else key_lengths
        query_rows = np.arange(query_lengths.sum()) if query_rows is None else query_rows
        key_rows = np.arange(key_lengths.sum()) if key_rows is None else key_rows
        self.query_lengths, self.key_lengths, self.weighted = query_lengths, key_lengths, weighted
        self.query, self.key = Rows(query_rows), Rows(key_rows)
        query_starts, key_starts = np.cumsum(query_lengths) - query_lengths, np.cumsum(key_lengths) - key_lengths
        shapes, which = np.unique(np.stack([query_lengths, key_lengths], 1), axis=0, return_inverse=True)
        members = sorted((np.flatnonzero(which.ravel() == number) for number in range(len(shapes))), key=lambda m: m[0])
        queries = [query_rows[ranges(query_starts[blocks], query_lengths[blocks])] for blocks in members]
        keys = [key_rows[ranges(key_starts[blocks], key_lengths[blocks])] for blocks in members]
        self.groups = [Group(*map(len, group)) for group in zip(members, queries, keys, strict=True)]
        self.grouped_query = Rows(np.concatenate(queries or [query_rows]))
        self.grouped_key = Rows(np.concatenate(keys or [key_rows]))
        self._mask: Any = None
        self._longer: dict[int, Blocks] = {}

    def longer(self, count: int) -> Blocks:
        """The blocks when all of them read, before their own keys, the same ``count`` rows that stand before all others.

        Made once for all layers.
        """
        if count not in self._longer:
            lengths = self.key_lengths
            starts = np.stack([np.zeros_like(lengths), np.cumsum(lengths) - lengths + count], 1)
            rows = ranges(starts.ravel(), np.stack([np.full_like(lengths, count), lengths], 1).ravel())
            self._longer[count] = Blocks(self.query_lengths, lengths + count, key_rows=rows)
        return self._longer[count]

    def between(self, start: int, end: int) -> Blocks:
        """The blocks whose queries are the rows from ``start`` to ``end``, counted from there, with the keys that they read."""
        query, key = self.query.index.numpy(), self.key.index.numpy()
        first, last = np.searchsorted(query, [start, end])
        edges = np.cumsum(self.query_lengths)
        blocks = slice(*np.searchsorted(edges, [first, last], side="right"))
        keys = slice(*np.append(0, np.cumsum(self.key_lengths))[[blocks.start, blocks.stop]])
        lengths = self.query_lengths[blocks], self.key_lengths[blocks]
        return Blocks(*lengths, query[first:last] - start, key[keys], self.weighted)

    def to(self, device: torch.device | str) -> Blocks:
        """In place."""
        if torch.device(device).type == "cuda":
            self.query.to(device), self.key.to(device)
        else:
            self.grouped_query.to(device), self.grouped_key.to(device)
        return self

    @property
    def mask(self) -> Any:
        """xformers' mask of these lengths, made once."""
        if self._mask is None:
            mask = _xformers().BlockDiagonalMask
            self._mask = mask.from_seqlens(self.query_lengths.tolist(), self.key_lengths.tolist())
        return self._mask


@functools.cache
def _xformers() -> Any:
    # Its six lines about a C++ extension that does not match are no news: PyTorch's kernels are used then.
    logging.getLogger("xformers").setLevel(logging.ERROR)
    import xformers.ops

    return xformers.ops.fmha


WEIGHT_DIMS = 8  # one holds the weight; CUDA's kernels want multiples of eight


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, key_weight: Tensor | None = None
) -> Tensor:
    """Softmax attention within each block, scaled by 1 / sqrt(head_dim); zero for queries that stand in no block.

    query [query, heads, head_dim], key and value [key, heads, head_dim] -> [query, heads, head_dim]. key_weight [key]:
    logarithms that are added to the logits where the blocks are ``weighted``.
    """
    weight = key_weight.to(key.dtype) if key_weight is not None and blocks.weighted else None
    return (_on_cuda if query.is_cuda else _stacked)(query, key, value, blocks, weight)


def _on_cuda(query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, weight: Tensor | None) -> Tensor:
    scale, dim = query.shape[-1] ** -0.5, query.shape[-1]
    if weight is not None:  # as one more dimension of queries and keys; a matrix of logits is what we do not want
        ones = torch.full_like(query[..., :1], 1 / scale)
        longer = [torch.cat([query, ones], -1), torch.cat([key, weight[:, None, None].expand(*key.shape[:2], 1)], -1)]
        query, key, value = (pad(x, (0, dim + WEIGHT_DIMS - x.shape[-1])) for x in (*longer, value))
    packed = [rows.of(x)[None] for rows, x in ((blocks.query, query), (blocks.key, key), (blocks.key, value))]
    out = _xformers().memory_efficient_attention(*packed, attn_bias=blocks.mask, scale=scale)[0]
    return blocks.query.put(out, len(query))[..., :dim]


def _stacked(query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, weight: Tensor | None) -> Tensor:
    # one gathering for all groups, and a split, whose gradient is one concatenation: slices would each add a whole tensor
    queries = blocks.grouped_query.of(query).split([group.queries for group in blocks.groups])
    keys, values = (blocks.grouped_key.of(x).split([group.keys for group in blocks.groups]) for x in (key, value))
    weights: Sequence[Tensor | None] = [None] * len(blocks.groups)
    if weight is not None:
        weights = blocks.grouped_key.of(weight).split([group.keys for group in blocks.groups])
    outputs = []
    for group, weight, *packed in zip(blocks.groups, weights, queries, keys, values, strict=True):
        q, k, v = (rearrange(x, "(block token) heads dim -> block heads token dim", block=group.blocks) for x in packed)
        # a row of logits a block, which the kernel adds at no cost
        mask = None if weight is None else rearrange(weight, "(block key) -> block 1 1 key", block=group.blocks)
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        outputs.append(rearrange(out, "block heads token dim -> (block token) heads dim"))
    return blocks.grouped_query.put(outputs[0] if len(outputs) == 1 else torch.cat(outputs), len(query))


def window_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Softmax attention within windows of one size, scaled by 1 / sqrt(head_dim).

    query [window, head, query, head_dim], key and value [window, head, key, head_dim] -> as query. bias [1 or window, head,
    query, key] is added to the logits.
    """
    return scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
