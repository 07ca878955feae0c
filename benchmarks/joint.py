"""Joint attention, an ablation: all tokens of a clip in one softmax, in place of blocks and gated branches.

    with joint_attention():
        ...  # models that are trained, and clips that are encoded here

It replaces ``plan`` where encoder and decoder look for it: own attention spans all modalities, people and segments of a clip, and
there is no source to read. The relative time and the relations of the gated branch are gone with it, so that a code of the time
in seconds, and a fixed one of a person's number (two people's hidden faces would be asked for by the same query), are added
to what enters a trunk. It holds for the whole process while entered: nothing else may train or encode there.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pretrain import encoder, objective
from pretrain.attention import Blocks, Rows
from pretrain.config import ModelConfig
from pretrain.pooling import Groups, Layout, Moments, Tracks, columns_of
from pretrain.tokens import Tokens
from pretrain.trunk import Trunk

PEOPLE = 64  # persons that have a code of their own


@dataclass
class Joint(Layout):
    """A layout without sources; person: row of ``person_codes``, int64 [token]."""

    person: Tensor = field(kw_only=True)

    def to(self, device: torch.device | str) -> Joint:
        super().to(device)
        self.person = self.person.to(device)
        return self

    def codes(self, x: Tensor) -> Tensor:
        """Whose and when, [token, dim], for x [token, dim]."""
        cos, sin = self.query_time.turns(x.shape[-1] // 2, x.dtype)
        return torch.cat([cos, sin], -1)[:, 0] + person_codes(x.shape[-1]).to(x)[self.person]


@functools.cache
def person_codes(dim: int) -> Tensor:
    """[1 + PEOPLE, dim], as large as a sin-cos code; zeros for what belongs to nobody."""
    drawn = torch.from_numpy(np.random.RandomState(0).standard_normal((PEOPLE, dim))) / np.sqrt(2)
    return torch.cat([torch.zeros(1, dim), drawn.float()])


def plan(tokens: dict[str, Tokens], config: ModelConfig, readable: dict[str, np.ndarray] | None = None) -> Joint:
    """The joint layout of packed tokens: each attends to all of its clip that are ``readable`` (as the real ``plan`` has it)."""
    columns = columns_of(tokens, config, readable)
    none = np.empty(0, np.int64)
    return Joint(
        own=blocks(columns.clip, columns.readable),
        pool=Groups(Rows(none), torch.from_numpy(none), torch.from_numpy(none)),
        query_time=Moments(columns.time),
        key_time=Moments(none.astype(np.float64)),
        key_weight=torch.empty(0),
        sources={},
        tracks=Tracks(columns.block, columns.place, columns.step),
        person=torch.from_numpy(np.where(columns.person < 0, 0, 1 + columns.person % PEOPLE)),
    )


def blocks(clip: np.ndarray, readable: np.ndarray) -> Blocks:
    """One block a clip, clip int [token], readable bool [token]; a clip of which nothing is readable has none."""
    queries = np.argsort(clip, kind="stable")
    keys = queries[readable[queries]]
    key_lengths = np.bincount(clip[keys], minlength=clip.max() + 1)
    queries = queries[key_lengths[clip[queries]] > 0]
    query_lengths = np.bincount(clip[queries], minlength=len(key_lengths))
    there = key_lengths > 0
    return Blocks(query_lengths[there], key_lengths[there], queries, keys)


@contextlib.contextmanager
def joint_attention() -> Generator[None]:
    """While entered, encoders and decoders of this process attend jointly."""
    users, own_plan, own_forward = (encoder, objective), encoder.plan, Trunk.forward

    def forward(self: Trunk, x: Tensor, layout: Layout) -> Tensor:
        assert isinstance(layout, Joint)
        return own_forward(self, x + layout.codes(x), layout)

    try:
        for user in users:
            user.plan = plan
        Trunk.forward = forward
        yield
    finally:
        for user in users:
            user.plan = own_plan
        Trunk.forward = own_forward
