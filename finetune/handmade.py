"""Hand-made features: what behaviour is measured by without a network, for the row that stands beside every result.

- voice: how much is spoken (as the shards tell it, who speaks included; else by Silero VAD), pauses, loudness, pitch (torchaudio);
- face: mean and deviation of the 52 blendshapes, blinks, how fast the head turns and moves;
- body: how fast points move, the wrists apart, in body heights a second.
Of several people or views the mean; what is not there is zeros, and a flag says so.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from data_prep.clips import SAMPLE_RATE
from finetune.features import Features, Rows
from finetune.labels import SCENE
from finetune.windows import cut
from pretrain.clips import Clip, View

EYES = [9, 10]  # eyeBlinkLeft, eyeBlinkRight of MediaPipe's blendshapes
CLOSED = 0.5
WRISTS = [15, 16]  # of MediaPipe's 33 points
FRAME = 0.01  # seconds
PITCH_RATE = 8000  # enough for a voice, and four times quicker than 16 kHz
LOWEST, HIGHEST = 75, 500  # Hz of a voice
PAUSE = 0.2  # seconds of silence between words that are no pause
SIZES = {"voice": 12, "face": 2 * 52 + 5 + 1, "pose": 4 + 1}  # the last of each is the flag


@dataclass
class Sound:
    """One channel of a clip, a value every FRAME: seconds from the clip's start, loudness (dB), pitch (octaves above 1 Hz)."""

    view: str
    channel: int
    times: np.ndarray
    loudness: np.ndarray
    pitch: np.ndarray


def describe(clips: list[Clip], rows: Rows) -> Mapping[str, np.ndarray]:
    """For ``features.map_clips``: "handmade", float32 [row, feature]."""
    heard = [(sounds := sounds_of(clip), speech_of(clip, sounds)) for clip in clips]
    found = []
    for number, person, start, end in zip(rows.clip, rows.person, rows.start, rows.end, strict=True):
        clip = cut(clips[number], start, end)
        sounds, speech = heard[number]
        first, last = max(start, 0.0), min(end, clips[number].end - clips[number].start)
        found.append(
            np.concatenate([voice(sounds, speech, person, first, last), _faces(clip, person), _bodies(clip, person)])
        )
    return {"handmade": np.stack(found).astype(np.float32)}


def by_stream(handmade: np.ndarray) -> Features:
    """ "handmade" of ``describe`` [row, feature], with the stream of each column."""
    return Features(handmade, np.repeat(np.arange(len(SIZES)), list(SIZES.values())))


def sounds_of(clip: Clip) -> list[Sound]:
    """All channels of all views."""
    return [
        _sound(name, view, channel)
        for name, view in clip.views.items()
        if view.audio is not None
        for channel in range(len(view.audio))
        if view.audio.shape[1] >= FRAME * view.audio_rate
    ]


def _sound(name: str, view: View, channel: int) -> Sound:
    from torchaudio.functional import detect_pitch_frequency, resample

    assert view.audio is not None
    samples = view.audio[channel]
    step = round(FRAME * view.audio_rate)
    frames = samples[: len(samples) // step * step].reshape(-1, step)
    loudness = 10 * np.log10(np.square(frames, dtype=np.float64).mean(1) + 1e-10)
    pitch = np.full(len(frames), np.log2(LOWEST))
    slow = resample(torch.from_numpy(np.ascontiguousarray(samples))[None], view.audio_rate, PITCH_RATE)
    if slow.shape[1] > 3 * PITCH_RATE / LOWEST:  # less holds no two periods
        found = detect_pitch_frequency(slow, PITCH_RATE, FRAME, freq_low=LOWEST, freq_high=HIGHEST)[0].numpy()
        found = np.log2(np.clip(found[: len(frames)], LOWEST, HIGHEST))
        pitch = np.pad(found, (0, len(frames) - len(found)), mode="edge")  # the last frames are too short for it
    return Sound(name, channel, view.audio_start + (np.arange(len(frames)) + 0.5) * FRAME, loudness, pitch)


def speech_of(clip: Clip, sounds: list[Sound]) -> list[dict]:
    """When somebody speaks: view, channel, person (None = not known who), start and end in seconds from the clip's start."""
    if "speech" in clip.meta:
        return clip.meta["speech"]
    from data_prep.speech import Listener

    found = []
    for sound in sounds:
        view = clip.views[sound.view]
        assert view.audio is not None
        if view.audio_rate != SAMPLE_RATE:
            continue  # shards have 16 kHz
        listener = Listener()
        listener.hear(view.audio_start, np.ascontiguousarray(view.audio[sound.channel]))
        about = {"view": sound.view, "channel": sound.channel, "person": None}
        found += [about | {"start": part.start, "end": part.end} for part in listener.settle()]
    return found


def voice(sounds: list[Sound], speech: list[dict], person: int, start: float, end: float) -> np.ndarray:
    """Of [start, end): share of time spoken, stretches and pauses a minute, mean and longest pause, loudness and its deviation;
    of what is spoken loudness, its deviation, pitch, its deviation. Of one person where the speakers are known. [SIZES["voice"]]"""
    if not sounds or end <= start:
        return np.zeros(SIZES["voice"])
    if person != SCENE and any(part["person"] is not None for part in speech):
        speech = [part for part in speech if part["person"] == person]
    speech = [part | {"start": max(part["start"], start), "end": min(part["end"], end)} for part in speech]
    speech = sorted((part for part in speech if part["end"] > part["start"]), key=lambda part: part["start"])
    stretches = _merged([(part["start"], part["end"]) for part in speech])
    pauses = np.array([b[0] - a[1] for a, b in itertools.pairwise(stretches)])
    all_of_it, spoken, pitch = [], [], []
    for sound in sounds:
        inside = (sound.times >= start) & (sound.times < end)
        own = [part for part in speech if (part["view"], part["channel"]) == (sound.view, sound.channel)]
        said = inside & np.any([(sound.times >= p["start"]) & (sound.times < p["end"]) for p in own] or [False], 0)
        all_of_it.append(sound.loudness[inside])
        spoken.append(sound.loudness[said])
        pitch.append(sound.pitch[said])
    seconds = end - start
    talk = [
        sum(b - a for a, b in stretches) / seconds,
        60 * len(stretches) / seconds,
        60 * len(pauses) / seconds,
        pauses.mean() if len(pauses) else 0.0,
        pauses.max(initial=0.0),
    ]
    levels = [value for part in (all_of_it, spoken, pitch) for value in _mean_and_deviation(np.concatenate(part))]
    return np.array([*talk, *levels, 1.0])


def _mean_and_deviation(values: np.ndarray) -> tuple[float, float]:
    return (float(values.mean()), float(values.std())) if len(values) else (0.0, 0.0)


def _merged(intervals: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Intervals (start, end), start growing, as one where less than a pause lies between them."""
    found: list[tuple[float, float]] = []
    for start, end in intervals:
        if found and start - found[-1][1] < PAUSE:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _faces(clip: Clip, person: int) -> np.ndarray:
    return _mean_of([_face(rows) for _, rows in _of_people(clip, "face", person)], SIZES["face"])


def _bodies(clip: Clip, person: int) -> np.ndarray:
    return _mean_of([_body(view, rows) for view, rows in _of_people(clip, "pose", person)], SIZES["pose"])


def _mean_of(found: list[np.ndarray], size: int) -> np.ndarray:
    return np.append(np.mean(found, 0), 1.0) if found else np.zeros(size)


def _of_people(clip: Clip, stream: str, person: int) -> list[tuple[View, dict[str, np.ndarray]]]:
    """The rows of every person (or of the one) in every view, in the order of time; ``times`` [row] in seconds."""
    found = []
    for view in clip.views.values():
        rows = view.detections().get(stream)
        if rows is None:
            continue
        for who in np.unique(rows["person"]):
            mine = np.flatnonzero(rows["person"] == who)
            mine = mine[np.argsort(rows["window"][mine], kind="stable")]
            if person in (SCENE, who):
                theirs = {
                    name: v[mine] for name, v in rows.items() if len(v) == len(rows["person"]) and name != "times"
                }
                found.append((view, theirs | {"times": rows["times"][rows["window"][mine]]}))
    return found


def _face(rows: dict[str, np.ndarray]) -> np.ndarray:
    """[SIZES["face"] - 1]"""
    shapes, head, times = rows["blendshapes"], rows["head"], rows["times"]
    closed = shapes[:, EYES].mean(1) > CLOSED
    blinks = (np.diff(closed.astype(int)) > 0).sum() / max(times[-1] - times[0], 1.0)
    passed = np.maximum(np.diff(times), 1e-3)
    axes = head[:, :3, :3] / np.maximum(np.linalg.norm(head[:, :3, :3], axis=1, keepdims=True), 1e-6)
    cosine = (
        np.einsum("tij,tij->t", axes[1:], axes[:-1]) - 1
    ) / 2  # trace of the rotation from one instant to the next
    turned = np.arccos(np.clip(cosine, -1, 1)) / passed
    moved = np.linalg.norm(np.diff(head[:, :3, 3], axis=0), axis=1) / passed
    return np.array(
        [*shapes.mean(0), *shapes.std(0), blinks, *_mean_and_deviation(turned), *_mean_and_deviation(moved)]
    )


def _body(view: View, rows: dict[str, np.ndarray]) -> np.ndarray:
    """[SIZES["pose"] - 1]"""
    points = rows["keypoints"][..., :2] * np.array([view.picture_aspect, 1])
    height = max(float(np.median(np.ptp(points[..., 1], axis=1))), 1e-3)
    passed = np.maximum(np.diff(rows["times"]), 1e-3)[:, None]
    speed = np.linalg.norm(np.diff(points, axis=0), axis=-1) / passed / height  # time point
    return np.array([*_mean_and_deviation(speed), *_mean_and_deviation(speed[:, WRISTS])])
