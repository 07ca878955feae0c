"""The packed trunk against one written anew the long way: blocks padded to the longest one, what is read looked up token by token
in a mask over all keys. Forward and gradient in float64, over random lengths.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from clips_for_tests import tiny_model
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from pretrain.config import ModelConfig
from pretrain.pooling import plan
from pretrain.tokens import SCENE, Tokens
from pretrain.trunk import Block, Trunk

PLACES = 2  # of a video segment


@dataclass
class Token:
    """What is known of a token, and whether others may read it."""

    block: int
    modality: str
    clip: int
    person: int
    chunk: int
    place: int
    step: int
    time: float
    readable: bool


def drawn(seed: int) -> dict[str, Tokens]:
    """Some tokens of one or two clips: two views, two people and the scene, four chunks, and of each block none to six."""
    rng = np.random.default_rng(seed)
    found: dict[str, Tokens] = {}
    for name in ("video", "audio", "face"):
        columns: dict[str, list[int]] = defaultdict(list)
        times: list[float] = []
        block = -1
        for clip, view, person, chunk in np.ndindex(int(rng.integers(1, 3)), 2, 3, 4):
            if rng.random() < 0.6 or (name == "video" and person):
                continue
            block += 1
            cells = 4 * PLACES if name == "video" else 4  # of half a second each, in a chunk of two
            places = PLACES if name == "video" else 1
            for cell in np.sort(rng.permutation(cells)[: rng.integers(0, 7)]).tolist():
                what = {"clip": clip, "view": view, "person": SCENE if name == "video" else person - 1, "chunk": chunk}
                what |= {"block": block, "place": cell % places, "position": cell, "grid": 0}
                for key, value in what.items():
                    columns[key].append(value)
                times.append(chunk * 2 + cell // places * 0.5 + 0.25)
        if times:
            arrays = {key: np.array(values) for key, values in columns.items()}
            grids = [(4, 1, PLACES if name == "video" else 1)]
            found[name] = Tokens(torch.zeros(len(times), 0), None, **arrays, time=np.array(times), grids=grids)
    return found


def listed(tokens: dict[str, Tokens], readable: dict[str, np.ndarray] | None) -> list[Token]:
    found = []
    for name, part in tokens.items():
        places = PLACES if name == "video" else 1
        for row in range(len(part)):
            block = hash((name, int(part.block[row])))
            what = [int(values[row]) for values in (part.clip, part.person, part.chunk, part.place)]
            seen = readable is None or bool(readable[name][row])
            found.append(
                Token(block, name, *what, int(part.position[row]) // places, float(part.time[row]), seen),
            )
    return found


def attention(query: Tensor, key: Tensor, value: Tensor, there: Tensor, weight: Tensor | float = 0) -> Tensor:
    """query [block, token, head, dim], key and value [block, key, head, dim], there bool [block, token, key]: which of the keys
    a token reads. Zero where it reads none."""
    logits = torch.einsum("bthd,bkhd->bthk", query, key) / query.shape[-1] ** 0.5 + weight
    share = logits.masked_fill(~there[:, :, None], -torch.inf).softmax(-1)
    return torch.einsum("bthk,bkhd->bthd", torch.where(there[:, :, None], share, 0), value)


def rotated(x: Tensor, seconds: list[float]) -> Tensor:
    """x [row, head, dim] as complex numbers, each turned by its time at a period of its own, from 0.5 to 1,000 s."""
    half = x.shape[-1] // 2
    periods = 0.5 * 2000 ** (torch.arange(half, dtype=torch.float64) / max(half - 1, 1))
    turns = torch.exp(2j * torch.pi * torch.tensor(seconds, dtype=torch.float64)[:, None, None] / periods)
    turned = torch.complex(x[..., :half], x[..., half:]) * turns
    return torch.cat([turned.real, turned.imag], -1)


def split(x: Tensor, heads: int) -> Tensor:
    return x.reshape(len(x), heads, -1)


def read_by(reader: Token, of: Token, config: ModelConfig) -> str | None:
    """The source by which a token reads another one, None where it does not."""
    ahead = 0 if config.causal else config.reach_chunks
    near = -config.reach_chunks <= of.chunk - reader.chunk <= ahead
    if of.block == reader.block or of.clip != reader.clip or not near or not of.readable:
        return None
    if SCENE in (reader.person, of.person):
        return f"{of.modality}_scene"
    return f"{of.modality}_{'same' if reader.person == of.person else 'other'}"


def gated_reading(block: Block, y: Tensor, tokens: list[Token], config: ModelConfig) -> Tensor:
    mine = block.reading
    together: dict[tuple, list[int]] = defaultdict(list)  # the tokens that one pooled key stands for
    for row, token in enumerate(tokens):
        if token.readable:
            together[token.block, int(np.floor(token.time / config.pool_seconds + 1e-6)), token.place].append(row)
    if not together:
        return torch.zeros_like(y)
    groups = list(together.values())
    pooled = []
    for rows in groups:
        share = y.new_full((len(rows), 1), 1 / len(rows)) if mine.score is None else mine.score(y[rows]).softmax(0)
        pooled.append((share * y[rows]).sum(0))
    key, value = (split(part, mine.heads) for part in mine.key_value(torch.stack(pooled)).chunk(2, 1))
    key = rotated(key, [float(np.mean([tokens[r].time for r in rows])) for rows in groups])
    query = rotated(split(mine.query(y), mine.heads), [token.time for token in tokens])
    weight = torch.tensor([len(rows) for rows in groups]).double().log()
    source = np.array([[str(read_by(token, tokens[rows[0]], config)) for rows in groups] for token in tokens])
    out = torch.zeros_like(query)
    for name, gate in mine.gates.items():
        read = attention(query[None], key[None], value[None], torch.from_numpy(source == name)[None], weight)[0]
        out = out + read * gate[:, None]
    return mine.proj(out.flatten(1))


def own_attention(block: Block, y: Tensor, tokens: list[Token]) -> Tensor:
    mine = block.attn
    bias = torch.cat([mine.q_bias, torch.zeros_like(mine.q_bias), mine.v_bias])
    blocks: dict[int, list[int]] = defaultdict(list)
    for row, token in enumerate(tokens):
        blocks[token.block].append(row)
    longest = max(len(rows) for rows in blocks.values())
    index = torch.tensor([rows + [0] * (longest - len(rows)) for rows in blocks.values()])
    there = torch.tensor([[n < len(rows) for n in range(longest)] for rows in blocks.values()])
    query, key, value = (split(part, mine.heads)[index] for part in (y @ mine.qkv.weight.T + bias).chunk(3, 1))
    out = attention(query, key, value, there[:, None].expand(-1, longest, -1))
    packed = torch.zeros_like(split(y, mine.heads)).index_put((index[there],), out[there])
    return mine.proj(packed.flatten(1))


def layer(block: Block, x: Tensor, tokens: list[Token], config: ModelConfig) -> Tensor:
    def norm(of: torch.nn.LayerNorm, values: Tensor) -> Tensor:
        return layer_norm(values, values.shape[1:], of.weight, of.bias, of.eps)

    y = norm(block.norm1, x)
    x = x + own_attention(block, y, tokens) + gated_reading(block, y, tokens, config)
    hidden = gelu(norm(block.norm2, x) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
    return x + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias


def padded_trunk(trunk: Trunk, x: Tensor, tokens: list[Token], config: ModelConfig) -> Tensor:
    lower, upper = (
        trunk.blocks[: config.layers - config.upper_layers],
        trunk.blocks[config.layers - config.upper_layers :],
    )
    for block in lower:
        x = layer(block, x, tokens, config)
    together: dict[tuple, list[int]] = defaultdict(list)  # the tokens that are one in the upper layers
    for row, token in enumerate(tokens):
        together[token.block, token.step // config.upper_rate, token.place].append(row)
    before = torch.stack([x[rows].mean(0) for rows in together.values()])
    fewer = []
    for rows in together.values():
        first = tokens[rows[0]]
        time = float(np.mean([tokens[r].time for r in rows]))
        fewer.append(
            Token(
                first.block, first.modality, first.clip, first.person, first.chunk, first.place, 0, time, first.readable
            )
        )
    after = before
    for block in upper:
        after = layer(block, after, fewer, config)
    out = x.clone()
    for rows, change in zip(together.values(), after - before, strict=True):
        out = out.index_add(0, torch.tensor(rows), change.expand(len(rows), -1))
    return layer_norm(out, out.shape[1:], trunk.norm.weight, trunk.norm.bias, trunk.norm.eps)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"causal": True, "reach_chunks": 2},
        {"pooling": "attention"},
        {"upper_layers": 1, "upper_rate": 2},
        {"hidden": True},  # as in the decoder: what is rebuilt is read by nobody
    ],
    ids=["default", "causal", "attention pooling", "upper layers", "decoder"],
)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_packed_trunk_is_the_padded_one(changes: dict, seed: int) -> None:
    changes = dict(changes)
    hidden = changes.pop("hidden", False)
    config = tiny_model(dim=12, heads=3, mlp_dim=20, pool_seconds=0.6, **changes)
    tokens = drawn(seed)
    count = sum(len(part) for part in tokens.values())
    assume(count)
    generator = torch.Generator().manual_seed(seed)
    trunk = Trunk(
        12, 2, 3, 20, config.modalities, eps=1e-6, qv_bias=True, final_norm_eps=1e-6, pooling=config.pooling,
        upper_layers=config.upper_layers,
    ).double()  # fmt: skip
    for name, parameter in trunk.named_parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).double() * 0.4 + ("norm" in name)
    readable = None
    if hidden:
        readable = {n: torch.rand(len(p), generator=generator).numpy() < 0.5 for n, p in tokens.items()}
    x = torch.randn(count, 12, generator=generator).double().requires_grad_()
    packed = trunk(x, plan(tokens, config, readable))
    padded = padded_trunk(trunk, x, listed(tokens, readable), config)
    weight = torch.randn(packed.shape, generator=generator).double()
    inputs = [x, *trunk.parameters()]
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-9 * float(padded.detach().abs().max()))
    ours, theirs = (
        torch.autograd.grad((out * weight).sum(), inputs, materialize_grads=True) for out in (packed, padded)
    )
    largest = max(float(gradient.abs().max()) for gradient in theirs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9 * largest)
