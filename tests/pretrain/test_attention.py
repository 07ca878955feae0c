"""Packed attention against the plain definition, forward and gradient."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.attention import Blocks, packed_attention


def reference(query, key, value, query_lengths, key_lengths, weight=0):
    """Softmax over all keys under a block-diagonal mask, [token, heads, head_dim]."""
    block_of_query = torch.repeat_interleave(torch.arange(len(query_lengths)), torch.tensor(query_lengths))
    block_of_key = torch.repeat_interleave(torch.arange(len(key_lengths)), torch.tensor(key_lengths))
    logits = torch.einsum("qhd,khd->hqk", query, key) / query.shape[-1] ** 0.5
    logits = (logits + weight).masked_fill(block_of_query[:, None] != block_of_key, -torch.inf)
    return torch.einsum("hqk,khd->qhd", logits.softmax(-1), value)


def test_keys_that_share_a_weight_change_nothing():
    query, key, value = (torch.randn(6, 2, 4, dtype=torch.float64) for _ in range(3))
    blocks = Blocks(np.array([2, 4]))
    expected = reference(query, key, value, [2, 4], [2, 4])
    torch.testing.assert_close(packed_attention(query, key, value, blocks, torch.ones(6)), expected)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=6), st.integers(0, 10**6))
def test_packed_equals_masked_reference_with_weighted_keys(lengths, seed):
    query_lengths, key_lengths = [q for q, _ in lengths], [k for _, k in lengths]
    generator = torch.Generator().manual_seed(seed)
    made = []
    for count in (sum(query_lengths), sum(key_lengths), sum(key_lengths)):
        made.append(torch.randn(count, 2, 4, generator=generator, dtype=torch.float64, requires_grad=True))
    blocks = Blocks(np.array(query_lengths), np.array(key_lengths), weighted=True)
    key_weight = torch.randn(sum(key_lengths), generator=generator, dtype=torch.float64)
    outputs = (
        packed_attention(*made, blocks, key_weight),
        reference(*made, query_lengths, key_lengths, key_weight),
    )
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
    weight = torch.randn(outputs[0].shape, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad((out * weight).sum(), made) for out in outputs]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


def test_gradients_are_those_of_small_differences():
    """Weighted keys, blocks of two shapes, rows in any order, a query that stands in no block and a key that two blocks read."""
    blocks = Blocks(
        np.array([2, 3]), np.array([3, 2]), np.array([4, 1, 0, 5, 3]), np.array([1, 0, 4, 4, 2]), weighted=True
    )
    made = [torch.randn(count, 2, 4, dtype=torch.float64, requires_grad=True) for count in (6, 5, 5)]
    weight = torch.randn(5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *qkv: packed_attention(*qkv, blocks, weight), made)
    assert not packed_attention(*made, blocks, weight)[2].any()
