"""SSI's feature streams -> the npz streams that ``--add_stream`` reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.data_sets.config import ManifestMpiiGroupConfig, ManifestNoxiConfig
from data_prep.data_sets.mpii_group import mpii_group
from data_prep.data_sets.noxi import noxi
from data_prep.data_sets.ssi import StreamError, known, read_header, read_stream, stream_name
from finetune.added_streams import read_added
from tests.data_sets.mpii_tree import write_engagement
from tests.data_sets.multimediate_scenes import put_stream, put_video, videos


def test_trap_the_data_are_in_the_file_with_the_tilde_and_the_rate_in_the_header(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    for rate in (25.0, 30.0, 40.0):
        put_stream(tmp_path / "expert.clip.stream", values, rate, start=0.5)
        times, read, told = read_stream(tmp_path / "expert.clip.stream")
        assert told == rate
        np.testing.assert_array_equal(read, values)
        assert times == pytest.approx(0.5 + np.arange(6) / rate)
    (tmp_path / "expert.clip.stream~").unlink()
    with pytest.raises(StreamError, match=r"expert\.clip\.stream~ is missing: it holds the numbers"):
        read_stream(tmp_path / "expert.clip.stream")


def test_chunks_begin_when_and_where_the_header_says(tmp_path: Path) -> None:
    file = tmp_path / "a.stream"
    put_stream(file, np.arange(5, dtype=np.float32)[:, None], 2.0)
    chunks = '<chunk from="0" to="1.5" byte="0" num="3"/>\n<chunk from="10" to="11" byte="12" num="2"/>'
    text = file.read_text()
    file.write_text(text[: text.index("    <chunk")] + chunks + "\n</stream>\n")
    times, values, _ = read_stream(file)
    assert times.tolist() == [0, 0.5, 1, 10, 10.5]
    assert values[:, 0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("BINARY", "ASCII", "not BINARY, FLOAT, 4"),
        ('dim="2"', 'dim="4"', "no whole number of rows of 4 numbers"),
        ('dim="2"', 'dim="two"', "cannot be read"),
        ("</stream>", "", "no SSI header"),
        ('sr="25.000000"', 'sr="0"', "must be above 0"),
        ("<stream", "<!DOCTYPE a [<!ENTITY b 'c'>]><stream", "declares an entity"),
    ],
)
def test_what_is_no_such_stream_is_told(old: str, new: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "a.stream"
    put_stream(file, np.ones((3, 2)), 25.0)
    assert read_header(file).dim == 2
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(StreamError, match=says):
        read_stream(file)


def test_columns_about_time_and_points_that_were_not_found() -> None:
    rows = np.array([[7, 0, 0.28, 0.5, -1], [8, 0, 0.32, -1, 0.5]], np.float32)
    np.testing.assert_allclose(known("openface2", rows), [[0.5, -1], [-1, 0.5]])
    np.testing.assert_allclose(known("openpose", rows)[:, 3:], [[0.5, np.nan], [np.nan, 0.5]])
    np.testing.assert_array_equal(known("clip", rows), rows)
    assert stream_name("audio.w2vbert2_embeddings.stream") == "audio_w2vbert2_embeddings"


def test_streams_of_a_session_reach_their_people_through_the_one_reader(groups: list[Path], tmp_path: Path) -> None:
    root = write_engagement(tmp_path / "mpiigi", groups[0])
    mpii_group(ManifestMpiiGroupConfig(root, tmp_path / "m.csv", streams=tmp_path / "streams"))
    added = read_added(tmp_path / "streams" / "streams.yaml")
    assert added.streams["audio_egemapsv2"].features == 88
    rows = added.rows["audio_egemapsv2"]["mpiigi-008"]
    assert (np.diff(rows["times"]) >= 0).all()
    for seat in (2, 3, 4):
        mine = rows["participant"] == f"mpiigi-008.subjectPos{seat}"
        assert (rows["values"][mine] == seat).all()
        assert rows["times"][mine] == pytest.approx(np.arange(320) / 40)  # its own rate, not 25


def test_a_width_that_differs_and_a_damaged_stream_are_left_out(
    dyads: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in ("001", "002", "003"):
        folder = tmp_path / "noxi" / "train" / number
        put_video(videos(dyads[0])[0], folder / "expert.video.mp4")
        put_stream(folder / "expert.dino.stream", np.ones((10, 4 if number == "002" else 3)), 25.0)
    (tmp_path / "noxi" / "train" / "003" / "expert.dino.stream").write_text("<stream>")
    noxi(ManifestNoxiConfig(tmp_path, tmp_path / "m.csv", streams=tmp_path / "streams"))
    assert [path.name for path in (tmp_path / "streams" / "dino").iterdir()] == ["noxi-001.npz"]
    said = " ".join(capsys.readouterr().out.split())
    assert "are left out: noxi-002/expert.dino.stream (4, not 3)" in said
    assert "streams cannot be read: noxi-003/expert.dino.stream: no SSI header" in said
