"""Sound as samples of one rate, each at its own time, whatever rates, layouts, gaps and clocks it comes in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import av
import numpy as np

GAP = 0.015
"""Seconds that sound may stray from its time stamps before silence is put in or samples are left out."""
FINE = 10_000
"""libswresample takes whole numbers of Hz: a clock's drift is given to it in ten-thousandths of one."""


class Piece(NamedTuple):
    """Samples [channel, sample] and the position of the first one, counted from the line's first sample."""

    at: int
    samples: np.ndarray


class SoundLine:
    """Frames of sound in, pieces of one rate out; no position comes twice, what is missing is left out.

    ``begin``: time of position 0 in seconds. ``end``: the position after the last one.
    """

    def __init__(self, rate: int, people: int = 1) -> None:
        self._rate, self._people = rate, people
        self.begin, self.end = 0.0, 0
        self._layout = ""
        self._resampler: av.AudioResampler | None = None
        self._form: tuple[str, str, int, float] | None = None
        self._heard = -math.inf  # time up to which sound was taken
        self._next = 0  # position of the next sample

    def push(self, time: float, frame: av.AudioFrame, drift: float = 0.0) -> Iterator[Piece]:
        """Takes sound that begins at ``time``; a second of its clock lasts 1 + ``drift`` seconds."""
        if not self._layout:
            # a channel a participant is kept; everything else is mixed to one
            self._layout = frame.layout.name if self._people == frame.layout.nb_channels > 1 else "mono"
            self.begin = time
        form = (frame.format.name, frame.layout.name, frame.sample_rate, drift)
        if self._resampler is None or form != self._form or abs(time - self._heard) > GAP:
            yield from self.pause()
            rate = self._rate * FINE if drift else self._rate
            self._resampler = av.AudioResampler(format="fltp", layout=self._layout, rate=rate)
            self._form, self._heard = form, time
            self._next = round((time - self.begin) * self._rate)
        self._heard += frame.samples / frame.sample_rate * (1 + drift)
        frame.pts = None  # samples are counted here
        if drift:
            frame.sample_rate = round(frame.sample_rate * FINE / (1 + drift))
        yield from self._take(frame)

    def pause(self) -> Iterator[Piece]:
        """The file is over, another may follow; or there is a gap. Gives what the resampler still holds."""
        if self._resampler is not None:
            yield from self._take(None)
            self._resampler = None

    def _take(self, frame: av.AudioFrame | None) -> Iterator[Piece]:
        assert self._resampler is not None
        for out in self._resampler.resample(frame):
            samples = out.to_ndarray()
            known = max(0, self.end - self._next)  # time stamps went back: what was heard already is left out
            if known < samples.shape[1]:
                yield Piece(self._next + known, samples[:, known:])
            self._next += samples.shape[1]
        self.end = max(self.end, self._next)
