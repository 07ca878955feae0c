"""From the script of a scene to how its people move: heads, arms, mouths, faces, at the times of the video's frames.

Everything is in scene metres (x to the right, y down, z away from the camera) and vectorised over frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from data_prep.synthetic_face import (
    IRISES,
    blendshapes,
    face_motions,
    neutral_face,
    rotation,
)
from data_prep.synthetic_script import Event, Script, Turn

SHOULDER = 0.2
UPPER_ARM, FOREARM, HAND = 0.27, 0.26, 0.075
HEAD_UP = 0.27
TABLE = 0.46
"""Metres from the point between the shoulders: shoulder, head's middle above, edge of the table below."""
SIDES = (-1, 1)


@dataclass
class Motion:
    """The moving scene. Axes: time, person, side (0 left in the picture, 1 right), then metres or a point's number.

    head [time, person, 2]; turn [time, person, 3, 3]; face [time, person, 478, 3], x and y in the scene, z from the
    head's middle; chest [time, person, 2]; shoulder, elbow, wrist, finger [time, person, 2, 2]; item [time, person, 2]:
    whether the hand holds a thing; pointing [time, person, 2]; shapes [time, person, 52]; mouth [time, person].
    """

    times: np.ndarray
    head: np.ndarray
    turn: np.ndarray
    face: np.ndarray
    chest: np.ndarray
    shoulder: np.ndarray
    elbow: np.ndarray
    wrist: np.ndarray
    finger: np.ndarray
    item: np.ndarray
    pointing: np.ndarray
    shapes: np.ndarray
    mouth: np.ndarray


def move(rng: np.random.Generator, script: Script, fps: float) -> Motion:
    """Plays the script at ``fps`` frames a second; ``rng`` draws sway, blinks and other chance."""
    times = np.arange(round(script.seconds * fps)) / fps
    chest = script.seats + _sway(rng, times, len(script.people))
    yaw, pitch, roll = _gaze(rng, script, times)
    _nod_and_shake(script, times, yaw, pitch)
    head = chest + np.stack([0.05 * np.sin(yaw), -HEAD_UP + 0.07 * np.clip(np.sin(pitch), -0.3, 1)], axis=-1)
    shoulder = chest[:, :, None] + np.array([[-SHOULDER, 0.03], [SHOULDER, 0.03]])
    wrist, item, pointing = _arms(rng, script, times, shoulder, head)
    elbow, wrist = _bend(shoulder, wrist)
    along = wrist - elbow
    finger = wrist + HAND * along / np.maximum(np.linalg.norm(along, axis=-1, keepdims=True), 1e-6)
    mouth = np.stack([speech(script, person, times) for person in range(len(script.people))], axis=1)
    blink = _blinks(rng, times, len(script.people))
    smile = np.clip(0.25 + _slow(rng, times, len(script.people), 0.3), 0, 1)
    brows = np.clip(_slow(rng, times, len(script.people), 0.5), 0, 1)
    turn = rotation(yaw, pitch, roll)
    face = _face(script, turn, head, {"open": mouth, "blink": blink, "smile": smile, "brows": brows}, yaw)
    shapes = blendshapes(mouth, blink, smile, brows, yaw)
    return Motion(times, head, turn, face, chest, shoulder, elbow, wrist, finger, item, pointing, shapes, mouth)


def speech(script: Script, person: int, times: np.ndarray) -> np.ndarray:
    """How far a person's mouth is open, which is also how loud the voice is: float64 [time], 0 to 1."""
    out = np.zeros(len(times))
    for turn in script.turns:
        if turn.person == person:
            first, last = np.searchsorted(times, [turn.start, turn.end])
            out[first:last] = np.maximum(out[first:last], syllables(turn, times[first:last])[0])
    return out


def syllables(turn: Turn, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loudness (float64 [time], 0 to 1) and number of the vowel (int [time]) within a turn."""
    which = np.clip(np.searchsorted(turn.syllables[:, 0], times, side="right") - 1, 0, None)
    start, length, loud, vowel = turn.syllables.T
    phase = np.clip((times - start[which]) / length[which], 0, 1)
    return loud[which] * np.sin(np.pi * phase) ** 2, vowel[which].astype(np.intp)


def envelope(times: np.ndarray, event: Event, ramp: float = 0.35) -> np.ndarray:
    """0 outside the event, 1 in its middle, smooth in between: float64 [time]."""
    share = np.clip(np.minimum(times - event.start, event.end - times) / ramp, 0, 1)
    return share * share * (3 - 2 * share)


def _slow(rng: np.random.Generator, times: np.ndarray, people: int, size: float) -> np.ndarray:
    """A slow wandering of about +-size: [time, person]."""
    rate, phase = rng.uniform(0.05, 0.4, (3, 1, people)), rng.uniform(0, 2 * np.pi, (3, 1, people))
    return size * np.sin(2 * np.pi * rate * times[:, None] + phase).mean(axis=0) * 1.5


def _sway(rng: np.random.Generator, times: np.ndarray, people: int) -> np.ndarray:
    return np.stack([_slow(rng, times, people, 0.03), _slow(rng, times, people, 0.012)], axis=-1)


def _gaze(rng: np.random.Generator, script: Script, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Yaw, pitch and roll of every head, each [time, person] in radians: steps from look to look, smoothed."""
    people, step, smooth = len(script.people), 1 / 32, 11
    fine = np.arange(0, script.seconds + step, step)
    yaw, pitch = np.zeros((len(times), people)), np.zeros((len(times), people))
    for person, looks in enumerate(script.looks):
        across, down = [], []
        for _, whom in looks:
            towards = script.seats[whom] - script.seats[person] if whom >= 0 else np.zeros(2)
            across.append(np.clip(towards[0] / 0.8, -1, 1) * 0.75 + rng.normal(0, 0.06))
            down.append(0.35 if whom == -2 else np.clip(towards[1] / 0.6, -1, 1) * 0.3 + rng.normal(0, 0.03))
        which = np.searchsorted([at for at, _ in looks], fine, side="right") - 1
        for values, out in ((across, yaw), (down, pitch)):
            padded = np.pad(np.array(values)[np.clip(which, 0, None)], smooth // 2, mode="edge")
            out[:, person] = np.interp(times, fine, np.convolve(padded, np.full(smooth, 1 / smooth), "valid"))
    roll = _slow(rng, times, people, 0.08)
    return yaw + _slow(rng, times, people, 0.06), pitch + _slow(rng, times, people, 0.04), roll


def _chance(moment: float, number: int) -> float:
    """A number in [0, 1) that a moment of the script fixes: what two hands must agree on, or an event's own pace."""
    return moment * 1000 * (0.618, 0.414, 0.236)[number] % 1


def _rate(event: Event) -> float:
    """How often an event swings to and fro, 1.5 to 2.1 times a second."""
    return 1.5 + 0.6 * _chance(event.start, 0)


def _nod_and_shake(script: Script, times: np.ndarray, yaw: np.ndarray, pitch: np.ndarray) -> None:
    for event in script.events:
        phase = 2 * np.pi * _rate(event) * (times - event.start)
        if event.kind == "nod":
            pitch[:, event.person] += 0.6 * event.size * envelope(times, event) * (0.5 - 0.5 * np.cos(phase))
        elif event.kind == "shake":
            yaw[:, event.person] += 0.4 * event.size * envelope(times, event) * np.sin(phase)


def _arms(
    rng: np.random.Generator, script: Script, times: np.ndarray, shoulder: np.ndarray, head: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the hands want to be [time, person, side, 2], and whether each holds a thing, or points [time, person, side]."""
    people = len(script.people)
    rest = np.array([[0.06, TABLE - 0.03], [-0.06, TABLE - 0.03]]) + rng.uniform(-0.03, 0.03, (people, 2, 2))
    wrist = shoulder + rest + np.stack([_slow(rng, times, people * 2, 0.012)] * 2, -1).reshape(len(times), people, 2, 2)
    item, pointing = np.zeros((2, len(times), people, 2), dtype=bool)
    for event in script.events:
        if event.side == 0:
            continue
        first, last = np.searchsorted(times, [event.start, event.end])
        window, arm = slice(first, last), (event.person, SIDES.index(event.side))
        here = times[window]
        if not len(here):
            continue
        goal = _goal(script, event, here, shoulder[window, *arm], head[window, event.person])
        share = envelope(here, event, 0.45 if event.kind in {"hand_over", "take"} else 0.35)[:, None]
        wrist[window, *arm] += share * (goal - wrist[window, *arm])
        item[window, *arm] |= _holds(event, here)
        pointing[window, *arm] |= (event.kind == "point") & (share[:, 0] > 0.5)
    return wrist, item, pointing


def _goal(script: Script, event: Event, times: np.ndarray, shoulder: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Where an event takes the hand: [time, 2]."""
    swing = np.sin(2 * np.pi * _rate(event) * (times - event.start))
    side, still = event.side, np.zeros_like(swing)
    wide, high = _chance(event.start, 1) - 0.5, _chance(event.start, 2) - 0.5
    if event.kind == "wave":
        return shoulder + np.stack(
            [side * (0.12 + 0.16 * wide) + 0.13 * event.size * swing, still - 0.24 + 0.2 * high], axis=-1
        )
    if event.kind == "raise":
        return shoulder + np.stack([still + side * (0.12 + 0.2 * wide), 0.01 * swing - 0.24 + 0.2 * high], axis=-1)
    if event.kind == "point":
        away = script.seats[event.target] + np.array([0.1 * wide, 0.4 * high - 0.1]) - shoulder
        return shoulder + (0.42 + 0.14 * wide) * away / np.linalg.norm(away, axis=-1, keepdims=True)
    if event.kind in {"hand_over", "take"}:
        middle = script.seats[[event.person, event.target]].mean(axis=0)
        shift = 0.2 * (_chance(event.meet, 1) - 0.5), 0.15 + 0.25 * (_chance(event.meet, 2) - 0.5)
        return np.broadcast_to(middle + shift + np.array([-0.05 * event.side, 0.0]), shoulder.shape)
    if event.kind == "reach":
        return shoulder + np.stack([still + side * (0.24 + 0.1 * wide), 0.16 + 0.02 * swing + 0.2 * high], axis=-1)
    if event.kind == "stretch":
        return shoulder + np.stack([still + side * 0.38, 0.03 * swing - 0.1 + 0.3 * high], axis=-1)
    if event.kind == "drink":
        return head + np.stack([still + side * 0.05, still + 0.13], axis=-1)
    if event.kind == "scratch":
        return head + np.stack([side * 0.14 + 0.02 * swing, still - 0.02], axis=-1)
    assert event.kind == "beat", event.kind
    return shoulder + np.stack([side * 0.04 + 0.05 * swing, 0.25 + 0.06 * event.size * swing], axis=-1)


def _holds(event: Event, times: np.ndarray) -> np.ndarray:
    """When a hand holds a thing: it comes out of the lap and goes back there: bool [time]."""
    if event.kind == "hand_over":
        return (times > event.start + 0.1) & (times <= event.meet)
    if event.kind == "take":
        return (times > event.meet) & (times < event.end - 0.1)
    return np.full(len(times), event.kind == "drink")


def _bend(shoulder: np.ndarray, wrist: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Elbows, and wrists pulled back to where the arm reaches; each [time, person, side, 2].

    Drawn flat, an arm that comes forward looks shorter: an elbow closer than the arm's length just bends outwards.
    """
    away = wrist - shoulder
    distance = np.linalg.norm(away, axis=-1, keepdims=True)
    reach = np.clip(distance, 0.08, 0.98 * (UPPER_ARM + FOREARM))
    along = away / np.maximum(distance, 1e-6)
    base = (UPPER_ARM**2 - FOREARM**2 + reach**2) / (2 * reach)
    height = np.sqrt(np.clip(UPPER_ARM**2 - base**2, 0, None))
    across = along[..., ::-1] * (-1.0, 1.0)
    outwards = across[..., 0] * SIDES + across[..., 1]  # an elbow points out and down; through zero it comes forward
    bend = 0.6 * across * np.tanh(3 * outwards)[..., None]
    return shoulder + along * base + bend * height, shoulder + along * reach


def _blinks(rng: np.random.Generator, times: np.ndarray, people: int) -> np.ndarray:
    """Closed eyes, 0 to 1 [time, person]: every three seconds or so for 0.2 s."""
    out = np.zeros((len(times), people))
    for person in range(people):
        starts = np.cumsum(rng.uniform(1.5, 5.0, size=int(times[-1] / 1.5) + 2))
        since = times - starts[np.clip(np.searchsorted(starts, times, side="right") - 1, 0, None)]
        out[:, person] = np.where((since >= 0) & (since < 0.2), np.sin(np.pi * np.clip(since, 0.03, 0.2) / 0.2), 0)
    return out


@cache
def _shapes() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    return neutral_face(), face_motions()


def _face(
    script: Script, turn: np.ndarray, head: np.ndarray, expression: dict[str, np.ndarray], gaze: np.ndarray
) -> np.ndarray:
    """Landmarks in the scene, float32 [time, person, 478, 3]."""
    neutral, motions = _shapes()
    width = np.array([[p.face_width, 1.0, 1.0] for p in script.people])[:, None]
    size = np.array([p.size for p in script.people])[:, None, None]
    names = list(motions)
    amount = np.stack([expression[name] for name in names], axis=-1).astype(np.float32)
    moved = np.tensordot(amount, np.stack([motions[name] for name in names]).astype(np.float32), 1)
    local = (moved + neutral.astype(np.float32)) * (width * size).astype(np.float32)
    for iris in IRISES:
        local[..., iris, 0] += (0.01 * np.clip(gaze, -1, 1)).astype(np.float32)[..., None]
    face = np.matmul(local, np.swapaxes(turn, -1, -2).astype(np.float32))
    face[..., :2] += head[:, :, None].astype(np.float32)
    return face
