"""The trunk: a plain ViT with VideoMAE's parameters, and beside its attention a gated branch that reads the rest.

- norm before attention and MLP, GELU, biases on queries and values but not on keys (VideoMAE, arXiv 2203.12602);
- own attention stays within a block of the packed sequence; for one 16-frame segment that is VideoMAE's own;
- the branch reads other streams, people, views and segments, pooled over time, one softmax a source, added through a
  gate a source and head that starts at zero: at step 0 the published weights do what they did;
- in the branch alone time is relative (rotary embedding of seconds, arXiv 2104.09864).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from pretrain.attention import Blocks, packed_attention
from pretrain.config import Pooling
from pretrain.pooling import RELATIONS, Groups, Layout, Upper, with_prompts

OF_THE_SCENE = ("video",)  # its tokens belong to no person
NEAR = 11.3  # logit of what is at the same time, at the start
SMALL = (
    "adapter",
    "cross",
    "lora",
    "prefix",
    "prompt",
)  # what fine-tuning puts into trunk, blocks and attention; None without


class Attention(nn.Module):
    """Self-attention within each block of a packed sequence.

    ``prompt`` [prompts, dim], where set, lends every block more keys and values (VPT-deep, arXiv 2203.12119: what the
    prompts themselves would become is discarded at each layer, so they need no queries). ``prefix`` [2, prefixes, dim]
    is such keys and values themselves (arXiv 2101.00190). ``lora``: modules ``query``, ``key`` and ``value``, in place of
    ``qkv`` and its biases.
    """

    def __init__(self, dim: int, heads: int, qv_bias: bool):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim)) if qv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if qv_bias else None
        self.proj = nn.Linear(dim, dim)
        self.prompt: nn.Parameter | None = None
        self.prefix: nn.Parameter | None = None
        self.lora: nn.ModuleDict | None = None

    def forward(self, x: Tensor, blocks: Blocks, norm: nn.Module) -> Tensor:
        """x [token, dim], normalised -> [token, dim]; ``norm`` is what normalised it (prompts pass through it too)."""
        query, key, value = self._project(x)
        more = None
        if self.prompt is not None:
            more = self._project(norm(self.prompt))[1:]
        if self.prefix is not None:
            more = rearrange(self.prefix, "kv prefix (head dim) -> kv prefix head dim", head=self.heads).unbind()
        if more is not None:
            blocks = blocks.longer(len(more[0])).to(key.device)
            key, value = torch.cat([more[0], key]), torch.cat([more[1], value])
        out = packed_attention(query, key, value, blocks)
        return self.proj(rearrange(out, "token head dim -> token (head dim)"))

    def _project(self, x: Tensor) -> list[Tensor]:
        if self.lora is not None:
            apart = [self.lora[name](x) for name in ("query", "key", "value")]
            return [rearrange(one, "token (head dim) -> token head dim", head=self.heads) for one in apart]
        bias = None
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        projected = linear(x, self.qkv.weight, bias)
        return list(rearrange(projected, "token (qkv head dim) -> qkv token head dim", qkv=3, head=self.heads))


class GatedReading(nn.Module):
    """What a token reads beyond its own block: one softmax a source, each through its gate [head], gates start at zero.

    The output projection has no bias, so that a closed branch adds exactly nothing. ``width``: of queries, keys and values
    (default: dim). Sources of a layout that the branch has no gate for are not read.
    """

    def __init__(self, dim: int, heads: int, sources: Iterable[str], pooling: Pooling, width: int | None = None):
        super().__init__()
        width = width or dim
        self.heads = heads
        self.score = nn.Linear(dim, 1, bias=False) if pooling == "attention" else None
        self.query = nn.Linear(dim, width)
        self.key_value = nn.Linear(dim, 2 * width)
        self.proj = nn.Linear(width, dim, bias=False)
        self.gates = nn.ParameterDict({source: nn.Parameter(torch.zeros(heads)) for source in sources})

    def start_near(self) -> None:
        """Half of the heads start by reading what is at about the same time, the others anything within reach.

        The biases of queries and keys turn with time as the rest of them does: equal ones agree most where times are equal. What
        people do is told by what is at the same time elsewhere; an attention that starts flat averages it away and hardly learns.
        """
        bias = torch.zeros(self.heads, 2, self.query.out_features // self.heads // 2)
        half = bias.shape[-1]
        bias[: (self.heads + 1) // 2, 0] = (NEAR * (2 * half) ** 0.5 / half) ** 0.5
        with torch.no_grad():
            self.query.bias.copy_(bias.flatten())
            self.key_value.bias[: self.query.out_features] = bias.flatten()

    def pooled(self, x: Tensor, groups: Groups) -> Tensor:
        """What others read of x [token, dim], normalised: [pooled, dim], means or sums weighted by a learned score."""
        return groups.mean(x) if self.score is None else groups.weighted_mean(x, self.score(x)[:, 0])

    def read(self, layout: Layout) -> list[str]:
        """The sources of a layout that it has a gate for; without gradients, on a CPU, those whose gate is open: the rest adds
        zero. (Asking a GPU would wait for it.)"""
        gates = [(name, self.gates[name]) for name in layout.sources if name in self.gates]
        return [name for name, gate in gates if torch.is_grad_enabled() or gate.is_cuda or gate.any()]

    def keys(self, pooled: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Keys and values [pooled, head, dim] of what is read, pooled [pooled, dim]."""
        key, value = (
            rearrange(half.contiguous(), "token (head dim) -> token head dim", head=self.heads)  # gathered below
            for half in self.key_value(pooled).chunk(2, -1)
        )
        return layout.key_time.rotate(key), value

    def forward(self, x: Tensor, layout: Layout, key: Tensor, value: Tensor) -> Tensor | None:
        """x [token, dim], normalised -> [token, dim], or None where none of them reads anything; key, value: of ``keys``."""
        sources = {name: layout.sources[name] for name in self.read(layout)}
        if not sources:
            return None
        query = rearrange(self.query(x), "token (head dim) -> token head dim", head=self.heads)
        query = layout.query_time.rotate(query)
        gated = [
            packed_attention(query, key, value, source, layout.key_weight) * self.gates[name][:, None]
            for name, source in sources.items()
        ]
        return self.proj(rearrange(sum(gated[1:], gated[0]), "token head dim -> token (head dim)"))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


Keys = list[tuple[GatedReading, Tensor, Tensor]]  # branches with the keys and values that they read


class Block(nn.Module):
    """Two residuals. ``adapter``, where set, reads what the MLP reads and adds to what it adds (AdaptFormer, arXiv 2205.13535);
    ``cross`` is one more gated branch, a narrow one."""

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        eps: float,
        qv_bias: bool,
        sources: Iterable[str],
        pooling: Pooling,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, qv_bias)
        self.reading = GatedReading(dim, heads, sources, pooling)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, hidden)
        self.adapter: nn.Module | None = None
        self.cross: GatedReading | None = None

    def forward(self, x: Tensor, layout: Layout, pooled: Tensor | None = None) -> Tensor:
        """x [token, dim] -> [token, dim]; pooled [pooled, dim]: what is read, where it is more than x pooled (streaming).

        Without gradients, on a CPU, tokens pass part by part: what is made on the way is then small, stays in the caches and
        is not asked of the system anew each time.
        """
        y = self.norm1(x)
        keys: Keys = []
        if branches := [branch for branch in (self.reading, self.cross) if branch is not None and branch.read(layout)]:
            pooled = self.reading.pooled(y, layout.pool) if pooled is None else pooled
            keys = [(branch, *branch.keys(pooled, layout)) for branch in branches]
        if torch.is_grad_enabled() or x.is_cuda or len(layout.parts) == 1:
            return self._rest(x, y, layout, keys)
        out = torch.empty_like(x)
        for rows, part in layout.parts:
            out[rows] = self._rest(x[rows], y[rows], part, keys)
        return out

    def _rest(self, x: Tensor, y: Tensor, layout: Layout, keys: Keys) -> Tensor:
        """x [token, dim] and the same normalised, y -> [token, dim]."""
        read = [branch(y, layout, key, value) for branch, key, value in keys]
        x = x + self.attn(y, layout.own, self.norm1)
        for found in read:
            x = x if found is None else x + found
        y = self.norm2(x)
        return x + self.mlp(y) if self.adapter is None else x + self.mlp(y) + self.adapter(y, layout.tracks)


class Trunk(nn.Module):
    """Blocks and, where the checkpoint has one, a final norm. Serves as encoder and, narrower, as decoder."""

    def __init__(
        self,
        dim: int,
        layers: int,
        heads: int,
        hidden: int,
        modalities: Iterable[str],
        *,
        eps: float,
        qv_bias: bool,
        final_norm_eps: float | None,
        pooling: Pooling,
        upper_layers: int = 0,
    ):
        super().__init__()
        self.lower_layers = layers - upper_layers
        self.checkpointing = False
        """compute activations again in the backward pass instead of keeping them"""
        sources = [
            f"{m}_{relation}" for m in modalities for relation in (("scene",) if m in OF_THE_SCENE else RELATIONS)
        ]
        self.blocks = nn.ModuleList(Block(dim, heads, hidden, eps, qv_bias, sources, pooling) for _ in range(layers))
        self.norm = None if final_norm_eps is None else nn.LayerNorm(dim, eps=final_norm_eps)
        self.prompt: nn.Parameter | None = None
        """[prompts, dim]: tokens that every block of the packed sequence gets before the first layer (VPT-shallow)"""
        self.apply(initialise)
        for reading in self.readings():
            reading.start_near()
            if reading.score is not None:
                nn.init.zeros_(reading.score.weight)  # equal weights: the mean

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """x [token, dim] -> [token, dim]"""
        tokens = len(x)
        if self.prompt is not None:
            blocks = len(layout.own.query_lengths)
            x = torch.cat([x, repeat(self.prompt, "prompt dim -> (block prompt) dim", block=blocks).to(x.dtype)])
            layout = with_prompts(layout, len(self.prompt)).to(x.device)
        x = self.run(slice(self.lower_layers), x, layout)
        if layout.upper:
            x = self.separate(x, *self.together(x, layout.upper), layout.upper)
        else:
            x = self.run(slice(self.lower_layers, None), x, layout)
        x = x[:tokens]
        return x if self.norm is None else self.norm(x)

    def run(self, layers: slice, x: Tensor, layout: Layout) -> Tensor:
        """Some of the blocks, x [token, dim] -> [token, dim]; those below all that is trained run without gradients."""
        for block in self.blocks[layers]:
            trained = x.requires_grad or any(p.requires_grad for p in block.parameters())
            with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
                if self.checkpointing and self.training:
                    x = cast(Tensor, checkpoint(block, x, layout, use_reentrant=False))
                else:
                    x = block(x, layout)
        return x

    def together(self, x: Tensor, upper: Upper) -> tuple[Tensor, Tensor]:
        """The upper blocks on tokens that stand for several: their means, and what the blocks make of them [group, dim]."""
        before = upper.groups.mean(x)
        return before, self.run(slice(self.lower_layers, None), before, upper.layout)

    @staticmethod
    def separate(x: Tensor, before: Tensor, after: Tensor, upper: Upper) -> Tensor:
        """Each token keeps what it was and takes over what has changed of the mean that it was part of."""
        return x + (after - before)[upper.groups.group]

    def gates(self) -> dict[str, Tensor]:
        """Mean absolute gate of every source over layers and heads: how far the branch is open."""
        gates = [reading.gates for reading in self.readings()]
        return {name: torch.stack([one[name].detach().abs().mean() for one in gates]).mean() for name in gates[0]}

    def readings(self) -> list[GatedReading]:
        """The gated branch of every layer."""
        return [block.reading for block in self.blocks if isinstance(block, Block)]


def initialise(module: nn.Module) -> None:
    """VideoMAE's initialisation: Xavier matrices, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
