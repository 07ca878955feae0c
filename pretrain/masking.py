"""What is hidden from the encoder: tubes of places for video, spans of time for every other stream.

Drawn from (seed) alone, so that a resumed run hides what the interrupted one would have hidden.
"""

from __future__ import annotations

import numpy as np

from pretrain.config import MaskConfig, ModelConfig
from pretrain.tokens import Tokens


def hidden_tokens(
    name: str, tokens: Tokens, model: ModelConfig, mask: MaskConfig, rng: np.random.Generator
) -> np.ndarray:
    """bool [token]: which tokens of a clip the encoder does not see. At least one token of a stream stays visible."""
    if name == "video":
        return _tubes(tokens, mask.video, rng)
    return _spans(tokens, mask.streams, mask.span_seconds / model.streams[name].token_seconds, rng)


def _tubes(tokens: Tokens, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """The same places through all of a segment (VideoMAE, section 3.2)."""
    hidden = np.zeros(len(tokens), bool)
    for block in np.unique(tokens.block):
        rows = np.flatnonzero(tokens.block == block)
        places = np.unique(tokens.place[rows])
        keep = rng.choice(places, max(round(len(places) * (1 - ratio)), 1), replace=False)
        hidden[rows] = ~np.isin(tokens.place[rows], keep)
    return hidden


def _spans(tokens: Tokens, ratio: float, span: float, rng: np.random.Generator) -> np.ndarray:
    """Spans of ``span`` tokens of each track (a view's channel or person) until ``ratio`` of it is hidden."""
    hidden = np.zeros(len(tokens), bool)
    length = max(round(span), 1)
    for track in np.unique(np.stack([tokens.view, tokens.person], 1), axis=0):
        rows = np.flatnonzero((tokens.view == track[0]) & (tokens.person == track[1]))
        wanted = min(round(len(rows) * ratio), len(rows) - 1)
        mine = np.zeros(len(rows), bool)
        for start in rng.permutation(np.arange(-length + 1, len(rows))):
            room = wanted - int(mine.sum())
            if room <= 0:
                break
            span_rows = np.arange(max(start, 0), min(start + length, len(rows)))
            mine[span_rows[~mine[span_rows]][:room]] = True
        hidden[rows] = mine
    return hidden


def decoded_tokens(hidden: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Row numbers of the hidden tokens that are rebuilt, in their order."""
    rows = np.flatnonzero(hidden)
    count = max(round(len(rows) * share), 1) if len(rows) else 0
    return np.sort(rng.choice(rows, count, replace=False)) if count < len(rows) else rows
