"""What stands beside every result: windows are cut out, hand-made features measure what they say, metadata name nobody."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from finetune import baselines, handmade
from finetune.features import Rows
from finetune.windows import cut
from pretrain.clips import Clip, View
from tests.pretrain.clips_for_tests import make_clip

RATE = 16000


def test_a_window_holds_what_lies_in_it_and_counts_from_its_own_start() -> None:
    clip = make_clip("a", people=2, seconds=8.0)
    clip.streams["gaze"] = {"times": np.arange(16) / 2, "values": np.arange(16)[:, None], "person": np.zeros(16)}
    piece = cut(clip, 2.0, 5.0)
    assert (piece.start, piece.end) == (clip.start + 2, clip.start + 5)
    for name, view in clip.views.items():
        part = piece.views[name]
        assert view.frames is not None and part.frames is not None  # noqa: PT018
        first = round((2 - view.frame_start) * view.frame_rate)
        np.testing.assert_array_equal(part.frames[0], view.frames[first])
        assert len(part.frames) == round(3 * view.frame_rate)
        assert part.frame_start == pytest.approx(0, abs=1 / view.frame_rate)
        if view.audio is not None and part.audio is not None:
            np.testing.assert_array_equal(
                part.audio[:, 0], view.audio[:, round((2 - view.audio_start) * view.audio_rate)]
            )
            assert part.audio.shape[1] == 3 * view.audio_rate
        for stream, rows in view.detections().items():
            found = part.detections()[stream]
            when = rows["times"][rows["window"]]
            kept = (when >= 2) & (when < 5)
            np.testing.assert_array_equal(found["person"], rows["person"][kept])
            np.testing.assert_allclose(found["times"][found["window"]], when[kept] - 2)
    assert piece.streams["gaze"]["values"][:, 0].tolist() == [4, 5, 6, 7, 8, 9]
    assert piece.streams["gaze"]["times"].tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
    assert cut(clip, -np.inf, np.inf) is clip


def test_descriptions_of_a_window_are_those_of_the_cut_clip() -> None:
    clip = make_clip("a", people=2, seconds=8.0)
    whole, part = Rows.of_clips(1), Rows.of([(0, -1, 2.0, 5.0), (0, 0, 2.0, 5.0)])
    for name, values in baselines.describe([clip], part).items():
        np.testing.assert_allclose(values[0], baselines.describe([cut(clip, 2.0, 5.0)], whole)[name][0])
    assert not np.allclose(*baselines.describe([clip], part)["raw"])
    of = handmade.describe([clip], part)["handmade"]
    assert not np.allclose(of[0], handmade.describe([clip], whole)["handmade"][0])


def tone(seconds: float, hertz: float, loud: float) -> np.ndarray:
    return (loud * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def spoken() -> Clip:
    """6 s: 200 Hz for 2 s by person 1, a pause of 1 s, 100 Hz for 2 s by person 2, then 1 s of silence."""
    sound = np.concatenate(
        [tone(2, 200, 0.5), np.zeros(RATE, np.float32), tone(2, 100, 0.05), np.zeros(RATE, np.float32)]
    )
    view = View(audio=sound[None], audio_start=0.0, audio_rate=RATE)
    about = {"view": "main", "channel": 0}
    speech = [about | {"person": 1, "start": 0.0, "end": 2.0}, about | {"person": 2, "start": 3.0, "end": 5.0}]
    return Clip("a", "a", 0.0, 6.0, [], {"main": view}, {}, {"speech": speech})


def voice_of(clip: Clip, person: int, start: float = -np.inf, end: float = np.inf) -> dict[str, float]:
    names = [
        "share",
        "stretches",
        "pauses",
        "pause",
        "longest",
        "level",
        "spread",
        "loud",
        "varies",
        "pitch",
        "moves",
        "there",
    ]
    values = handmade.describe([clip], Rows.of([(0, person, start, end)]))["handmade"][0, : handmade.SIZES["voice"]]
    return dict(zip(names, values.tolist(), strict=True))


def test_a_voice_is_measured_where_somebody_speaks() -> None:
    clip = spoken()
    everyone, first, second = (voice_of(clip, person) for person in (-1, 1, 2))
    assert everyone["share"] == pytest.approx(4 / 6)
    assert (everyone["stretches"], everyone["pauses"]) == pytest.approx((20, 10))  # a minute
    assert everyone["pause"] == pytest.approx(1.0)
    assert (first["share"], second["share"]) == pytest.approx((2 / 6, 2 / 6))
    assert 2 ** first["pitch"] == pytest.approx(200, rel=0.05)
    assert 2 ** second["pitch"] == pytest.approx(100, rel=0.15)  # smoothed over a third of a second at its ends
    assert first["loud"] - second["loud"] == pytest.approx(20, abs=0.5)  # a tenth of the amplitude
    late = voice_of(clip, -1, 4.0, 6.0)
    assert late["share"] == pytest.approx(0.5)
    assert late["pauses"] == 0
    silent = replace(clip, meta={"speech": []})
    assert voice_of(silent, -1)["share"] == 0
    assert voice_of(silent, -1)["there"] == 1


def test_without_speech_in_the_shards_somebody_listens() -> None:
    """A tone is no speech; without a channel nothing is told, and the flag says so."""
    assert voice_of(replace(spoken(), meta={}), -1)["share"] == 0
    mute = replace(spoken(), views={"main": View()})
    assert not handmade.describe([mute], Rows.of_clips(1))["handmade"].any()


def test_faces_and_bodies_are_measured() -> None:
    """Person 0 blinks twice in 4 s, turns by 1 rad/s and moves at 2 cm/s; person 1's body moves half its height a second."""
    times = np.arange(33) / 8
    shapes = np.zeros((33, 52))
    shapes[8:10, [9, 10]] = shapes[20:22, [9, 10]] = 0.9
    head = np.tile(np.eye(4), (33, 1, 1))
    head[:, 0, 0] = head[:, 1, 1] = np.cos(times)
    head[:, 0, 1], head[:, 1, 0] = -np.sin(times), np.sin(times)
    head[:, 0, 3] = 2 * times
    window = np.arange(33)
    face = {"times": times, "window": window, "person": np.zeros(33, int), "blendshapes": shapes, "head": head}
    keypoints = np.zeros((33, 33, 4))
    keypoints[:, 0, 1] = 0.4  # the body's height
    keypoints[..., 0] += 0.2 * times[:, None]
    pose = {"times": times, "window": window, "person": np.ones(33, int), "keypoints": keypoints}
    clip = Clip("a", "a", 0.0, 4.125, [], {"main": View(face=face, pose=pose, aspect=1.0)}, {}, {})
    both, first, second = handmade.describe([clip], Rows.of([(0, p, -np.inf, np.inf) for p in (-1, 0, 1)]))["handmade"]
    at = handmade.SIZES["voice"]
    blinks, turn, _, moved, _, there = first[at + 104 : at + 110]
    assert (blinks, turn, moved, there) == pytest.approx((2 / 4, 1, 2, 1), rel=1e-4)
    assert first[at + 9] == pytest.approx(4 * 0.9 / 33)
    assert not second[at : at + 110].any()
    assert second[at + 110 :] == pytest.approx([0.5, 0, 0.5, 0, 1], abs=1e-5)
    np.testing.assert_allclose(both, np.maximum(first, second))


def meta(people: int, **extra) -> dict:
    video = {"rate": 25.0, "width": 320 if people == 2 else 640, "height": 240}
    return {"people": [{}] * people, "views": {"main": {"streams": {"video": video}}}, "extra": extra}


def test_metadata_tell_what_is_known_of_the_person_before_the_own_camera() -> None:
    """Ages 20 and 60 in two views: what the example's person has is a column of its own, wherever that person sits."""

    def of(first: str, second: str, ages: dict[str, str]) -> dict:
        views = {f"fc{n}": {"streams": {}, "participants": [who]} for n, who in enumerate((first, second), 1)}
        return {"people": [{}] * 2, "views": views, "extra": {"age": ages, "language": "x"}}

    metas = [of("a", "b", {"FC1": "20", "FC2": "60"}), of("c", "d", {"FC1": "70", "FC2": "30"})]
    about = {"row": [0, 0, 1, 1], "recording": ["r", "r", "s", "s"], "participant": ["a", "b", "c", "d"]}
    found = baselines.metadata(metas, pd.DataFrame(about).assign(start=0.0, end=4.0))
    assert [20, 60, 70, 30] in found.T.tolist()


def test_metadata_tell_the_setting_and_never_the_recording() -> None:
    metas = [meta(2, room="lab", session="s1"), meta(2, room="lab", session="s2"), meta(4, room="ward", session="s3")]
    metas += [meta(4, room="ward", session="s4", trial="3")]
    recordings = ["a", "b", "c", "d"]
    examples = pd.DataFrame({"row": range(4), "recording": recordings, "start": [0, 4, 0, 4.0], "end": [4, 8, 4, 6.0]})
    found = baselines.metadata(metas, examples)
    constant = (found == found[0]).all(0)
    told = {tuple(column) for column in found[:, ~constant].T.tolist()}
    assert told == {
        (2, 2, 4, 4),  # people
        (320, 320, 640, 640),  # width
        (1, 1, 0, 0),  # lab
        (0, 0, 1, 1),  # ward
        (4, 4, 4, 2),  # seconds
        (0, 4, 0, 4),  # where in the recording
    }
