"""How well are the clocks of views found from their sound, and how long does it take? ``python -m benchmarks.sync``

A generated conversation (speech-like noise: this is no real recording) is heard by two cameras of a room: each has its own
reverberation, its own frequency response, gain and noise; the second one is started later and its clock drifts. Prints
the error of the clock found at start, middle and end of what both heard, and the last rows are views of another room.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from scipy.signal import butter, lfilter, oaconvolve, sosfilt

from data_prep.decode import probe
from data_prep.manifest import Source
from data_prep.sync import Clock, Pair, SyncTask, measure
from data_prep.views import PlannedFile

RATE = 16000
MINUTE = 60 * RATE


def conversation(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Four people who take turns: noise and a voice's pulses through formants, in syllables, int16 [sample], 16 kHz."""
    out = np.zeros(round(seconds * RATE), np.int16)
    at = 0
    while at < len(out):
        at += round(RATE * rng.exponential(0.6))  # nobody speaks
        voice = int(rng.integers(4))
        for _ in range(rng.integers(3, 20)):
            length = round(RATE * rng.uniform(0.08, 0.35))
            sound = _syllable(rng, length, 90 + 40 * voice)
            room = out[at : at + length]
            room[:] = sound[: len(room)]
            at += length + round(RATE * rng.exponential(0.05))
    return out


def _syllable(rng: np.random.Generator, length: int, pitch: float) -> np.ndarray:
    source: Any = 0.3 * rng.standard_normal(length)
    source[:: round(RATE / (pitch * rng.uniform(0.8, 1.2)))] += 8.0
    for formant in rng.uniform((250, 900, 2000), (900, 2000, 3500)):
        radius = np.exp(-np.pi * 120 / RATE)
        source = lfilter([1 - radius], [1, -2 * radius * np.cos(2 * np.pi * formant / RATE), radius**2], source)
    source *= np.sin(np.pi * np.arange(length) / length) ** 0.5
    source = np.asarray(source)
    return (6000 * rng.uniform(0.3, 1) / np.abs(source).max() * source).astype(np.int16)


def write_camera(
    path: Path, world: np.ndarray, clock: Clock, seconds: float, rng: np.random.Generator, snr_db: float = np.inf
) -> Path:
    """Writes what a camera hears that runs for ``seconds`` on its own clock; noise is measured at the whole's loudness.

    ``world``: the room's sound, int16 [sample] at 16 kHz on the recording's clock.
    """
    echo = 0.08 * rng.standard_normal(RATE // 3) * np.exp(-np.arange(RATE // 3) / (0.06 * RATE))
    echo[0] = 1.0
    response = butter(2, sorted(rng.uniform((80, 3000), (250, 7000))), "bandpass", fs=RATE, output="sos")
    gain, loud = rng.uniform(0.2, 0.8) / 32768, float(np.sqrt(np.mean(world[: 10 * MINUTE].astype(np.float64) ** 2)))
    total = round(seconds * RATE)
    with soundfile.SoundFile(path, "w", RATE, 1, subtype="PCM_16") as file:
        for first in range(0, total, MINUTE):
            lead = 2 * RATE  # for echo and filter to begin
            steps = np.arange(first - lead, min(first + MINUTE, total))
            positions = (clock.offset + steps / RATE * (1 + clock.drift)) * RATE
            low = max(0, int(positions[0]) - 1)
            part = world[low : max(low, int(positions[-1]) + 2)]
            heard = np.interp(positions - low, np.arange(len(part)), part, 0, 0) if len(part) else np.zeros(len(steps))
            heard = sosfilt(response, oaconvolve(heard, echo)[: len(steps)])[lead:]
            noise = loud * 10 ** (-snr_db / 20) * rng.standard_normal(len(heard))
            file.write(gain * (heard + noise))
    return path


def error_ms(found: Clock, true: Clock, times: tuple[float, ...]) -> list[float]:
    """How far the clock found is off, in ms, at times of the view."""
    return [1000 * abs(found.offset - true.offset + time * (found.drift - true.drift)) for time in times]


def _planned(path: Path) -> tuple[PlannedFile, ...]:
    return (PlannedFile(Source(path, path.name, None), probe(path), 0.0),)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, nargs="+", default=[5.0, 120.0], help="how long the recordings are")
    rng = np.random.default_rng(0)
    print(
        "| minutes | offset s | drift ppm | noise dB SNR | error ms: start, middle, end | confidence | seconds | MB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for minutes in parser.parse_args().minutes:
        seconds = 60 * minutes
        world, other = conversation(rng, seconds), conversation(rng, min(seconds, 600))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            reference = _planned(write_camera(folder / "a.wav", world, Clock(0.0), seconds, rng, 20))
            for share, drift, snr in ((0.01, 50, 20), (-0.3, 50, 10), (0.3, -120, 0), (0.6, 20, -5), (0.0, 50, -10)):
                true = Clock(round(share * seconds + rng.uniform(0, 1), 3), drift * 1e-6)
                view = _planned(write_camera(folder / "b.wav", world, true, seconds, rng, snr))
                both = max(0.0, -true.offset), min(seconds, seconds - true.offset)
                _row(minutes, true, snr, SyncTask(Pair(reference, view), folder), (both[0], sum(both) / 2, both[1]))
            for snr in (20, 0):
                view = _planned(write_camera(folder / "b.wav", other, Clock(0.0), min(seconds, 600), rng, snr))
                _row(minutes, None, snr, SyncTask(Pair(reference, view), folder), ())


def _measured(task: SyncTask) -> tuple[Clock, float, float]:
    """The clock found, the seconds it took, and the most memory that the process has had, in MB."""
    start = time.perf_counter()
    found = measure(task, lambda _: None)
    return found, time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _row(minutes: float, true: Clock | None, snr: float, task: SyncTask, times: tuple[float, ...]) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        found, took, memory = process.submit(_measured, task).result()
    errors = ", ".join(f"{error:.2f}" for error in error_ms(found, true, times)) if true else "-"
    clock = f"{true.offset:.3f} | {true.drift * 1e6:.0f}" if true else "another room | -"
    print(
        f"| {minutes:g} | {clock} | {snr:g} | {errors} | {found.confidence} | {took:.1f} | {memory:.0f} |", flush=True
    )


if __name__ == "__main__":
    main()
