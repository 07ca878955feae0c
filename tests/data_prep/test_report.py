"""The report: from shards of real and of generated recordings to one page that needs nothing else."""

from __future__ import annotations

import html.parser
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import UserError
from data_prep.build import build
from data_prep.config import BuildConfig, ReportConfig
from data_prep.overlay import colour, draw_people
from data_prep.report import PAGE, SHEET, histogram, read_recordings, report
from data_prep.shards import read_index


class Page(html.parser.HTMLParser):
    """What a page refers to, and its tables' cells row by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.rows: list[list[str]] = [[]]
        self.in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}]
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in {"td", "th"}

    def handle_data(self, data: str) -> None:
        if self.in_cell:
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def real(videos: dict[str, Path], models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the sample and of a file that is no video, with its report."""
    folder, out = tmp_path_factory.mktemp("recordings"), tmp_path_factory.mktemp("real") / "shards"
    for path in videos.values():
        shutil.copy(path, folder)
    (folder / "notes & <tags>.mp4").write_text("not a video")
    settings = {"clip_seconds": 4.0, "short_side": 144, "landmark_rate": 4.0, "models": models, "workers": 1}
    assert build(BuildConfig(folder, out, **settings)) == 3
    report(ReportConfig(out))
    return out


def test_the_person_of_the_sample_has_face_and_pose_of_one_id(real):
    counted = {recording.name: recording for recording in read_recordings(real, read_index(real))}
    person, film = counted["carphone_pristine"], counted["bigbuckbunny"]
    assert len(person.people) == 1
    assert person.looked == 16
    assert person.same_person_share >= 0.95
    assert person.face_width == pytest.approx(0.3 * 176, rel=0.25)
    assert film.looked > 16
    assert (film.with_face, film.with_pose, film.same_person_share) == (0, 0, None)


def test_the_page_needs_nothing_else_and_tells_the_failure(real):
    text = (real / PAGE).read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert len(page.addresses) == 2  # a picture a recording
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert "http" not in text.replace("http-equiv", "")
    rows = {row[0]: row for row in page.rows if row}
    assert rows["carphone_pristine"][-2] == "100.0 %"
    assert rows["bigbuckbunny"][6:8] == ["0.0 %", "0.0 %"]
    assert any("notes & <tags>.mp4" in row for row in page.rows)
    assert "<tags>" not in text  # escaped


def test_the_contact_sheet_shows_the_person_in_its_colour(real):
    with Image.open(real / SHEET) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    marked = np.abs(pixels - np.array([int(colour(0)[i : i + 2], 16) for i in (1, 3, 5)])).sum(-1) < 30
    assert marked.sum() > 1200 * 12  # the bar of when the person is seen, and the face's contours
    assert pixels.shape[1] == 1200


def test_generated_recordings_with_several_views_and_people(shards, tmp_path):
    folder = tmp_path / "shards"
    shutil.copytree(shards, folder)
    report(ReportConfig(folder))
    page = Page((folder / PAGE).read_text())
    index = read_index(folder)
    rows = {row[0]: row for row in page.rows if row}
    for name in index["recording"].unique():
        people = {person for one in index[index["recording"] == name]["people"] for person in one}
        assert rows[name][1] == str((index["recording"] == name).sum())
        assert rows[name][3] == str(len(people))
        assert rows[name][4] == "given"
    assert max(int(rows[name][2]) for name in index["recording"].unique()) > 1
    assert rows["video"][-1] == str(len(index))
    assert len(page.addresses) == 6


def test_a_folder_without_shards_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}: no index.parquet"):
        report(ReportConfig(tmp_path))


def test_landmarks_are_drawn_where_they_are():
    frame = np.full((50, 100, 3), 255, np.uint8)
    keypoints = np.zeros((33, 4), np.float32)
    keypoints[[11, 12], :2] = [[0.25, 0.5], [0.75, 0.5]]  # shoulders
    keypoints[[11, 12], 3] = 1
    drawn = np.asarray(draw_people(frame, [], [(1, keypoints)], (200, 100)))
    dark = drawn.sum(-1) < 600
    assert dark[50, 60:140].all()
    assert not dark[60:90].any()  # nothing below: hips are not seen


def test_histogram_of_equal_lengths_is_one_row():
    assert histogram(np.array([4.0, 4.0, 4.01])) == [("4.003 s", 3)]
    rows = histogram(np.array([1.0, 2.0, 2.0, 11.0]))
    assert rows[0] == ("1 to 2 s", 1)
    assert sum(count for _, count in rows) == 4
