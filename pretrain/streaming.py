"""Features of a recording of any length, fed in pieces that may be cut anywhere, in constant memory.

    streaming = StreamingEncoder(encoder)
    for piece in pieces:                        # clips of one recording, each beginning where the one before ends
        for features in streaming.feed(piece): ...
    for features in streaming.finish(): ...

The numbers are those of the whole recording as one clip. A layer needs what the layer before it made of ``reach_chunks``
chunks on either side: chunks climb the trunk one layer behind the other, nothing is computed twice, and what is kept does
not grow. A chunk's features come out when the ``context_seconds`` after it are known.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from configs import UserError
from pretrain.clips import Clip
from pretrain.encoder import Encoded, Encoder, encoded
from pretrain.pieces import Pieces
from pretrain.pooling import Groups, Layout, Pooled, coarser, columns_of, joined, layout_of, pool
from pretrain.tokens import Tokens, tokenize
from pretrain.trunk import Block


@dataclass
class _Level:
    """A chunk's tokens as some layers see them; ``read``: by layer, what its neighbours read of it; ``free``: memory for more."""

    pooled: Pooled
    layout: Layout | None = None
    read: dict[int, Tensor] = field(default_factory=dict)
    free: list[Tensor] = field(default_factory=list)


@dataclass
class _Chunk:
    """A chunk on its way through the trunk. levels: its tokens, and the fewer ones of the upper layers where there are any.

    ``x`` and ``_Level.read`` stay where they are in memory while their contents change: what lives long and is allocated
    between what does not leaves holes (``give_back``).
    """

    tokens: dict[str, Tokens]
    content: Tensor
    x: Tensor
    levels: list[_Level]
    groups: Groups | None
    below: tuple[Tensor, Tensor] | None = None  # tokens and their means, as they were before the upper layers


_LIBC = ctypes.CDLL(None)


def give_back() -> None:
    """Pages that nothing uses go back to the system, where the C library can do that (glibc): its heap keeps holes between what
    lives long and what does not, which came to more than all that is kept."""
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)


class StreamingEncoder:
    """Feeds an encoder (in eval mode) one recording piece by piece."""

    def __init__(self, encoder: Encoder):
        if encoder.trunk.prompt is not None:
            raise UserError("shallow prompts are read in whole clips alone: piece by piece, use deep ones")
        self.encoder, self.config = encoder, encoder.config
        self.blocks = [block for block in encoder.trunk.blocks if isinstance(block, Block)]
        self._pieces = Pieces(encoder.config)
        self._chunks: dict[int, _Chunk] = {}  # those in which there is something
        self._passed = [0] * (len(self.blocks) + 1)  # how many chunks are tokenized; have passed layer 0; layer 1; ...

    def feed(self, piece: Clip) -> Iterator[Encoded]:
        """The features that become final with a piece, chunk by chunk; times in seconds from the first piece's start.

        Raises ValueError where a piece does not begin where the one before ended.
        """
        self._pieces.add(piece)
        yield from self._climb(self._pieces.complete_chunks(), 0 if self.config.causal else self.config.reach_chunks)

    def finish(self) -> Iterator[Encoded]:
        """The rest: nothing comes after the last piece."""
        yield from self._climb(self._pieces.all_chunks(), 0)

    @torch.no_grad()
    def _climb(self, known: int, ahead: int) -> Iterator[Encoded]:
        """Takes every chunk as far as it can get; ``ahead``: how many chunks a layer must know after one."""
        out = self._passed[-1]
        self._tokenize(known)
        for layer in range(len(self.blocks)):
            done = range(self._passed[layer + 1], max(self._passed[layer] - ahead, self._passed[layer + 1]))
            for number in done:
                if number in self._chunks:
                    self._step(number, layer)
            self._passed[layer + 1] = done.stop
        give_back()
        for number in range(out, self._passed[-1]):
            if number in self._chunks:
                yield self._result(self._chunks[number])
        for number in [n for n in self._chunks if n < self._passed[-1] - self.config.reach_chunks]:
            del self._chunks[number]

    def _tokenize(self, known: int) -> None:
        """Makes the chunks up to this one, and their first tokens."""
        if known <= self._passed[0] or self._pieces.clip is None:
            return
        tokens = tokenize(self._pieces.clip, 0, self.config, self.config.modalities)
        for number in range(self._passed[0], known):
            mine = {name: part.take(np.flatnonzero(part.chunk == number)) for name, part in tokens.items()}
            mine = {name: part for name, part in mine.items() if len(part)}
            if mine:
                self._chunks[number] = self._begin(mine)
                self._prepare(self._chunks[number], 0)
        self._passed[0] = known
        self._pieces.forget(known)

    def _begin(self, tokens: dict[str, Tokens]) -> _Chunk:
        device, config = self.encoder.device, self.config
        columns = columns_of(tokens, config, None)
        levels, groups = [_Level(pool(columns, config.pool_seconds))], None
        if config.upper_rate > 1:
            groups, fewer = coarser(columns, config.upper_rate)
            levels.append(_Level(pool(fewer, config.pool_seconds)))
            groups.to(device)
        embedded, content = self.encoder.embed_and_keep(tokens)
        for part in tokens.values():
            part.values, part.valid = part.values[:0].clone(), None  # embedded: times and places are kept, no contents
        return _Chunk(tokens, content, embedded, levels, groups)

    def _level(self, chunk: _Chunk, layer: int) -> _Level:
        return chunk.levels[-1 if layer >= self.encoder.trunk.lower_layers else 0]

    def _prepare(self, chunk: _Chunk, layer: int) -> None:
        """What others will read of a chunk in a layer."""
        if layer == self.encoder.trunk.lower_layers and chunk.groups is not None:
            means = chunk.groups.mean(chunk.x)
            chunk.below, chunk.x = (chunk.x, means), means.clone()
        block, level = self.blocks[layer], self._level(chunk, layer)
        groups = level.pooled.groups.to(self.encoder.device)
        read = block.reading.pooled(block.norm1(chunk.x), groups)
        level.read[layer] = level.free.pop().copy_(read) if level.free else read

    def _step(self, number: int, layer: int) -> None:
        """A chunk through one layer; its neighbours' inputs of that layer are known."""
        reach = self.config.reach_chunks
        until = number + 1 if self.config.causal else number + reach + 1
        near = [n for n in range(number - reach, until) if n in self._chunks]
        levels = [self._level(self._chunks[n], layer) for n in near]
        chunk = self._chunks[number]
        level = self._level(chunk, layer)
        if level.layout is None:
            table, keys = joined([one.pooled for one in levels])
            readers = np.flatnonzero(table.chunk == number)
            level.layout = layout_of(table, level.pooled, keys, readers, self.config).to(self.encoder.device)
        read = torch.cat([one.read[layer] for one in levels])
        chunk.x.copy_(self.blocks[layer](chunk.x, level.layout, read))
        if number - reach in self._chunks:  # nobody needs it any more
            done = self._level(self._chunks[number - reach], layer)
            if layer in done.read:
                done.free.append(done.read.pop(layer))
        if layer + 1 < len(self.blocks):
            self._prepare(chunk, layer + 1)

    def _result(self, chunk: _Chunk) -> Encoded:
        x = chunk.x
        if chunk.below is not None:
            assert chunk.groups is not None
            tokens, means = chunk.below
            x = tokens + (x - means)[chunk.groups.group]
        norm = self.encoder.trunk.norm
        return encoded(x if norm is None else norm(x), chunk.content, chunk.tokens, self.config)
