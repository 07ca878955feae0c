"""Attention over packed tokens: the only place that knows which kernel runs.

Tokens of many blocks lie one after the other in one sequence; a query sees the keys of its own block and no others
(a block-diagonal mask), and nothing is padded. On CUDA that is xformers' BlockDiagonalMask; elsewhere blocks of equal
shape are stacked and go through PyTorch's scaled_dot_product_attention, which is exact and needs no mask either.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class Blocks:
    """Lengths of the blocks of a packed sequence, and the blocks of equal shape gathered once for all layers.

    query_lengths, key_lengths: tokens of each block, int [block]; queries and keys of block b are consecutive.
    """

    def __init__(self, query_lengths: np.ndarray, key_lengths: np.ndarray | None = None):
        key_lengths = query_lengths if key_lengths is None else key_lengths
        self.query_lengths = query_lengths
        self.key_lengths = key_lengths
        self.groups: list[tuple[Tensor, Tensor]] = []  # per shape: (query [block, length], key [block, length])
        query_starts = np.cumsum(query_lengths) - query_lengths
        key_starts = np.cumsum(key_lengths) - key_lengths
        shapes, which = np.unique(np.stack([query_lengths, key_lengths], 1), axis=0, return_inverse=True)
        for number, (queries, keys) in enumerate(shapes):
            members = np.flatnonzero(which.ravel() == number)
            self.groups.append(
                (
                    torch.from_numpy(query_starts[members][:, None] + np.arange(queries)),
                    torch.from_numpy(key_starts[members][:, None] + np.arange(keys)),
                )
            )
        self.order = torch.empty(0, dtype=torch.long)  # undoes the grouping of the queries
        if self.groups:
            self.order = torch.argsort(torch.cat([query.flatten() for query, _ in self.groups]))
        self._mask: Any = None

    def to(self, device: torch.device | str) -> Blocks:
        if torch.device(device).type == "cuda":  # the kernel there needs the lengths alone
            return self
        self.groups = [(query.to(device), key.to(device)) for query, key in self.groups]
        self.order = self.order.to(device)
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


def packed_attention(query: Tensor, key: Tensor, value: Tensor, blocks: Blocks) -> Tensor:
    """Softmax attention within each block, scaled by 1 / sqrt(head_dim).

    query [query, heads, head_dim], key and value [key, heads, head_dim] -> [query, heads, head_dim].
    """
    if query.is_cuda:
        fmha = _xformers()
        return fmha.memory_efficient_attention(query[None], key[None], value[None], attn_bias=blocks.mask)[0]
    outputs = []
    for query_index, key_index in blocks.groups:
        out = scaled_dot_product_attention(
            _stacked(query, query_index), _stacked(key, key_index), _stacked(value, key_index)
        )
        outputs.append(rearrange(out, "block heads token head_dim -> (block token) heads head_dim"))
    if len(outputs) == 1:
        return outputs[0]  # one shape: the blocks stand in their own order
    return torch.cat(outputs).index_select(0, blocks.order)


def _stacked(packed: Tensor, index: Tensor) -> Tensor:
    """packed [token, heads, head_dim] at index [block, length] -> [block, heads, length, head_dim]."""
    blocks, length = index.shape
    in_order = len(packed) == blocks * length  # every token: no copy
    rows = packed if in_order else packed.index_select(0, index.flatten())
    return rearrange(rows, "(block token) heads head_dim -> block heads token head_dim", block=blocks)
