"""``finetune extract`` on raw files, in finer steps, and stopped at any moment. What a row holds is tested in test_run.py."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from data_prep.config import LandmarkConfig
from data_prep.shards import read_index, read_sample
from finetune.__main__ import main
from finetune.data import build_shards, open_encoder, preprocessing
from pretrain.clips import read_clip
from pretrain.encoder import Encoder
from tests.finetune.release_for_tests import release_of
from tests.finetune.scenes_for_tests import with_a_damaged_clip
from tests.pretrain.clips_for_tests import tiny_model

KEYS = ["recording", "time", "end", "view", "person", "stream"]


def extract(release: Path, video: Path, out: Path, *more: str) -> int:
    arguments = ["extract", "--encoder", release, video, "--out", out, "--workers", "0", *more]
    return main([str(argument) for argument in arguments])


def assert_same_rows(mine: pd.DataFrame, theirs: pd.DataFrame, tolerance: float) -> None:
    pd.testing.assert_frame_equal(mine[KEYS], theirs[KEYS])
    np.testing.assert_allclose(np.stack(mine["feature"]), np.stack(theirs["feature"]), atol=tolerance)


@pytest.fixture(scope="module")
def scene_release(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that reads video, audio, face and pose, released with the settings that ``shards`` were built with."""
    torch.manual_seed(0)
    encoder = Encoder(tiny_model())
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("scene_release")
    settings = yaml.safe_load((shards / "config.yaml").read_text())
    return release_of(encoder, folder / "run", folder / "release", settings)


def test_a_file_gives_the_features_of_its_shards(
    scene_release: Path, scenes: Path, shards: Path, tmp_path: Path
) -> None:
    """All streams of both: what is left out of preparing (regions) is nothing that the encoder reads."""
    files = scenes / "manifest.csv"
    assert extract(scene_release, files, tmp_path / "files.parquet") == 0
    assert extract(scene_release, shards, tmp_path / "shards.parquet") == 0
    of_shards = pd.read_parquet(tmp_path / "shards.parquet")
    assert set(of_shards["stream"]) == {"video", "audio", "face", "pose"}
    assert of_shards["person"].nunique() > 1
    assert_same_rows(pd.read_parquet(tmp_path / "files.parquet"), of_shards, 1e-3)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["files.parquet", "shards.parquet"]


def test_what_is_not_read_is_not_prepared(scene_release: Path, scenes: Path, tmp_path: Path) -> None:
    encoder = open_encoder(scene_release, "cpu")

    def members(streams: set[str] | None) -> set[str]:
        out = tmp_path / "-".join(sorted(streams or {"all"}))
        index = read_index(build_shards(scenes / "manifest.csv", scene_release, encoder, out, streams))
        return {member.split(".")[1] for found in index["members"] for member in found if member != "meta.json"}

    assert members(None) == {"video", "audio", "face", "pose", "regions"}
    assert members({"video"}) == {"video"}
    assert members({"audio"}) == {"audio", "face", "pose"}  # faces and bodies tell whose the sound is


def test_landmarks_beside_another_video_are_not_these(scene_release: Path, scenes: Path, tmp_path: Path) -> None:
    """A lone file without landmarks beside it is looked at, whatever lies in the same folder."""
    encoder = open_encoder(scene_release, "cpu")
    with_them = next(file for file in sorted(scenes.rglob("*.mp4")) if Path(f"{file}.face.npz").is_file())
    assert preprocessing(scene_release, encoder, with_them)["landmarks"] == "given"
    bare = with_them.with_name("another.mp4")
    assert preprocessing(scene_release, encoder, bare)["landmarks"] == "mediapipe"


def test_a_release_tells_how_people_and_speech_were_found(small_release: Path, shards: Path, tmp_path: Path) -> None:
    """All that changes what an encoder reads, whatever the defaults are."""
    settings = yaml.safe_load((shards / "config.yaml").read_text())
    settings |= {"speech": False, "people": settings["people"] | {"max_people": 3}, "landmarks": "mediapipe"}
    encoder = open_encoder(small_release, "cpu")
    release = release_of(encoder, tmp_path / "run", tmp_path / "release", settings | {"blur_faces": True})
    found = preprocessing(release, encoder, Path("V"))
    assert found["speech"] is False
    assert found["people"] == LandmarkConfig(max_people=3)
    assert found["blur_faces"] is True


def test_a_row_for_every_half_second(small_release: Path, square_shards: Path, tmp_path: Path) -> None:
    assert extract(small_release, square_shards, tmp_path / "clips.parquet") == 0
    assert extract(small_release, square_shards, tmp_path / "fine.parquet", "--seconds", "0.75") == 0
    clips, fine = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("clips", "fine"))
    assert len(fine) == 3 * len(clips)
    of_scene = fine[(fine["recording"] == "r3") & fine["person"].isna()]
    assert of_scene["time"].tolist() == [2 * clip + step for clip in range(4) for step in (0, 0.75, 1.5)]
    assert of_scene["end"].tolist()[:4] == [0.75, 1.5, 2.0, 2.75]  # a clip of 2 s ends in the third

    row = read_index(square_shards).iloc[13]
    clip = read_clip(read_sample(square_shards, row), ("video", "pose"))
    with torch.inference_mode():
        encoded = open_encoder(small_release, "cpu").encode_clips([clip])
    inside = (encoded.modality == 0) & (encoded.time >= 0.75) & (encoded.time < 1.5)
    here = of_scene[of_scene["time"] == row["start"] + 0.75]
    np.testing.assert_allclose(here["feature"].iloc[0], encoded.tokens[inside].mean(0), atol=1e-5)


KILLED = """
import os, signal, sys
from finetune.__main__ import main
from pretrain.encoder import Encoder
encode, left = Encoder.encode_clips, [int(sys.argv[1])]
def dying(*arguments):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(*arguments)
Encoder.encode_clips = dying
main(sys.argv[2:])
"""


def test_shards_that_were_given_are_never_removed(small_release: Path, square_shards: Path, tmp_path: Path) -> None:
    """Not even under the name that prepared videos would have."""
    given = shutil.copytree(square_shards, tmp_path / "f.parquet.shards")
    assert extract(small_release, given, tmp_path / "f.parquet", "--streams", "[pose]") == 0
    assert (given / "index.parquet").is_file()


def test_killed_and_started_again(
    small_release: Path,
    square_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """kill -9 in the fourth part of six: three are not computed again, one that is not whole is, and the rows are the same."""
    assert extract(small_release, square_shards, tmp_path / "whole.parquet", "--batch_size", "1") == 0
    out = tmp_path / "killed.parquet"
    arguments = ["extract", "--encoder", small_release, square_shards, "--out", out, "--workers", "0"]
    command = [sys.executable, "-c", KILLED, "30", *map(str, arguments), "--batch_size", "1"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert not out.exists()
    parts = sorted(file.name for file in (tmp_path / "killed.parquet.parts").glob("*.parquet"))
    assert parts == ["000000.parquet", "000001.parquet", "000002.parquet"]
    torn = tmp_path / "killed.parquet.parts" / parts[1]
    torn.write_bytes(torn.read_bytes()[:-30])  # as a power cut may leave it

    encoded: list[int] = []
    encode = Encoder.encode_clips

    def counting(self, clips, *rest):
        encoded.append(len(clips))
        return encode(self, clips, *rest)

    monkeypatch.setattr(Encoder, "encode_clips", counting)
    assert extract(small_release, square_shards, out, "--batch_size", "1") == 0
    assert sum(encoded) == 48 - 2 * 8
    assert "2 of 6 parts are there" in capsys.readouterr().out
    assert_same_rows(pd.read_parquet(out), pd.read_parquet(tmp_path / "whole.parquet"), 0)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["killed.parquet", "whole.parquet"]


def test_parts_of_other_rows_are_not_taken(
    small_release: Path,
    square_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Stopped, then asked for something else: the same settings decide about every row."""
    out, encode, left = tmp_path / "features.parquet", Encoder.encode_clips, [10]

    def stopped(self, *rest):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return encode(self, *rest)

    monkeypatch.setattr(Encoder, "encode_clips", stopped)
    with pytest.raises(KeyboardInterrupt):
        extract(small_release, square_shards, out, "--batch_size", "1")
    monkeypatch.undo()
    assert (tmp_path / "features.parquet.parts" / "000000.parquet").is_file()
    more = ("--batch_size", "1", "--streams", "[pose]")
    assert extract(small_release, square_shards, out, *more) == 0
    assert "parts of another streams are thrown away" in capsys.readouterr().out
    assert set(pd.read_parquet(out)["stream"]) == {"pose"}


def test_what_cannot_be_read_is_a_line_and_exit_code_3(
    small_release: Path, square_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged clip of shards, and a damaged file of a folder, cost themselves."""
    shards, row = with_a_damaged_clip(square_shards, tmp_path / "shards")
    assert extract(small_release, shards, tmp_path / "clips.parquet") == 3
    assert len(pd.read_parquet(tmp_path / "clips.parquet")) == 47 * 3
    said = capsys.readouterr().err.splitlines()
    assert sum(line.startswith(f"{row['key']}: left out") for line in said) == 1
    assert said[-1].startswith("1 clips hold none of")

    videos, video = tmp_path / "videos", read_sample(square_shards, row)["main.video.mp4"]
    videos.mkdir()
    (videos / "good.mp4").write_bytes(video)
    (videos / "bad.mp4").write_bytes(video[: len(video) // 3])
    assert extract(small_release, videos, tmp_path / "files.parquet", "--streams", "[video]") == 3
    assert set(pd.read_parquet(tmp_path / "files.parquet")["recording"]) == {"good"}
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out: ")]
    assert len(said) == 1
    assert "bad.mp4" in said[0]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--seconds", "0"), "seconds: 0"),
        (("--out", "features.npz"), "should end in .parquet"),
        (("--batch_size", "0"), "batch_size"),
    ],
)
def test_impossible_settings_are_one_line(
    small_release: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], says: str
) -> None:
    assert extract(small_release, Path("V"), Path("f.parquet"), *more) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.strip().splitlines()) == 1
