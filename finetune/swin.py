"""Video Swin (Liu et al. 2022, arXiv 2106.13230) as an encoder's trunk: torchvision's ``SwinTransformer3d``, number for number.

- four stages of blocks; attention within windows of 8 x 7 x 7 tokens, moved by half a window in every second block;
- between stages 2 x 2 places become one token of twice the width;
- names are those of the original repository (swin_weights.py reads torchvision's as well);
- a block carries ``adapter`` and ``attn.prompt`` as those of pretrain/trunk.py do, which is where methods put their weights.

One video at a time: a piece of 32 frames is 50,000 tokens, enough to keep any device busy.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import pad

from pretrain.attention import window_attention
from pretrain.trunk import Mlp

EPS = 1e-5  # of all layer norms
APART = -100.0  # added to the logits of tokens that only moving the windows brought together

Size = tuple[int, int, int]  # time, height, width


@dataclass(frozen=True)
class SwinSizes:
    """What a file's shapes tell. depths, heads: of each stage. patch, window: time, height, width."""

    dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    mlp_ratio: float
    patch: Size
    window: Size

    @property
    def out_dim(self) -> int:
        """Width of the last stage."""
        return self.dim * self.merged

    @property
    def merged(self) -> int:
        """Patches a side that one token of the last stage stands for."""
        return 2 ** (len(self.depths) - 1)


def of_axes(sides: Iterable[int]) -> Size:
    """Three numbers as a Size."""
    time, height, width = sides
    return time, height, width


def relative_index(window: Size) -> Tensor:
    """Row of the bias table for every pair of tokens of a window: int [token, token]."""
    place = torch.tensor(list(itertools.product(*map(range, window))))
    apart = place[:, None] - place[None] + torch.tensor(window) - 1
    _, height, width = (2 * side - 1 for side in window)
    return apart @ torch.tensor([height * width, width, 1])


def into_windows(x: Tensor, window: Size) -> Tensor:
    """x [time, row, column, dim] -> [window, token, dim]"""
    t, h, w = window
    return rearrange(x, "(a t) (b h) (c w) dim -> (a b c) (t h w) dim", t=t, h=h, w=w)


def out_of_windows(x: Tensor, window: Size, grid: Size) -> Tensor:
    """x [window, token, dim] -> [time, row, column, dim] of size ``grid``"""
    (t, h, w), (b, c) = window, (grid[1] // window[1], grid[2] // window[2])
    return rearrange(x, "(a b c) (t h w) dim -> (a t) (b h) (c w) dim", b=b, c=c, t=t, h=h, w=w)


def keep_apart(grid: Size, window: Size, shift: Size, like: Tensor) -> Tensor:
    """What keeps tokens apart that were not neighbours before the windows moved: [window, 1, token, token], 0 or APART."""
    labels = torch.zeros(*grid, 1, dtype=torch.long, device=like.device)
    for axis, (length, side, by) in enumerate(zip(grid, window, shift, strict=True)):
        at = torch.arange(length, device=like.device)
        region = (at >= length - side).long() + (at >= length - by).long() if by else torch.zeros_like(at)
        labels = 3 * labels + region.view([-1 if axis == own else 1 for own in range(4)])
    label = into_windows(labels, window)[..., 0]
    return (label[:, None, :, None] != label[:, None, None]).to(like.dtype) * APART


class WindowAttention(nn.Module):
    """Attention within windows, with a bias for how far apart two tokens are.

    ``prompt`` [prompts, dim], where set, lends every window more keys and values (VPT-deep for Swin, arXiv 2203.12119: what
    the prompts themselves would become is discarded at each layer); they have no place, hence no bias. ``prefix`` and ``lora``
    as in pretrain/trunk.py.
    """

    index: Tensor

    def __init__(self, dim: int, heads: int, window: Size, shifted: bool):
        super().__init__()
        self.heads, self.window, self.shifted = heads, window, shifted
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        index = relative_index(window)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(int(index.max()) + 1, heads))
        self.register_buffer("index", index, persistent=False)
        self.prompt: nn.Parameter | None = None
        self.prefix: nn.Parameter | None = None
        self.lora: nn.ModuleDict | None = None

    def forward(self, x: Tensor, norm: nn.Module) -> Tensor:
        """x [time, row, column, dim], normalised -> the same shape; ``norm`` is what normalised it (prompts pass through it too).

        A window longer than the video is cut to it and does not move along that axis; the rest is filled up with zeros.
        """
        sides = x.shape[:3]
        window = of_axes(min(pair) for pair in zip(sides, self.window, strict=True))
        shift = of_axes(w // 2 if self.shifted and w < side else 0 for w, side in zip(self.window, sides, strict=True))
        t, h, w = (-side % own for side, own in zip(sides, window, strict=True))
        x = pad(x, (0, 0, 0, w, 0, h, 0, t))
        grid = of_axes(x.shape[:3])
        moved = x.roll([-by for by in shift], (0, 1, 2)) if any(shift) else x
        out = self._attend(into_windows(moved, window), self._bias(grid, window, shift, x), norm)
        out = out_of_windows(out, window, grid)
        out = out.roll(shift, (0, 1, 2)) if any(shift) else out
        return out[: sides[0], : sides[1], : sides[2]]

    def _bias(self, grid: Size, window: Size, shift: Size, like: Tensor) -> Tensor:
        """What is added to the logits: [1 or window, head, token, token]. A smaller window's tokens are numbered as the first
        ones of the whole window, in torchvision's code and the original."""
        tokens = window[0] * window[1] * window[2]
        table = self.relative_position_bias_table[self.index[:tokens, :tokens]]
        bias = rearrange(table, "query key head -> 1 head query key")
        return bias + keep_apart(grid, window, shift, like) if any(shift) else bias

    def _attend(self, x: Tensor, bias: Tensor, norm: nn.Module) -> Tensor:
        """x [window, token, dim] -> [window, token, dim]"""
        query, key, value = self._project(x)
        more = None
        if self.prompt is not None:
            more = self._project(norm(self.prompt)[None])[1:]
        if self.prefix is not None:
            more = rearrange(self.prefix, "kv prefix (head dim) -> kv 1 head prefix dim", head=self.heads).unbind()
        if more is not None:
            bias = pad(bias, (more[0].shape[2], 0))
            of_all = (part.expand(len(x), -1, -1, -1) for part in more)
            key, value = (torch.cat([part, own], 2) for part, own in zip(of_all, (key, value), strict=True))
        out = window_attention(query, key, value, bias)
        return self.proj(rearrange(out, "window head token dim -> window token (head dim)"))

    def _project(self, x: Tensor) -> Sequence[Tensor]:
        lora = self.lora
        projected = self.qkv(x) if lora is None else torch.cat([lora[n](x) for n in ("query", "key", "value")], -1)
        return rearrange(
            projected, "window token (qkv head dim) -> qkv window head token dim", qkv=3, head=self.heads
        ).unbind()


class SwinBlock(nn.Module):
    """Two residuals. ``adapter``, where set, reads what the MLP reads and adds to what it adds (AdaptFormer, arXiv 2205.13535)."""

    def __init__(self, dim: int, heads: int, hidden: int, window: Size, shifted: bool):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = WindowAttention(dim, heads, window, shifted)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, hidden)
        self.adapter: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x [time, row, column, dim] -> the same shape"""
        x = x + self.attn(self.norm1(x), self.norm1)
        y = self.norm2(x)
        return x + self.mlp(y) if self.adapter is None else x + self.mlp(y) + self.adapter(y)


class PatchMerging(nn.Module):
    """2 x 2 places -> one of twice the width; an odd side is filled up with zeros."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps=EPS)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [time, row, column, dim] -> [time, row / 2, column / 2, 2 * dim]"""
        x = pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = rearrange(x, "time (row down) (column right) dim -> time row column (right down dim)", down=2, right=2)
        return self.reduction(self.norm(x))


class PatchEmbed(nn.Module):
    """2 x 4 x 4 pixels -> a vector; what is no whole patch is filled up with zeros."""

    def __init__(self, patch: Size, dim: int):
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv3d(3, dim, patch, stride=patch)
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, video: Tensor) -> Tensor:
        """video [channel, frame, height, width] -> [time, row, column, dim]"""
        t, h, w = (-side % own for side, own in zip(video.shape[1:], self.patch, strict=True))
        embedded = self.proj(pad(video, (0, w, 0, h, 0, t)))
        return self.norm(rearrange(embedded, "dim time row column -> time row column dim"))


class Stage(nn.Module):
    """Blocks of one width, and what brings it to the next stage's."""

    def __init__(self, sizes: SwinSizes, number: int):
        super().__init__()
        dim = sizes.dim * 2**number
        self.blocks = nn.ModuleList(
            SwinBlock(dim, sizes.heads[number], round(dim * sizes.mlp_ratio), sizes.window, shifted=block % 2 == 1)
            for block in range(sizes.depths[number])
        )
        self.downsample = PatchMerging(dim) if number + 1 < len(sizes.depths) else None

    def forward(self, x: Tensor) -> Tensor:
        """x [time, row, column, dim] -> the next stage's input, or the last one's output"""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class SwinTrunk(nn.Module):
    """Everything but the classifier."""

    def __init__(self, sizes: SwinSizes):
        super().__init__()
        self.patch_embed = PatchEmbed(sizes.patch, sizes.dim)
        self.layers = nn.ModuleList(Stage(sizes, number) for number in range(len(sizes.depths)))
        self.norm = nn.LayerNorm(sizes.out_dim, eps=EPS)

    @property
    def blocks(self) -> list[SwinBlock]:
        """The blocks of all stages, in order: what methods put their weights into."""
        return [block for block in self.modules() if isinstance(block, SwinBlock)]

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """video float [channel, frame, height, width], normalised -> patches [time, row, column, dim] and what becomes of them
        [time, row, column, out_dim]."""
        patches = x = self.patch_embed(video)
        for stage in self.layers:
            x = stage(x)
        return patches, self.norm(x)
