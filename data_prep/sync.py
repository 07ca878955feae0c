"""How the clock of a view lies on the recording's, found from the sound that both heard.

1. Coarse: loudness of 8 bands, 40 times a second; each stretch of 5 minutes is laid over the whole reference, and the one
   that stands out most says where the view lies (views may be started minutes apart).
2. Fine: up to 100 windows of 4 s, spread through what both heard, by GCC-PHAT (Knapp & Carter 1976): where each of them
   lies to a sample of 8 kHz.
3. The line (offset, drift) that most windows agree with, out of all lines through two of them; then least squares.

Sound lies in a nameless file on disk meanwhile, so that a recording of any length takes the same memory.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from data_prep.decode import Damage, read
from data_prep.sound import SoundLine
from data_prep.views import PlannedFile

METHOD = 1
"""To be raised with every change here that changes a result: what was measured before is then measured again."""
RATE = 8000
STEP, FRAME = 200, 512
"""Samples from one value of the bands' loudness to the next, and that each is taken from."""
BANDS = np.geomspace(150, 3500, 9)
"""Edges in Hz."""
STRETCH = 5 * 60 * RATE // STEP
"""Steps that are laid over the reference together."""
WINDOW, MOST_WINDOWS = 4 * RATE, 100
CLEAR = 7.0
"""A window counts when its peak is so many times the root mean square of its correlation; chance gives 4 to 5."""
AGREE = 0.02
"""Seconds by which a window may lie beside the line: people walk about between the microphones."""
MOST_DRIFT = 500e-6
LIKELY_DRIFT, SCATTER = 50e-6, 0.005
"""How far clocks of cameras run apart (standard deviation), and seconds that a window is off: a short overlap says little
of the drift, and is then not believed more than that."""
FEWEST = 5
"""Windows that a full confidence needs."""


@dataclass(frozen=True)
class Clock:
    """A view's time t is offset + t * (1 + drift) on the recording's clock.

    ``confidence``: the share of windows spread through the common sound (at least 5) that have a clear correlation peak
    within 20 ms of that line.
    """

    offset: float
    drift: float = 0.0
    confidence: float | None = None


@dataclass(frozen=True)
class Pair:
    """Two views to be compared: the files of the reference on the recording's clock, those of the view on its own."""

    reference: tuple[PlannedFile, ...]
    view: tuple[PlannedFile, ...]


@dataclass(frozen=True)
class SyncTask:
    """A pair, and the folder in which the sound lies meanwhile."""

    pair: Pair
    folder: Path


def measure(task: SyncTask, report: Callable[[Any], None]) -> Clock:
    """The clock of the pair's view; confidence 0 where nothing was found. Reports 0 as it goes on."""
    with tempfile.TemporaryFile(dir=task.folder) as one, tempfile.TemporaryFile(dir=task.folder) as other:
        reference = Track(one, task.pair.reference, lambda: report(0))
        view = Track(other, task.pair.view, lambda: report(0))
        return compare(reference, view)


class Track:
    """The sound of a chain of files on one clock, mono at 8 kHz, in an open file; it starts at ``begin`` seconds.

    ``loudness`` [step, band]: of each band, without its slow changes and its level.
    """

    def __init__(self, file: Any, chain: Iterable[PlannedFile], alive: Callable[[], None]) -> None:
        self._file = file
        line = SoundLine(RATE)
        for part in chain:
            for number, event in enumerate(read(part.source.path, part.probed, Damage(), video=False)):
                assert isinstance(event.frame, av.AudioFrame)
                self._write(line.push(part.at(event.time), event.frame))
                if number % 1000 == 0:
                    alive()
            self._write(line.pause())
        self.begin, self.samples = line.begin, line.end
        self.loudness = self._loudness(alive)

    def _write(self, pieces: Iterable[tuple[int, NDArray]]) -> None:
        for at, samples in pieces:
            self._file.seek(2 * at)
            self._file.write(np.clip(np.rint(samples[0] * 32767), -32768, 32767).astype("<i2").tobytes())

    def sound(self, first: int, last: int) -> NDArray[np.float32]:
        """The samples from ``first`` to before ``last``, zeros where there are none."""
        sound = np.zeros(last - first, np.float32)
        begin, end = max(first, 0), min(last, self.samples)
        if begin < end:
            self._file.seek(2 * begin)
            data = np.frombuffer(self._file.read(2 * (end - begin)), "<i2")
            sound[begin - first : begin - first + len(data)] = data
        return sound

    def _loudness(self, alive: Callable[[], None]) -> NDArray[np.float32]:
        window = np.hanning(FRAME).astype(np.float32)
        edges = np.searchsorted(np.fft.rfftfreq(FRAME, 1 / RATE), BANDS)
        pieces = []
        for first in range(0, self.samples // STEP, 4096):
            last = min(first + 4096, self.samples // STEP)
            frames = np.lib.stride_tricks.sliding_window_view(
                self.sound(first * STEP, (last - 1) * STEP + FRAME), FRAME
            )[::STEP]
            power = np.abs(scipy.fft.rfft(frames * window, axis=1)) ** 2
            pieces.append(np.log(np.add.reduceat(power[:, : edges[-1]], edges[:-1], axis=1) + 1e3))
            alive()
        loudness = np.concatenate(pieces) if pieces else np.zeros((0, len(BANDS) - 1), np.float32)
        loudness = loudness - uniform_filter1d(loudness, 81, axis=0) if len(loudness) else loudness
        level = loudness.std(axis=0) if len(loudness) else np.zeros(len(BANDS) - 1)
        return np.where(level > 1e-3, loudness / np.maximum(level, 1e-3), 0).clip(-3, 3).astype(np.float32)


class Match(NamedTuple):
    """At ``time`` of the view's clock the recording's is ``delay`` seconds further."""

    time: float
    delay: float


def compare(reference: Track, view: Track) -> Clock:
    """The clock of a view's track on the clock of the reference's."""
    start = coarse(reference, view)
    if start is None:
        return Clock(0.0, 0.0, 0.0)
    matches, windows = fine(reference, view, start)
    return fit(matches, windows)


def coarse(reference: Track, view: Track) -> Match | None:
    """Where the stretch of the view lies that stands out most; None where one of the two is silent."""
    if not (reference.loudness.any() and view.loudness.any()):
        return None
    stretches = np.array_split(view.loudness, max(1, round(len(view.loudness) / STRETCH)))
    size = scipy.fft.next_fast_len(len(reference.loudness) + max(map(len, stretches)), real=True)
    spectrum = scipy.fft.rfft(reference.loudness, size, axis=0)
    best, found, first = 0.0, None, 0
    for stretch in stretches:
        product = (spectrum * scipy.fft.rfft(stretch, size, axis=0).conj()).sum(axis=1)
        correlation = scipy.fft.irfft(product, size)
        lag = int(correlation.argmax())
        height = float(correlation[lag] / max(correlation.std(), 1e-9))
        if height > best:
            at = lag if lag < len(reference.loudness) else lag - size
            time = view.begin + (first + len(stretch) / 2) * STEP / RATE
            best, found = height, Match(time, reference.begin - view.begin + (at - first) * STEP / RATE)
        first += len(stretch)
    return found


def fine(reference: Track, view: Track, start: Match) -> tuple[list[Match], int]:
    """Where windows of the view lie: those with a clear peak, and how many were looked at."""
    begin = max(view.begin, reference.begin - start.delay)
    end = min(view.begin + view.samples / RATE, reference.begin + reference.samples / RATE - start.delay)
    first, last = (round((time - view.begin) * RATE) for time in (begin, end))
    slots = min((last - first) // WINDOW, MOST_WINDOWS)
    if slots < 1:
        return [], 0
    edges = np.linspace(first, last, slots + 1).astype(int)
    lively = np.concatenate([[0.0], np.cumsum((view.loudness**2).sum(axis=1))])
    matches = [
        found
        for slot in range(slots)
        if (found := _match(reference, view, _liveliest(lively, *edges[slot : slot + 2]), start)) is not None
    ]
    return matches, slots


def _liveliest(lively: NDArray, first: int, last: int) -> int:
    """The first sample of the window in which most happens, between two samples."""
    steps = np.arange(math.ceil(first / STEP), max((last - WINDOW) // STEP, math.ceil(first / STEP)) + 1)
    ends = np.minimum(steps + WINDOW // STEP, len(lively) - 1)
    return int(steps[(lively[ends] - lively[np.minimum(steps, ends)]).argmax()]) * STEP


def _match(reference: Track, view: Track, at: int, start: Match) -> Match | None:
    time = view.begin + (at + WINDOW / 2) / RATE
    reach = round((1.0 + MOST_DRIFT * abs(time - start.time)) * RATE)
    expected = at + round((view.begin + start.delay - reference.begin) * RATE)
    heard = view.sound(at, at + WINDOW)
    there = reference.sound(expected - reach, expected + WINDOW + reach)
    size = scipy.fft.next_fast_len(len(there) + WINDOW, real=True)
    product = scipy.fft.rfft(there, size) * scipy.fft.rfft(heard, size).conj()
    hertz = np.fft.rfftfreq(size, 1 / RATE)
    product *= (hertz > 100) & (hertz < 3500)
    product /= np.maximum(np.abs(product), 1e-3)
    correlation = scipy.fft.irfft(product, size)[: 2 * reach + 1]
    lag = int(correlation.argmax())
    if correlation[lag] < CLEAR * max(float(np.sqrt(np.mean(correlation**2))), 1e-12):
        return None
    return Match(time, reference.begin - view.begin + (expected - reach + lag - at) / RATE)


def fit(matches: list[Match], windows: int) -> Clock:
    """The line that most matches agree with; offset to 0.1 ms, drift to 0.01 ppm, so that all processors say the same."""
    if not matches:
        return Clock(0.0, 0.0, 0.0)
    times, delays = np.array(matches).T
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = (delays[:, None] - delays) / (times[:, None] - times)
    np.fill_diagonal(slopes, 0.0)  # and the lines without a drift
    best, chosen = (-1, 0.0), np.zeros(len(times), bool)
    for one, other in zip(*np.nonzero(np.abs(slopes) <= MOST_DRIFT), strict=True):
        off = np.abs(delays - delays[one] - slopes[one, other] * (times - times[one]))
        agree = off < AGREE
        rank = (int(agree.sum()), -float(off[agree].sum()))
        if rank > best:
            best, chosen = rank, agree
    t, d = times[chosen], delays[chosen]
    since = t - t.mean()
    drift = float((since * (d - d.mean())).sum() / ((since**2).sum() + (SCATTER / LIKELY_DRIFT) ** 2))
    offset = float(d.mean() - drift * t.mean())
    return Clock(round(offset, 4), round(drift, 8), round(int(chosen.sum()) / max(windows, FEWEST), 3))
