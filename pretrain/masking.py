"""What is hidden from the encoder, and what of it is rebuilt.

Every clip gets one kind of masking (``mask.kinds``): random (tubes of places for video, spans of time for every other
stream), or one of kinds.py, which determines some tokens and leaves the rest to the random one. A clip that cannot carry
the kind drawn for it gets the random one. All is drawn from the clip's seed alone, so that a resumed run hides what the
interrupted one would have hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pretrain.clips import Clip
from pretrain.config import KINDS, MaskConfig, ModelConfig
from pretrain.kinds import DRAWS, Determined
from pretrain.tokens import Tokens

NOT_REBUILT = -1
OF_KINDS, OF_DECODING = 1, 2  # draw numbers of their own: neither changes what the random mask hides


@dataclass
class Mask:
    """What becomes of a clip's tokens, by modality.

    hidden: bool [token], what the encoder does not see. rebuilt: int64 [token], for which kind (a number in KINDS) a hidden
    token is rebuilt, or NOT_REBUILT. unnamed: bool [token] of audio, tokens whose speaker the model must not know, or None.
    """

    hidden: dict[str, np.ndarray]
    rebuilt: dict[str, np.ndarray]
    unnamed: np.ndarray | None = None


def draw_mask(clip: Clip, tokens: dict[str, Tokens], model: ModelConfig, mask: MaskConfig, seed: int) -> Mask:
    """The mask of a clip; ``tokens`` are all of its tokens, by modality."""
    kind, fixed = _draw_kind(clip, tokens, model, mask, np.random.default_rng([seed, OF_KINDS]))
    rng, decoding = np.random.default_rng(seed), np.random.default_rng([seed, OF_DECODING])
    free = {name: fixed.left(name, part) for name, part in tokens.items()}
    tracks = {name: _tracks(part, free[name]) for name, part in tokens.items() if name != "video"}
    shown = shown_tokens(tracks, mask, rng)
    drawn = Mask({}, {}, fixed.unnamed)
    for name, part in tokens.items():
        if name == "video":
            chance = _tubes(part, mask.video, rng) & free[name]
        else:
            span = mask.span_seconds / model.streams[name].token_seconds
            chance = _spans(len(part), tracks[name], shown[name], span, rng)
        drawn.hidden[name] = chance | ~free[name]
        drawn.rebuilt[name] = np.full(len(part), NOT_REBUILT)
        share = mask.decoded if name == "video" else 1.0
        drawn.rebuilt[name][decoded_tokens(chance, share, decoding)] = KINDS.index("random")
        if name in fixed.rebuilt:
            drawn.rebuilt[name][decoded_tokens(fixed.rebuilt[name], share, decoding)] = KINDS.index(kind)
    return drawn


def _draw_kind(
    clip: Clip, tokens: dict[str, Tokens], model: ModelConfig, mask: MaskConfig, rng: np.random.Generator
) -> tuple[str, Determined]:
    """A kind by its weight and what it determines; the random one, which determines nothing, where the clip cannot carry it
    or would be left without anything to see."""
    weights = np.array([mask.kinds.get(kind, 0.0) for kind in KINDS])
    kind = KINDS[rng.choice(len(KINDS), p=weights / weights.sum())]
    fixed = DRAWS[kind](clip, tokens, model, mask, rng) if kind in DRAWS else None
    if fixed is not None:
        # of free tokens of a stream one stays visible, of free places of a picture perhaps none: where all are free, some do
        left = {name: fixed.left(name, part) for name, part in tokens.items()}
        if any(free.all() if name == "video" else free.any() for name, free in left.items() if len(free)):
            return kind, fixed
    return "random", Determined({})


def hidden_tokens(
    name: str, tokens: Tokens, model: ModelConfig, mask: MaskConfig, rng: np.random.Generator
) -> np.ndarray:
    """bool [token]: what the random kind hides of one modality of a clip. At least one token of each track stays visible."""
    if name == "video":
        return _tubes(tokens, mask.video, rng)
    tracks = _tracks(tokens, np.ones(len(tokens), bool))
    shown = [_kept(len(rows), mask.streams) for rows in tracks]
    return _spans(len(tokens), tracks, shown, mask.span_seconds / model.streams[name].token_seconds, rng)


def _tubes(tokens: Tokens, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """The same places through all of a segment (VideoMAE, section 3.2)."""
    hidden = np.zeros(len(tokens), bool)
    for block in np.unique(tokens.block):
        rows = np.flatnonzero(tokens.block == block)
        places = np.unique(tokens.place[rows])
        keep = rng.choice(places, max(round(len(places) * (1 - ratio)), 1), replace=False)
        hidden[rows] = ~np.isin(tokens.place[rows], keep)
    return hidden


def _tracks(tokens: Tokens, free: np.ndarray) -> list[np.ndarray]:
    """Rows of the free tokens of each track: a person or channel in a view."""
    _, track = np.unique(np.stack([tokens.view, tokens.person], 1), axis=0, return_inverse=True)
    rows = [np.flatnonzero((track.ravel() == number) & free) for number in range(int(track.max(initial=-1)) + 1)]
    return [mine for mine in rows if len(mine)]


def _kept(length: int, ratio: float) -> int:
    """How many tokens of a track stay visible: never none."""
    return length - min(round(length * ratio), length - 1)


def shown_tokens(
    tracks: dict[str, list[np.ndarray]], mask: MaskConfig, rng: np.random.Generator
) -> dict[str, list[int]]:
    """How many tokens of each track stay visible.

    With ``mask.dirichlet``, the shares of the modalities are drawn (MultiMAE, section 3.2); how many they are together stays.
    A modality may then come out empty. Video keeps its tubes' share: it would swallow or be swallowed by the streams, which
    have a hundredth of its tokens.
    """
    fixed = {name: [_kept(len(rows), mask.streams) for rows in found] for name, found in tracks.items()}
    names = [name for name in tracks if tracks[name]]
    if mask.dirichlet is None or len(names) < 2:
        return fixed
    lengths = {name: np.array([len(rows) for rows in tracks[name]]) for name in names}
    total = sum(sum(fixed[name]) for name in names)
    shares = rng.dirichlet(np.full(len(names), mask.dirichlet))
    given = apportion(total, shares, np.array([lengths[name].sum() for name in names]))
    dealt = {name: apportion(int(n), lengths[name], lengths[name]) for name, n in zip(names, given, strict=True)}
    return fixed | {name: numbers.tolist() for name, numbers in dealt.items()}


def apportion(total: int, shares: np.ndarray, room: np.ndarray) -> np.ndarray:
    """``total`` dealt out by ``shares`` [part], no part above its ``room`` [part]: int64 [part] (method of Sainte-Laguë)."""
    part = np.repeat(np.arange(len(room)), room)
    turn = np.concatenate([np.arange(n) for n in room]) + 0.5
    first = np.argsort(turn / np.maximum(shares, 1e-12)[part], kind="stable")[:total]
    return np.bincount(part[first], minlength=len(room))


def _spans(
    length: int, tracks: list[np.ndarray], shown: list[int], span: float, rng: np.random.Generator
) -> np.ndarray:
    """bool [length]: spans of ``span`` tokens of each track, until as many as ``shown`` says are left."""
    hidden = np.zeros(length, bool)
    size = max(round(span), 1)
    for rows, left in zip(tracks, shown, strict=True):
        mine = np.zeros(len(rows), bool)
        for start in rng.permutation(np.arange(-size + 1, len(rows))):
            room = len(rows) - left - int(mine.sum())
            if room <= 0:
                break
            span_rows = np.arange(max(start, 0), min(start + size, len(rows)))
            mine[span_rows[~mine[span_rows]][:room]] = True
        hidden[rows] = mine
    return hidden


def decoded_tokens(hidden: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Row numbers of the hidden tokens that are rebuilt, in their order."""
    rows = np.flatnonzero(hidden)
    count = max(round(len(rows) * share), 1) if len(rows) else 0
    return np.sort(rng.choice(rows, count, replace=False)) if count < len(rows) else rows
