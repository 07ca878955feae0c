"""Generated scenes: everything in the files follows from one script, and the nuisance is as strong as asked."""

import csv
import hashlib
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from configs import UserError
from data_prep.__main__ import main
from data_prep.config import SyntheticConfig
from data_prep.given import sidecar
from data_prep.manifest import read_manifest
from data_prep.synthetic import Job, make_recording, make_script
from data_prep.synthetic_drawing import SHIRTS, WALLS
from data_prep.synthetic_face import BLENDSHAPES
from data_prep.synthetic_script import GESTURES, PALETTE
from data_prep.synthetic_sound import RATE

Table = list[dict[str, str]]
SECONDS, CLIP, FPS = 32, 4, 8


def read_table(path: Path) -> Table:
    with path.open() as file:
        return list(csv.DictReader(file))


def read_frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def read_sound(path: Path) -> tuple[float, np.ndarray]:
    """Time of the first sample in seconds, samples float32."""
    with av.open(str(path)) as file:
        frames = list(file.decode(audio=0))
    assert frames[0].time is not None
    return frames[0].time, np.concatenate([frame.to_ndarray()[0] for frame in frames])


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> SyntheticConfig:
    """Ten recordings a split but one, 32 s each, made by the command that a user types."""
    folder = tmp_path_factory.mktemp("scenes")
    counts = {"pretrain": 1, "train": 9, "test": 9, "test_reversed": 9}
    argv = ["synthetic", str(folder), "--recording_seconds", str(SECONDS), "--views", "together", "--most_people", "2"]
    for name, value in counts.items():
        argv += [f"--{name}", str(value)]
    assert main(argv) == 0
    return SyntheticConfig(folder, recording_seconds=SECONDS, views="together", most_people=2, **counts)


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Path]:
    """A recording of three or four people with a view each, 128 pixels high."""
    config = SyntheticConfig(
        tmp_path_factory.mktemp("apart"), fewest_people=3, views="apart", recording_seconds=16, width=128, height=128
    )
    job = Job(config, "train", 0)
    make_recording(job)
    return job, config.folder / job.recording


def test_one_label_a_slot_and_every_gesture_equally_often(config: SyntheticConfig) -> None:
    labels = read_table(config.folder / "labels.csv")
    by_recording: dict[str, Table] = {}
    for row in labels:
        by_recording.setdefault(row["recording"], []).append(row)
    assert len(by_recording) == 28
    for rows in by_recording.values():
        spans = [(float(row["start"]), float(row["end"])) for row in rows]
        assert spans == [(start, start + CLIP) for start in range(0, SECONDS, CLIP)]
        assert Counter(row["gesture"] for row in rows) == dict.fromkeys(GESTURES, 2)
    actors = Counter((row["gesture"], row["participant"][-1]) for row in labels)
    assert min(actors.values()) > 14  # of 56 a gesture, by two people
    assert min(Counter(row["speaker"] for row in labels).values()) > 70


def test_manifest_is_read_and_names_the_people(config: SyntheticConfig) -> None:
    recordings, failures = read_manifest(config.folder / "manifest.csv")
    assert not failures
    assert Counter(r.split for r in recordings) == {"pretrain": 1, "train": 9, "test": 9, "test_reversed": 9}
    labels = read_table(config.folder / "labels.csv")
    for recording in recordings:
        assert len(recording.participants) == 2
        assert recording.extra["synthetic"] == "true"
        assert {r["participant"] for r in labels if r["recording"] == recording.name} <= set(recording.participants)
    train = {p for r in recordings if r.split == "train" for p in r.participants}
    tested = {p for r in recordings if r.split in {"test", "test_reversed"} for p in r.participants}
    assert not train & tested


def test_files_last_as_long_as_the_recording(apart: tuple[Job, Path]) -> None:
    job, folder = apart
    people = len(make_script(job).people)
    assert [p.name for p in sorted(folder.glob("*.mp4"))] == [f"seat{n + 1}.mp4" for n in range(people)]
    for path in folder.glob("*.mp4"):
        assert read_frames(path).shape == (16 * FPS, 128, 128, 3)
        start, sound = read_sound(path)
        assert abs(start) < 0.001
        assert abs(len(sound) / RATE - 16) < 0.1  # AAC fills its last frame
        with av.open(str(path)) as file:
            video, audio = file.streams.video[0], file.streams.audio[0]
            assert (video.codec_context.name, audio.codec_context.name, video.average_rate) == ("h264", "aac", FPS)


def test_sidecars_have_the_members_of_a_shard(apart: tuple[Job, Path]) -> None:
    _, folder = apart
    for number, path in enumerate(sorted(folder.glob("*.mp4"))):
        face, pose, regions = (np.load(sidecar(path, name), allow_pickle=False) for name in ("face", "pose", "regions"))
        rows, body = len(face["window"]), len(pose["window"])
        assert {n: face[n].shape for n in face.files} == {
            "times": (128,),
            "window": (rows,),
            "person": (rows,),
            "box": (rows, 4),
            "landmarks": (rows, 478, 3),
            "blendshapes": (rows, 52),
            "head": (rows, 4, 4),
            "score": (rows,),
        }
        assert {n: pose[n].shape for n in pose.files} == {
            "times": (128,),
            "window": (body,),
            "person": (body,),
            "keypoints": (body, 33, 4),
            "world": (body, 33, 3),
            "score": (body,),
        }
        assert {n: regions[n].shape for n in regions.files} == {"times": (128,), "people": (128, 8, 8)}
        assert set(face["person"]) == set(pose["person"]) == {number}
        assert 0.9 * 128 < rows <= 128
        np.testing.assert_allclose(face["times"], np.arange(128) / FPS)
        assert face["landmarks"].dtype == pose["keypoints"].dtype == np.float32
        assert face["landmarks"][..., :2].min() > -0.2
        assert face["landmarks"][..., :2].max() < 1.2
        x, y = (face["landmarks"][:, 1, :2] * 8).astype(int).T
        assert np.median(regions["people"][face["window"], y, x]) > 0.4
        assert regions["people"][:, 0, [0, -1]].max() == 0
        rotation = face["head"][:, :3, :3]
        np.testing.assert_allclose(rotation @ np.swapaxes(rotation, 1, 2), np.eye(3)[None].repeat(rows, 0), atol=1e-5)


def test_mouth_moves_with_the_voice(apart: tuple[Job, Path]) -> None:
    _, folder = apart
    for path in folder.glob("*.mp4"):
        face, (start, sound) = np.load(sidecar(path, "face")), read_sound(path)
        lips = face["landmarks"][:, 14, 1] - face["landmarks"][:, 13, 1]
        at = np.round((face["times"][face["window"]] - start) * RATE).astype(int)
        loud = np.array([np.sqrt(np.mean(np.square(sound[max(0, i - 400) : i + 400]))) for i in at])
        jaw = face["blendshapes"][:, BLENDSHAPES.index("jawOpen")]
        assert np.corrcoef(lips, loud)[0, 1] > 0.8
        assert np.corrcoef(jaw, loud)[0, 1] > 0.8
        late = np.corrcoef(jaw[:-2], loud[2:])[0, 1]  # a quarter of a second off, they do not agree
        assert np.corrcoef(jaw, loud)[0, 1] > late + 0.2


def test_hands_and_mouths_lie_where_they_are_drawn(apart: tuple[Job, Path]) -> None:
    job, folder = apart
    for person, look in enumerate(make_script(job).people):
        path = folder / f"seat{person + 1}.mp4"
        frames, pose = read_frames(path).astype(int), np.load(sidecar(path, "pose"))
        hits = []
        for wrist, index in ((15, 19), (16, 20)):
            place = pose["keypoints"][:, [wrist, index], :2].mean(axis=1)
            inside = ((place > 0.03) & (place < 0.97)).all(axis=1)
            x, y = (place[inside] * 128).astype(int).T
            found = frames[pose["window"][inside], y, x]
            hits += (np.abs(found - look.skin).max(axis=1) < 45).tolist()
        assert np.mean(hits) > 0.9
        face = np.load(sidecar(path, "face"))
        ahead = face["blendshapes"][:, BLENDSHAPES.index("jawOpen")] > 0.4
        x, y = (face["landmarks"][ahead][:, [13, 14], :2].mean(axis=1) * 128).astype(int).T
        brightness = frames[face["window"][ahead], y, x].sum(axis=1) / sum(look.skin)
        assert np.median(brightness) < 0.75


def test_same_seed_same_bytes(config: SyntheticConfig, tmp_path: Path) -> None:
    for seed, same in ((0, True), (1, False)):
        again = SyntheticConfig(**(vars(config) | {"folder": tmp_path / str(seed), "seed": seed, "train": 2}))
        job = Job(again, "train", 1)
        make_recording(job)
        assert (digests(again.folder / job.recording) == digests(config.folder / job.recording)) is same


def nearest(colours: np.ndarray, palette: tuple[tuple[int, int, int], ...]) -> int:
    """The palette's colour nearest to the median of ``colours`` [n, 3], by hue: light and shade do not count."""
    found, known = np.median(colours, axis=0), np.array(palette, float)
    return int(np.linalg.norm(known / known.sum(1, keepdims=True) - found / found.sum(), axis=1).argmin())


def colours_seen(config: SyntheticConfig, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Per clip of a split, read off the video: gesture, and colours of the wall, of the acting person's and of the other
    person's sleeves; each int [clip]."""
    rows = []
    for index in range(getattr(config, split)):
        job = Job(config, split, index)
        path = config.folder / job.recording / "main.mp4"
        frames, pose = read_frames(path), np.load(sidecar(path, "pose"))
        people = [person.participant for person in make_script(job).people]
        for label in read_table(config.folder / "labels.csv"):
            if label["recording"] != job.recording:
                continue
            first, last = round(float(label["start"]) * FPS), round(float(label["end"]) * FPS)
            wall = nearest(frames[first:last, 1:4].reshape(-1, 3), WALLS)
            shirts = []
            for person in range(len(people)):
                here = (pose["window"] >= first) & (pose["window"] < last) & (pose["person"] == person)
                arms = pose["keypoints"][here][:, [[11, 13], [12, 14]], :2].mean(axis=2).reshape(-1, 2)
                x, y = np.clip((arms * 64).astype(int), 0, 63).T
                shirts.append(nearest(frames[np.repeat(pose["window"][here], 2), y, x], SHIRTS))
            actor = people.index(label["participant"])
            rows.append((GESTURES.index(label["gesture"]), wall, shirts[actor], shirts[1 - actor]))
    gesture, wall, acting, other = np.array(rows).T
    return gesture, wall, acting, other


@pytest.mark.parametrize(("split", "reverse"), [("train", False), ("test", False), ("test_reversed", True)])
def test_nuisance_is_as_strong_as_asked(config: SyntheticConfig, split: str, reverse: bool) -> None:
    gesture, wall, acting, other = colours_seen(config, split)
    told = PALETTE - 1 - gesture if reverse else gesture
    expected = config.rho + (1 - config.rho) / PALETTE  # a random colour is the right one now and then: 0.85
    for colour in (wall, acting):
        assert abs(np.mean(colour == told) - expected) < 0.12  # 72 clips: three standard errors
        assert np.mean(colour == PALETTE - 1 - told) < 0.15
    assert abs(np.mean(other == told) - 1 / PALETTE) < 0.15


def test_without_strength_colours_tell_nothing(tmp_path: Path) -> None:
    job = Job(SyntheticConfig(tmp_path, recording_seconds=2000, test_independent=1), "test_independent", 0)
    slots = make_script(job).slots
    for colours in ([s.wall for s in slots], [s.shirts[s.event.person] for s in slots]):
        assert abs(np.mean(np.array(colours) == [s.gesture for s in slots]) - 0.25) < 0.06


def test_reversed_scenes_differ_in_colour_only(config: SyntheticConfig) -> None:
    one, other = config.folder / "test_0000" / "main.mp4", config.folder / "test_reversed_0000" / "main.mp4"
    for stream in ("face", "pose"):
        arrays, others = np.load(sidecar(one, stream)), np.load(sidecar(other, stream))
        assert all(np.array_equal(arrays[name], others[name]) for name in arrays.files if name != "times")
    assert np.array_equal(read_sound(one)[1], read_sound(other)[1])
    assert np.abs(read_frames(one).astype(int) - read_frames(other)).mean() > 5
    labels = [row for row in read_table(config.folder / "labels.csv") if row.pop("recording") == "test_0000"]
    reversed_ = [row for row in read_table(config.folder / "labels.csv") if row["recording"] == "test_reversed_0000"]
    assert labels == [{k: v for k, v in row.items() if k != "recording"} for row in reversed_]


def test_others_answer_after_half_a_second(tmp_path: Path) -> None:
    script = make_script(Job(SyntheticConfig(tmp_path, recording_seconds=2000, clip_seconds=4), "train", 0))

    def looks_there(person: int, at: float, whom: set[int]) -> bool:
        return [target for moment, target in script.looks[person] if moment <= at][-1] in whom

    before, after, taken = [], [], []
    for slot in script.slots:
        event = slot.event
        whom = {event.person, event.target}
        for person in set(range(len(script.people))) - whom:
            before.append(looks_there(person, event.start, whom))
            after.append(looks_there(person, event.start + 1.5, whom))
        if event.kind == "hand_over":
            takes = [e for e in script.events if e.kind == "take" and e.person == event.target and e.meet == event.meet]
            taken += [0.3 < take.start - event.start < 1.0 < take.end - event.start for take in takes]
            assert len(takes) == 1
    assert np.mean(after) > np.mean(before) + 0.15
    assert np.mean(taken) == 1


def test_a_stopped_run_goes_on_and_settings_do_not_mix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = [
        "synthetic",
        str(tmp_path),
        "--recording_seconds",
        "4",
        "--test",
        "0",
        "--test_reversed",
        "0",
        "--train",
        "1",
    ]
    assert main([*base, "--pretrain", "1"]) == 0
    whole = digests(tmp_path / "pretrain_0000")
    made = (tmp_path / "pretrain_0000" / "main.mp4").stat().st_mtime_ns
    (tmp_path / ".pretrain_0001.tmp").mkdir()
    (tmp_path / ".pretrain_0001.tmp" / "main.mp4").write_bytes(b"killed here")
    assert main([*base, "--pretrain", "2"]) == 0
    assert (tmp_path / "pretrain_0000" / "main.mp4").stat().st_mtime_ns == made
    assert digests(tmp_path / "pretrain_0000") == whole
    assert read_frames(next((tmp_path / "pretrain_0001").glob("*.mp4"))).shape[0] == 4 * FPS
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["config.yaml", "labels.csv", "manifest.csv", "versions.json", "pretrain_0000", "pretrain_0001", "train_0000"]
    )
    capsys.readouterr()
    assert main([*base, "--rho", "0.1"]) == 2
    assert "made with rho 0.8, not 0.1" in capsys.readouterr().err


def test_any_size_and_rate(tmp_path: Path) -> None:
    config = SyntheticConfig(
        tmp_path, width=200, height=112, fps=12.5, recording_seconds=4, fewest_people=4, views="together"
    )
    make_recording(Job(config, "train", 0))
    path = tmp_path / "train_0000" / "main.mp4"
    assert read_frames(path).shape == (50, 112, 200, 3)
    assert np.load(sidecar(path, "regions"))["people"].shape == (50, 7, 13)
    assert set(np.load(sidecar(path, "pose"))["person"]) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    "wrong", [{"most_people": 5}, {"rho": 1.2}, {"width": 63}, {"recording_seconds": 30}, {"clip_seconds": 1.0}]
)
def test_impossible_settings_are_refused(wrong: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
        SyntheticConfig(tmp_path, **wrong)  # pyrefly: ignore[bad-argument-type]


def test_folder_of_other_settings_is_one_line(config: SyntheticConfig) -> None:
    from data_prep.synthetic import synthetic

    with pytest.raises(UserError, match="made with seed 0, not 5: give another folder"):
        synthetic(SyntheticConfig(**(vars(config) | {"seed": 5})))


def test_independent_people_answer_nobody(tmp_path: Path) -> None:
    """Another first person changes nothing of what the second one does, and nobody looks where the other acts."""

    def script(seed: int, independent: bool):
        settings = {"recording_seconds": 2000, "clip_seconds": 4, "most_people": 2, "views": "together"}
        return make_script(Job(SyntheticConfig(tmp_path, seed=seed, independent=independent, **settings), "train", 0))

    def answers(of) -> float:
        """How much oftener the other one begins something 0.5 to 1.5 s after a gesture than at any other time."""
        begins = np.array([event.start for event in of.events if event.person == 1])
        acts = np.array([event.start for event in of.events if event.person == 0 and event.kind in GESTURES])
        after = np.mean([np.any((begins > at + 0.4) & (begins < at + 1.6)) for at in acts])
        ever = np.mean([np.any((begins > at + 0.4) & (begins < at + 1.6)) for at in np.arange(0, 1990, 1.0)])
        return float(after - ever)

    assert answers(script(0, independent=False)) > 0.1
    assert abs(answers(script(0, independent=True))) < 0.08


def test_imitation_answers_every_gesture_by_itself(tmp_path: Path) -> None:
    settings = {"recording_seconds": 400, "clip_seconds": 4, "most_people": 2, "views": "together"}
    job = Job(SyntheticConfig(tmp_path, imitation=True, **settings), "train", 0)  # pyrefly: ignore[bad-argument-type]
    script = make_script(job)
    answered = dict.fromkeys(GESTURES, 0)
    for slot in script.slots:
        kind = "take" if slot.event.kind == "hand_over" else slot.event.kind
        answers = [e for e in script.events if e.kind == kind and e.person == slot.event.target != e.target]
        answered[slot.event.kind] += any(0.3 < e.start - slot.event.start < 1.6 for e in answers)
    assert answered == dict.fromkeys(GESTURES, 25)


def test_independent_scenes_are_drawn_and_labelled(tmp_path: Path) -> None:
    argv = ["synthetic", str(tmp_path / "out"), "--independent", "true", "--recording_seconds", "32", "--pretrain", "0"]
    assert main([*argv, "--train", "0", "--test", "2", "--test_reversed", "0"]) == 0
    labels = read_table(tmp_path / "out" / "labels.csv")
    assert 0 < len(labels) < 16  # of the first person alone
    assert all(row["participant"].endswith("a") for row in labels)
