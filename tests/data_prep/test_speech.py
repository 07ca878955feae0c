"""When somebody speaks, and who. The speech is synthesized: a voice's pulses through the formants of vowels, in syllables."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch

from data_prep.build import build
from data_prep.clips import Window
from data_prep.config import BuildConfig
from data_prep.manifest import Participant, View
from data_prep.shards import read_index, read_sample
from data_prep.speakers import Speakers
from data_prep.speech import WINDOW, Interval, Listener

RATE = 16000
VOWELS = [
    (730, 1090, 2440),
    (270, 2290, 3010),
    (300, 870, 2240),
    (530, 1840, 2480),
    (570, 840, 2410),
    (660, 1720, 2410),
]


def voice(seconds: float, pitch: float) -> np.ndarray:
    """Syllables [sample], about four a second."""
    random = np.random.default_rng(round(pitch))
    said = np.empty(0)
    while len(said) < seconds * RATE:
        time = np.arange(round(random.uniform(0.12, 0.22) * RATE)) / RATE
        melody = pitch * (1 + 0.15 * random.uniform(-1, 1) + 0.1 * np.sin(18 * time + random.uniform(0, 6)))
        sound = scipy.signal.sawtooth(2 * np.pi * np.cumsum(melody) / RATE) + 0.02 * random.normal(size=len(time))
        for formant, width in zip(VOWELS[random.integers(len(VOWELS))], (90, 110, 170), strict=True):
            r = np.exp(-np.pi * width / RATE)
            sound = scipy.signal.lfilter([1 - r], [1, -2 * r * np.cos(2 * np.pi * formant / RATE), r * r], sound)
        fade = np.minimum(1, np.minimum(time / 0.03, (time[-1] - time) / 0.04))
        breath = round(random.uniform(0.03, 0.07) * RATE)
        said = np.concatenate([said, sound / np.abs(sound).max() * fade, 0.05 * random.normal(size=breath)])
    return 0.3 * said[: round(seconds * RATE)]


def spoken(seconds: float, *turns: tuple[float, float, float]) -> np.ndarray:
    """Sound [sample] of quiet noise with turns (start, end, pitch) of speech in it."""
    sound = 0.001 * np.random.default_rng(0).normal(size=round(seconds * RATE))
    for start, end, pitch in turns:
        said = voice(end - start, pitch)
        sound[round(start * RATE) :][: len(said)] += said
    return sound.astype(np.float32)


SOUND = spoken(9.0, (1.0, 4.0, 120), (5.5, 7.5, 200))


def heard(sound: np.ndarray, pieces: int = 1, start: float = 0.0) -> list[Interval]:
    listener, time = Listener(), start
    for piece in np.array_split(sound, pieces):
        listener.hear(time, piece)
        time += len(piece) / RATE
    return listener.settle()


def test_speech_is_found_where_it_is_and_nothing_else_is_speech() -> None:
    found = heard(SOUND, start=100.0)
    np.testing.assert_allclose([part[:2] for part in found], [(101, 104), (105.5, 107.5)], atol=0.2)
    assert all(part.probability > 0.8 for part in found)
    time = np.arange(5 * RATE) / RATE
    assert heard((0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)) == []
    assert heard((0.1 * np.random.default_rng(1).normal(size=len(time))).astype(np.float32)) == []
    assert heard(np.zeros(100, np.float32)) == []  # less than a window


def test_clip_by_clip_gives_what_the_whole_gives() -> None:
    whole, parts = heard(SOUND), heard(SOUND, pieces=7)
    np.testing.assert_allclose(parts, whole, atol=1e-4)


def test_a_gap_is_not_listened_across() -> None:
    listener = Listener()
    listener.hear(0.0, SOUND[: 3 * RATE])
    listener.hear(60.0, SOUND[3 * RATE :])
    first, *_, last = listener.settle()
    assert first.end <= 3.0
    assert last.end == pytest.approx(64.5, abs=0.2)
    assert listener.power(1.5, 2.5) > 100 * listener.power(30, 31) == 0


def test_it_says_what_silero_says() -> None:
    from silero_vad import load_silero_vad

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.load is deprecated
        model = load_silero_vad()
    windows = torch.from_numpy(SOUND[: len(SOUND) // WINDOW * WINDOW].reshape(-1, WINDOW))
    theirs = np.array([model(window, RATE).item() for window in windows]) > 0.5
    listener = Listener()
    listener.hear(0.0, SOUND)
    ours = np.concatenate(listener._runs[0].probabilities) > 0.5
    assert np.mean(ours == theirs) > 0.97  # the wheel's safetensors and its TorchScript model were trained apart


def build_sounds(
    folder: Path, sounds: dict[str, np.ndarray], participants: dict[str, str], **settings: Any
) -> list[dict]:
    """meta.json of each clip of a recording whose views are sounds."""
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "recording", "view", "offset", "participants"])
        for view, sound in sounds.items():
            soundfile.write(folder / f"{view}.wav", sound, RATE)
            writer.writerow([f"{view}.wav", "talk", view, 0, participants[view]])
    config = BuildConfig(
        folder / "manifest.csv", folder / "out", clip_seconds=5.0, landmarks="none", workers=1, **settings
    )
    assert build(config) == 0
    return [json.loads(read_sample(config.out, row)["meta.json"]) for _, row in read_index(config.out).iterrows()]


@pytest.mark.parametrize("channels", ["a view a microphone", "a channel a microphone"])
def test_a_microphone_tells_who_speaks(tmp_path: Path, channels: str) -> None:
    ben, anna = spoken(9.0, (1.0, 4.0, 120)), spoken(9.0, (4.6, 7.5, 200))
    hears = {"ben": ben + 0.2 * anna, "anna": anna + 0.2 * ben}  # each microphone hears the neighbour
    if channels == "a view a microphone":
        clips = build_sounds(tmp_path, hears, {"ben": "ben", "anna": "anna"})
    else:
        clips = build_sounds(tmp_path, {"desk": np.stack(list(hears.values()), axis=1)}, {"desk": "ben;anna"})
    assert [len(clip["speech"]) >= 2 for clip in clips] == [True, True]
    for clip in clips:
        names = {person["id"]: person["participant"] for person in clip["people"]}
        for part in clip["speech"]:
            middle = clip["start"] + (part["start"] + part["end"]) / 2
            assert names[part["person"]] == ("ben" if middle < 4.3 else "anna")
            assert part["by"] == "microphone"
            assert 0.7 < part["confidence"] <= 1
            assert 0 <= part["start"] < part["end"] <= clip["end"] - clip["start"]
    assert {person["participant"] for clip in clips for person in clip["people"]} == {"ben", "anna"}
    assert [[p["participant"] for p in clip["people"]] for clip in clips] == [["ben", "anna"], ["anna"]]


def test_a_microphone_of_nobody_and_speech_turned_off(tmp_path: Path) -> None:
    for folder in ("table", "off"):
        (tmp_path / folder).mkdir()
    clips = build_sounds(tmp_path / "table", {"table": SOUND}, {"table": ""})
    assert [(part["person"], part["by"], part["confidence"]) for clip in clips for part in clip["speech"]] == [
        (None, None, 0)
    ] * 2
    assert clips[0]["people"] == []
    for clip in clips:
        (part,) = clip["speech"]
        share = (part["end"] - part["start"]) / (clip["end"] - clip["start"])
        assert clip["views"]["table"]["quality"]["speech"] == pytest.approx(share, abs=1e-4)
    assert all("speech" not in clip for clip in build_sounds(tmp_path / "off", {"t": SOUND}, {"t": ""}, speech=False))


def mouths(**moving: tuple[float, float] | None) -> dict[str, np.ndarray]:
    """Face rows of people 0, 1, ... whose jaws move between two times (None = never)."""
    random, times = np.random.default_rng(0), np.arange(72) / 8
    shapes = np.zeros((len(times), len(moving), 52), np.float32)
    for person, when in enumerate(moving.values()):
        shapes[:, person, 25:50] += 0.002 * random.random((len(times), 25))  # landmarks are never quite still
        if when:
            during = (times > when[0]) & (times < when[1])
            shapes[during, person, 25] += random.random(int(during.sum()))
    return {
        "times": times,
        "window": np.repeat(np.arange(len(times)), len(moving)),
        "person": np.tile(np.arange(len(moving)), len(times)),
        "blendshapes": shapes.reshape(-1, 52),
    }


def spoke(rows: dict[str, np.ndarray], tmp_path: Path, participants: tuple[Participant, ...] = ()) -> list[tuple]:
    """(person, by, confidence) of each part of SOUND, heard by a camera that sees these faces."""
    soundfile.write(tmp_path / "sound.flac", SOUND, RATE)
    speakers = Speakers([View("room", (), participants)], [True])
    speakers.hear(0, 0.0, (tmp_path / "sound.flac").read_bytes())
    speakers.settle()
    found = speakers.of_clip(Window(0.0, 9.0), [rows], {})
    assert len(found) == 2
    return [(part["person"], part["by"], part["confidence"]) for part in found]


def test_a_mouth_tells_who_speaks(tmp_path: Path) -> None:
    first, second = spoke(mouths(anna=(1, 4), ben=(5.5, 7.5), carl=None), tmp_path)
    assert (first[:2], second[:2]) == ((0, "mouth"), (1, "mouth"))
    assert first[2] > 0.8
    assert spoke(mouths(anna=None, ben=None), tmp_path) == [(None, None, 0.0)] * 2
    both = spoke(mouths(anna=(1, 4), ben=(1, 4)), tmp_path)
    assert both[0][2] < 0.7  # two mouths at once: a guess that says so


def test_who_is_alone_speaks_unless_the_mouth_is_still(tmp_path: Path) -> None:
    first, second = spoke(mouths(anna=(1, 4)), tmp_path)
    assert first[:2] == (0, "view")
    assert second == (None, None, 0.0)  # somebody off the picture
    turned_away = {name: values for name, values in mouths(anna=(1, 4)).items() if name != "blendshapes"}
    assert [part[:2] for part in spoke(turned_away, tmp_path)] == [(0, "view")] * 2
    assert all(0.4 < part[2] <= 0.5 for part in spoke(turned_away, tmp_path))
