"""The kinds of masking that ask for a look across streams, people and time. Each says what it determines of a clip's tokens
and leaves the rest to chance (masking.py); None where the clip cannot carry it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pretrain.clips import Clip
from pretrain.config import MaskConfig, ModelConfig
from pretrain.tokens import Tokens
from pretrain.traces import extent, people_of, traces

PAST = 1.0  # seconds of a person, at least, from which the future is told


@dataclass
class Determined:
    """bool [token] by modality. rebuilt: hidden, and to be rebuilt; unseen: hidden, and not asked for.

    unnamed: sound that stays visible, but not whose it is.
    """

    rebuilt: dict[str, np.ndarray]
    unseen: dict[str, np.ndarray] = field(default_factory=dict)
    unnamed: np.ndarray | None = None

    def left(self, name: str, tokens: Tokens) -> np.ndarray:
        """bool [token]: what is left to chance."""
        nothing = np.zeros(len(tokens), bool)
        return ~(self.rebuilt.get(name, nothing) | self.unseen.get(name, nothing))


def stream(
    clip: Clip, tokens: dict[str, Tokens], model: ModelConfig, mask: MaskConfig, rng: np.random.Generator
) -> Determined | None:
    """One whole stream is hidden, of all people and views. Never video: nothing else knows what the walls look like."""
    names = [name for name in tokens if name != "video"]
    if not names or len(tokens) < 2:
        return None
    name = names[rng.integers(len(names))]
    return Determined({name: np.ones(len(tokens[name]), bool)})


def partner(
    clip: Clip, tokens: dict[str, Tokens], model: ModelConfig, mask: MaskConfig, rng: np.random.Generator
) -> Determined | None:
    """One of several people is hidden for some seconds, wherever that person is seen or heard (traces.py)."""
    people = people_of(tokens)
    if len(people) < 2:
        return None
    person = int(rng.choice(people))
    lasts = rng.uniform(*mask.partner_seconds)
    times = np.concatenate([part.time[part.person == person] for part in tokens.values()])
    start = rng.choice(times) - rng.uniform() * lasts
    start = min(max(start, 0.0), max(clip.end - clip.start - lasts, 0.0))
    hidden = traces(clip, tokens, person, model, mask.partner_margin)
    for name, part in tokens.items():
        first, last = extent(name, part, model)
        hidden[name] &= (last > start) & (first < start + lasts)
    return Determined(hidden)


def future(
    clip: Clip, tokens: dict[str, Tokens], model: ModelConfig, mask: MaskConfig, rng: np.random.Generator
) -> Determined | None:
    """Nothing later than an instant is seen; what one person does next is rebuilt: the tokens with their middle in that time.

    The time ends where the decoder's reading (``reach_chunks``) no longer comes back to anything seen.
    """
    people = people_of(tokens)
    if not len(people):
        return None
    person = int(rng.choice(people))
    extents = {name: extent(name, part, model) for name, part in tokens.items()}
    theirs = {name: part.person == person for name, part in tokens.items()}
    first = min(extents[name][0][rows].min() for name, rows in theirs.items() if rows.any())
    last = max(extents[name][1][rows].max() for name, rows in theirs.items() if rows.any())
    shortest, longest = mask.future_seconds
    longest = min(longest, last - first - PAST)
    if longest < shortest:
        return None
    lasts = rng.uniform(shortest, longest)
    now = rng.uniform(first + PAST, last - lasts)
    seen = [part.chunk[extents[name][1] <= now] for name, part in tokens.items() if name != "video"]
    if not any(len(chunks) for chunks in seen):
        return None
    until = min(now + lasts, (np.concatenate(seen).max() + 1 + model.reach_chunks) * model.chunk_seconds)
    shows = traces(clip, tokens, person, model, mask.partner_margin)
    rebuilt = {name: shows[name] & (part.time > now) & (part.time <= until) for name, part in tokens.items()}
    unseen = {name: (extents[name][1] > now) & ~rebuilt[name] for name in tokens}
    if not any(rows.any() for rows in rebuilt.values()):
        return None
    audio = tokens.get("audio")  # who speaks is told by a whole chunk: in the one of ``now`` by what is later, too
    unnamed = None if audio is None else audio.chunk == np.floor(now / model.chunk_seconds + 1e-6)
    return Determined(rebuilt, unseen, unnamed)


DRAWS = {"stream": stream, "partner": partner, "future": future}
