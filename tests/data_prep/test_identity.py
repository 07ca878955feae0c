"""Who is who on real faces: two people, hidden, swapped in an instant, seen by two cameras; and what is written of it.

The two are the sample's talking man and the photograph of Grace Hopper that matplotlib carries, swaying a little.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.cbook
import numpy as np
import pytest
import soundfile

from benchmarks.composed import OCCLUDER, Shown, View, read_person
from benchmarks.people import RATE, Comparison, compare, compose
from data_prep.config import BuildConfig, LandmarkConfig
from data_prep.decode import probe
from data_prep.face_identity import FaceIdentity
from data_prep.faces import FaceFinder
from data_prep.manifest import read_manifest
from data_prep.plan import plan
from data_prep.shards import decode_npz, read_index, read_sample, write_index
from data_prep.spill import Spill
from data_prep.units import STATE, UnitTask, build_unit
from tests.data_prep.test_speech import spoken

HIDDEN = (2.0, 4.75)  # 22 looks
VIEWS = [View("room", 2, 144), View("side", 1, 112, 0.8)]
SHOWN = [
    Shown(0, "room", 0, 6.5, 0),
    Shown(1, "room", 0, 6.5, 1),
    Shown(OCCLUDER, "room", *HIDDEN, 0),
    Shown(0, "room", 6.5, 8.5, 1),  # swapped
    Shown(1, "room", 6.5, 8.5, 0),
    Shown(1, "side", 1, 2.5, 0),
    Shown(0, "side", 2.5, 4, 0),
]


@pytest.fixture(scope="module")
def people(videos: dict[str, Path], models: Path) -> list[np.ndarray]:
    finder = FaceFinder(models, 1)
    photo = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    found = [read_person(Path(path), finder) for path in (videos["carphone_pristine.mp4"], photo)]
    finder.close()
    return found


def build_here(manifest: Path, out: Path, models: Path, **settings: bool) -> None:
    """The work of a build in this process, so that the test sees what happens in it."""
    config = BuildConfig(
        manifest,
        out,
        landmark_rate=RATE,
        streams=("audio", "face", "pose"),
        models=models,
        people=LandmarkConfig(**settings),
    )
    (out / STATE).mkdir(parents=True)
    recordings, _ = read_manifest(manifest)
    files = [source.path for recording in recordings for view in recording.views for source in view.sources]
    units, _ = plan(recordings, {path: probe(path) for path in files}, {}, config)
    records = [build_unit(UnitTask(unit, config, models), lambda note: None) for unit in units]
    assert not [failure for record in records for failure in record["failures"]]
    write_index(out, [row for record in records for row in record["rows"]])


@pytest.fixture(scope="module")
def built(
    people: list[np.ndarray], models: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[np.ndarray], list[bytes]]:
    """(shards, every embedding that was made, everything that waited in the temporary file)"""
    root = tmp_path_factory.mktemp("composed")
    manifest = compose(root, VIEWS, SHOWN, people)
    soundfile.write(root / "table.wav", spoken(8.5, (0.5, 1.8, 120), (6.9, 8.3, 120)), 16000)
    manifest.write_text(manifest.read_text() + "table.wav,composed,table,0\n")
    embeddings: list[np.ndarray] = []
    spilled: list[bytes] = []
    embed, put = FaceIdentity.embed, Spill.put
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FaceIdentity, "embed", lambda *a: embeddings.append(embed(*a)) or embeddings[-1])
        patch.setattr(Spill, "put", lambda self, *a: spilled.append(a[-1]) or put(self, *a))
        build_here(manifest, root / "out", models)
    return root / "out", embeddings, spilled


@pytest.fixture(scope="module")
def comparison(built: tuple) -> Comparison:
    return compare(built[0], VIEWS, SHOWN)


def test_each_person_has_one_id_in_all_views_through_absence_and_swap(comparison: Comparison) -> None:
    whole = comparison.metrics()
    assert whole["looks"] > 80
    assert whole["IDF1"] >= 0.95, comparison.ids
    assert whole["switches"] == 0, comparison.ids
    assert comparison.one_id() == 1.0, comparison.ids


def test_the_comparison_sees_exchanged_ids(built: tuple) -> None:
    wrong = Comparison(VIEWS, SHOWN)
    for look in range(16):
        wrong.add("room", look / RATE, [0, 1] if look < 8 else [1, 0], [0.25, 0.75])
    assert wrong.metrics()["IDF1"] == pytest.approx(0.5)
    assert wrong.metrics()["switches"] == 2
    assert wrong.one_id() == 0.0


def test_people_and_rows_agree(built: tuple) -> None:
    out, _, _ = built
    (row,) = [row for _, row in read_index(out).iterrows()]
    sample = read_sample(out, row)
    known = {person["id"] for person in json.loads(sample["meta.json"])["people"]}
    assert {0, 1} <= known
    for view in VIEWS:
        rows = [decode_npz(sample[f"{view.name}.{stream}.npz"]) for stream in ("face", "pose")]
        face, pose = (set(zip(r["window"].tolist(), r["person"].tolist(), strict=True)) for r in rows)
        assert {person for _, person in face} == {0, 1}
        assert {person for _, person in face | pose} <= known
        assert [len(face), len(pose)] == [len(r["window"]) for r in rows]  # nobody twice at once
        assert len(face & pose) > 0.8 * len(face)  # a face and its pose are one person's
        # at the board's edge a body is seen that is none: in six looks of 68 when this was written
        assert len(pose - face) < 0.2 * len(pose)


def test_the_moving_mouth_speaks_and_not_the_photograph(built: tuple, comparison: Comparison) -> None:
    out, _, _ = built
    speech = json.loads(read_sample(out, read_index(out).iloc[0])["meta.json"])["speech"]
    man = comparison.ids[0].most_common(1)[0][0]
    assert [(part["view"], part["channel"], part["person"], part["by"]) for part in speech] == [
        ("table", 0, man, "mouth")
    ] * 2
    np.testing.assert_allclose([part["start"] for part in speech], [0.5, 6.9], atol=0.15)
    assert all(part["confidence"] > 0.7 for part in speech)


def test_few_faces_are_measured(built: tuple) -> None:
    _, embeddings, _ = built
    assert 8 <= len(embeddings) <= 30  # of about 160 faces


def test_nothing_biometric_is_written(built: tuple) -> None:
    out, embeddings, spilled = built
    files = {str(path): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    written = {**files, **{f"temporary {n}": content for n, content in enumerate(spilled)}}
    assert any("index" in name for name in files)
    assert sum(name.startswith("temporary") for name in written) > 4
    for embedding in embeddings:
        for kind in (np.float16, np.float32, np.float64):
            pieces = [embedding[n : n + 2].astype(kind).tobytes() for n in range(0, 128, 2)]
            found = [
                name for name, content in written.items() for piece in pieces[:4] + pieces[-4:] if piece in content
            ]
            assert not found or kind == np.float16, found
        digits = [f"{abs(value):.5f}".encode() for value in embedding[:4]]
        assert not [name for name, content in written.items() if all(d in content for d in digits)]
    names = [name for content in spilled if content.startswith(b"PK") for name in decode_npz(content)]
    assert set(names) == {
        *("times", "window", "person", "score"),
        *("box", "landmarks", "blendshapes", "head", "keypoints", "world"),
    }


def test_without_face_identity_no_face_is_measured(people: list[np.ndarray], models: Path, tmp_path: Path) -> None:
    manifest = compose(tmp_path, VIEWS[1:], SHOWN, people)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FaceIdentity, "__init__", None)  # to be made is an error
        build_here(manifest, tmp_path / "out", models, face_identity=False)
    ids = compare(tmp_path / "out", VIEWS[1:], SHOWN).ids
    assert {person: list(found) for person, found in ids.items()} == {1: [0], 0: [0]}  # the place is all it knows
