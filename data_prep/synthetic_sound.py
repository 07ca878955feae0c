"""The sound of a generated scene: voices with a pitch and formants of their own, and the room's noise.

A voice reads one period of each vowel out of a table at the pitch of the moment; its loudness is the mouth's opening.
"""

from __future__ import annotations

import numpy as np

from data_prep.synthetic_body import syllables
from data_prep.synthetic_script import Person, Script

RATE = 16000
VOWELS = ((800, 1200, 2600), (500, 1900, 2550), (300, 2300, 3000), (450, 850, 2500))
"""The first three formants in Hz of the vowels in "father", "bed", "see" and "go", roughly."""
TABLE = 1024
FAR = 0.15
"""How loud the others are in the microphone of one person."""


def voices(script: Script) -> np.ndarray:
    """What each person says, float32 [person, sample] at 16 kHz, about +-0.3."""
    out = np.zeros((len(script.people), round(script.seconds * RATE)), np.float32)
    tables = [_vowel_table(person) for person in script.people]
    for turn in script.turns:
        first, last = round(turn.start * RATE), min(round(turn.end * RATE), out.shape[1])
        if last <= first:
            continue
        times = np.arange(first, last) / RATE
        loud, vowel = syllables(turn, times)
        melody = 1 + 0.08 * np.sin(2 * np.pi * 0.9 * (times - turn.start) + 1) + 0.02 * np.sin(2 * np.pi * 5 * times)
        phase = np.cumsum(script.people[turn.person].pitch_hz / RATE * melody)
        out[turn.person, first:last] += loud * tables[turn.person][vowel, (phase % 1 * TABLE).astype(np.intp)]
    return out


def microphone(rng: np.random.Generator, said: np.ndarray, people: tuple[int, ...]) -> np.ndarray:
    """What a microphone near these people records, float32 [sample]: them, the others faintly, the room's noise."""
    gain = np.full(len(said), FAR, np.float32)
    gain[list(people)] = 1.0
    noise = rng.standard_normal(said.shape[1], dtype=np.float32)
    hum = np.sin(2 * np.pi * 50 / RATE * np.arange(said.shape[1], dtype=np.float32))
    return np.clip(gain @ said + 0.004 * noise + 0.002 * hum, -1, 1).astype(np.float32)


def _vowel_table(person: Person) -> np.ndarray:
    """One period of each vowel, float32 [vowel, 1024]: the source's harmonics (1 / number) shaped by the formants."""
    number = np.arange(1, int(5000 / person.pitch_hz) + 1)
    hertz, wave = number * person.pitch_hz, np.arange(TABLE) / TABLE
    rows = []
    for formants in VOWELS:
        peaks = [1 / (1 + ((hertz - f * person.formants) / (60 + 0.05 * f)) ** 2) for f in formants]
        strength = (0.02 + sum(peaks)) / number**0.7
        row = (strength[:, None] * np.sin(2 * np.pi * number[:, None] * wave + number[:, None] ** 2)).sum(axis=0)
        rows.append(0.1 * row / row.std())
    return np.array(rows, np.float32)
