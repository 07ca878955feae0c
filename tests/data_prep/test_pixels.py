"""Wide pictures keep everybody in them, and a region of a view becomes a view of its own in the source's resolution."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from data_prep import views
from data_prep.build import build
from data_prep.clips import Window
from data_prep.config import BuildConfig
from data_prep.decode import probe
from data_prep.faces import FaceFinder
from data_prep.manifest import Region, Source, View
from data_prep.shards import decode_npz, read_index, read_sample
from data_prep.virtual import within
from tests.data_prep.media import write_media
from tests.data_prep.rooms import Place, frames, room, write_video
from tests.data_prep.test_build import failures, write_manifest

SMALL = Place(560, 300, 0.75)  # a face of 40 pixels in 1280
SEAT = (560 / 1280, 300 / 720, 692 / 1280, 408 / 720)
EDGES = [Place(0, 420, 1.9), Place(1280 - 334, 420, 1.9, mirrored=True)]


@pytest.fixture(scope="module")
def sample(videos, models, tmp_path_factory) -> dict[str, bytes]:
    """A clip of a 16:9 room: a person at either edge, and a small one in the middle who is a region."""
    folder = tmp_path_factory.mktemp("room")
    person = frames(videos["carphone_pristine.mp4"], 38)
    write_video(folder / "room.mp4", room(person, [*EDGES, SMALL]))
    seat = ",".join(f"{number:.6f}" for number in SEAT)
    manifest = write_manifest(
        folder, {"path": "room.mp4", "view": "wide", "region": f"Ann@{seat}", "participants": f"a1@{seat};b2@0,0,0.3,1"}
    )
    assert build(BuildConfig(manifest, folder / "out", models=models, workers=1)) == 0
    index = read_index(folder / "out")
    assert len(index) == 1
    return read_sample(folder / "out", index.iloc[0])


def pictures(sample: dict[str, bytes], view: str) -> list[np.ndarray]:
    with av.open(io.BytesIO(sample[f"{view}.video.mp4"])) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def found(models: Path, shown: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Boxes of the faces in some pictures."""
    finder = FaceFinder(models, 6)
    boxes = [[face.box for face in finder.find(picture)] for picture in shown]
    finder.close()
    return boxes


def test_a_wide_room_keeps_the_person_at_either_edge(sample, models):
    about = json.loads(sample["meta.json"])["views"]["wide"]["streams"]["video"]
    assert (about["width"], about["height"]) == (456, 256)
    boxes = [box for faces in found(models, pictures(sample, "wide")[::6]) for box in faces]
    assert sum(box[2] < 0.25 for box in boxes) >= 5
    assert sum(box[0] > 0.75 for box in boxes) >= 5
    face = decode_npz(sample["wide.face.npz"])
    left, right = (set(face["person"][near].tolist()) for near in (face["box"][:, 2] < 0.3, face["box"][:, 0] > 0.7))
    assert len(left) == len(right) == 1
    assert left != right


def test_a_region_is_a_view_in_the_sources_resolution_with_the_same_people(sample, models):
    meta = json.loads(sample["meta.json"])
    about, streams = meta["views"]["wide_ann"], meta["views"]["wide_ann"]["streams"]
    assert about["region"] == {"view": "wide", "name": "Ann", "box": pytest.approx(SEAT, abs=1e-5)}
    assert about["source"] == "room.mp4"
    assert about["aspect"] == pytest.approx(312 / 256, rel=0.01)
    assert about["participants"] == ["a1"]
    assert set(streams) == {"video", "face", "pose", "regions"}
    assert (streams["video"]["width"], streams["video"]["height"]) == (312, 256)

    face = decode_npz(sample["wide_ann.face.npz"])
    assert len(face["window"]) >= 0.9 * len(face["times"]) > 10
    ids = set(face["person"].tolist())
    assert len(ids) == 1
    named = {person["id"]: person["participant"] for person in meta["people"]}
    assert named[ids.pop()] == "a1"
    widths = (face["box"][:, 2] - face["box"][:, 0]) * 312
    assert np.median(widths) > 60  # in the wide view it is 14
    # the landmarks lie where the written picture of the region shows the face
    seen = found(models, pictures(sample, "wide_ann"))
    for time, box in zip(face["times"][face["window"]], face["box"], strict=True):
        (there,) = seen[int(time * 25 + 0.01)]
        assert np.abs(there - box).max() < 0.04

    wide = decode_npz(sample["wide.face.npz"])
    rows = np.isin(wide["person"], face["person"])
    np.testing.assert_allclose(wide["head"][rows], face["head"])
    cells = decode_npz(sample["wide_ann.regions.npz"])["people"]
    assert cells.shape[1:] == (16, 20)
    assert cells[:, 5:9, 8:12].mean() > 0.9  # the face
    assert cells[:, :4, :3].mean() < 0.2


def test_rows_of_a_region_are_told_in_its_fractions():
    keypoints = np.zeros((2, 21, 3), np.float32)
    keypoints[:, :, :] = [0.5, 0.25, 0.1]
    keypoints[1, 0] = [0.9, 0.25, 0.1]  # its wrist is outside
    hands = {"times": np.arange(3.0), "window": np.array([0, 2]), "person": np.array([4, 5]), "keypoints": keypoints}
    part = within("hands", hands, (0.25, 0.0, 0.75, 0.5))
    assert part["person"].tolist() == [4]
    assert part["times"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(part["keypoints"][0], np.tile([0.5, 0.5, 0.2], (21, 1)))
    np.testing.assert_allclose(keypoints[0, 3], [0.5, 0.25, 0.1])  # the view's own stay


def test_a_view_and_its_regions_are_decoded_once(tmp_path: Path, monkeypatch):
    path = write_media(tmp_path / "a.mp4", 3.0, size=(160, 96), audio=0)
    files = (views.PlannedFile(Source(path, "a.mp4", 0.0), probe(path), 0.0),)
    regions = (Region("left", (0.0, 0.0, 0.5, 0.5)), Region("right", (0.5, 0.0, 1.0, 1.0)))
    reads: list[Any] = []
    read = views.read
    monkeypatch.setattr(views, "read", lambda *args: reads.append(args) or read(*args))
    config = BuildConfig(tmp_path, tmp_path, landmarks="none", fps=10, short_side=48)
    reader = views.ViewReader(
        views.PlannedView(View("v", files[0:0], (), regions), files), [Window(0, 3)], config, None
    )
    whole, left, right = (part.part for part in reader.parts(0))
    assert len(reads) == 1
    assert [part.streams["video"]["width"] for part in (whole, left, right)] == [80, 80, 48]
    means = []
    for part in (whole, left, right):
        with av.open(io.BytesIO(part.members["video.mp4"])) as container:
            means.append(next(container.decode(video=0)).to_ndarray(format="rgb24").mean())
    assert means[1] > 250  # all of the white quarter
    assert means[2] < 40  # nothing of it


def test_a_region_that_is_not_understood_costs_its_recording(tmp_path: Path):
    write_media(tmp_path / "a.mp4", 2.0, audio=0)
    rows = [
        {"path": "a.mp4", "recording": str(n), "region": cell}
        for n, cell in enumerate(("face", "f@0,0,1", "f@0,0,2,1"))
    ]
    rows.append({"path": "a.mp4", "recording": "good", "region": "f@0,0,1,0.5"})
    rows.append({"path": "a.mp4", "recording": "twice", "view": "a", "region": "f@0,0,1,0.5;F@0,0,1,1"})
    out = tmp_path / "out"
    config = BuildConfig(write_manifest(tmp_path, *rows), out, landmarks="none", fps=5, short_side=32, workers=1)
    assert build(config) == 3
    assert read_index(out)["recording"].tolist() == ["good"]
    reasons = {line["recording"]: (line["reason"], line["remedy"]) for line in failures(out)}
    assert reasons["2"][0] == "region 'f@0,0,2,1' is not understood"
    assert reasons["2"][1].startswith("write name@x0,y0,x1,y1 with 0 <=")
    assert reasons["twice"][0] == "views 'a_f' and 'a_F' have one name in a shard"
    assert set(reasons) == {"0", "1", "2", "twice"}
