"""The report: from shards of real and of generated recordings to one page that needs nothing else, opened in a browser."""

from __future__ import annotations

import html.parser
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image

from configs import UserError
from data_prep import report_counts
from data_prep.build import build
from data_prep.config import BuildConfig, ReportConfig
from data_prep.overlay import colour, draw_people
from data_prep.report import PAGE, SHEET, histogram, report
from data_prep.report_card import COLUMNS, card, mel_picture, ticks, wave_picture
from data_prep.report_counts import in_turn, read_recordings, rows_to_read
from data_prep.report_timelines import NOBODY, joined, sightings
from data_prep.shards import ShardWriter, read_index, read_sample, write_index
from tests.data_prep.browser import Browser, browser, why_not

QUALITY = {"sharpness": 12.5, "black": 0.25, "words": "not a number"}


class Page(html.parser.HTMLParser):
    """What a page refers to, and its tables' cells row by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = [[]]
        self.in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}]
        if tag == "img":
            self.texts.append(dict(attrs)["alt"])
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


@pytest.fixture(scope="module")
def told(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of two views and one of a microphone alone, with speech and quality, with its report."""
    folder = tmp_path_factory.mktemp("told")
    index = read_index(shards)
    several = index[index["members"].map(lambda members: sum(name.endswith("mp4") for name in members) > 1)]
    rows = several[several["recording"] == several.iloc[0]["recording"]]
    writer = ShardWriter(folder / "shard.tar", folder / "tmp")
    for _, row in rows.iterrows():
        for name, keep in (("table <one>", ""), ("phone", "audio.flac")):
            key, sample = f"{name[:5]}-{row['start']:g}", read_sample(shards, row)
            meta = json.loads(sample["meta.json"])
            view = next(iter(meta["views"]))
            members = {
                name: data for name, data in sample.items() if keep in name and name not in {"__key__", "meta.json"}
            }
            meta |= {"recording": name, "speech": [spoken(view, 0.5, 1.5, 1), spoken(view, 2.0, 3.0, None)]}
            for about in meta["views"].values():
                about["quality"] = QUALITY
                about["streams"] = {
                    stream: lies for stream, lies in about["streams"].items() if keep in f"{stream}.flac"
                }
            members["meta.json"] = json.dumps(meta).encode()
            writer.write(key, members, {"recording": name, **{k: row[k] for k in ("start", "end", "people")}})
    writer.publish()
    write_index(folder, sorted(writer.rows, key=lambda row: (row["recording"], row["start"])))
    (folder / "dropped.csv").write_text('recording,start,reason\ntable,12.0,"black > 0.9"\n')
    report(ReportConfig(folder))
    return folder


def spoken(view: str, start: float, end: float, person: int | None) -> dict:
    return {"view": view, "channel": 0, "start": start, "end": end, "person": person, "by": "seat", "confidence": 0.9}


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser. Skipped with one line where it cannot be had; an error under CI."""
    if reason := why_not():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


def test_the_person_of_the_sample_has_face_and_pose_of_one_id(real):
    counted = read_recordings(real, read_index(real))
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
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert sum(address.startswith("data:image/jpeg") for address in page.addresses) == 3  # a clip's frames each
    assert all(page.texts)  # every picture in words as well
    rows = {row[0]: row for row in page.rows if row}
    assert rows["carphone_pristine"][-2] == "100.0 %"
    assert rows["bigbuckbunny"][6:8] == ["0.0 %", "0.0 %"]
    assert any("notes & <tags>.mp4" in row for row in page.rows)
    assert "<tags>" not in text  # escaped


def test_the_contact_sheet_shows_the_person_in_its_colour(real):
    with Image.open(real / SHEET) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    marked = np.abs(pixels - rgb(colour(0))).sum(-1) < 30
    assert marked.sum() > 3000  # contours, shoulders and ids of six frames
    assert not marked[pixels.shape[0] // 2 :].any()  # nobody in the film below


def rgb(text: str) -> np.ndarray:
    return np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)])


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
    assert (
        sum(address.startswith("data:image/jpeg") for address in page.addresses) == 12
    )  # two of each of six recordings


def test_nothing_is_asked_for_and_nothing_complains(told, chromium):
    chromium.open(told / PAGE)
    assert [address for address in chromium.requests if not address.startswith("data:")] == [(told / PAGE).as_uri()]
    assert chromium.complaints == []
    chromium.run("fetch('https://example.org').catch(() => 0)")
    assert (
        "Content Security Policy" in chromium.complaints.pop()
    )  # nothing could have been loaded, and it would be seen


def test_the_time_lines_show_who_is_seen_and_who_speaks(told, chromium):
    chromium.open(told / PAGE)
    names = chromium.run("[...document.querySelectorAll('.timeline summary')].map(one => one.firstChild.data.trim())")
    assert sorted(names) == ["phone", "table <one>"]
    table = names.index("table <one>")
    lanes = chromium.run(f"{data(table)}.lanes.map(lane => lane.name)")
    speech = next(k for k, lane in enumerate(lanes) if lane.startswith("speech"))
    person = next(k for k, lane in enumerate(lanes) if lane.startswith("person 0"))
    assert pixel(chromium, table, person, 3.0) == pytest.approx(rgb(colour(0)), abs=4)
    assert pixel(chromium, table, speech, 5.0) == pytest.approx(
        rgb(colour(1)), abs=4
    )  # 0.5 to 1.5 s of each clip of 4 s
    assert pixel(chromium, table, speech, 6.5) == pytest.approx(rgb("#9aa5b1"), abs=4)  # somebody
    assert pixel(chromium, table, speech, 7.5)[3:] in ([], [0])  # nobody
    lines = chromium.run(f"{data(table)}.lines.map(line => line.name)")
    assert {"faces", "face width", "sharpness", "black"} == set(lines)
    assert not any(
        lane.startswith("person") for lane in chromium.run(f"{data(names.index('phone'))}.lanes.map(lane => lane.name)")
    )


def data(number: int) -> str:
    return f"JSON.parse(document.getElementById('timelines-data').textContent).recordings[{number}]"


def plots(number: int) -> str:
    return f"document.querySelectorAll('.timeline')[{number}].plots"


def pixel(page: Browser, number: int, lane: int, time: float) -> list[int]:
    """The colour in the middle of a lane at a time, as it is drawn."""
    script = f"""(() => {{
        const plot = {plots(number)}[0], lanes = {data(number)}.lanes;
        const top = lanes.slice(0, {lane}).reduce((sum, one) => sum + (one.thin ? 15 : 22), 0);
        const y = plot.bbox.top + top + (lanes[{lane}].thin ? 7 : 11), x = plot.valToPos({time}, 'x', true);
        const [r, g, b, a] = plot.ctx.getImageData(x, y, 1, 1).data;
        return a ? [r, g, b] : [r, g, b, a];
    }})()"""
    return page.run(script)


def test_a_drag_zooms_every_line_and_a_button_shows_all(told, chromium):
    chromium.open(told / PAGE)
    seen = f"{plots(0)}.map(plot => [plot.scales.x.min, plot.scales.x.max])"
    assert chromium.run(seen) == [[0, 16]] * len(chromium.run(seen))
    assert len(chromium.run(seen)) > 1
    over = f"{plots(0)}[0].over"
    chromium.run(f"{over}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    box = chromium.run(f"(box => [box.left, box.top, box.width, box.height])({over}.getBoundingClientRect())")
    left, top, width, height = box
    chromium.drag((left + width / 4, top + height / 2), (left + width / 2, top + height / 2))
    for scale in chromium.run(seen):
        assert scale == pytest.approx([4, 8], abs=0.1)
    read = chromium.run("document.querySelector('.timeline output').textContent")
    assert read.startswith("0:06.0")  # what the cursor reads: it stands in the middle
    chromium.run("document.querySelector('.timeline [data-do=all]').click()")
    chromium.run("new Promise(requestAnimationFrame)")
    assert chromium.run(seen)[0] == [0, 16]


def test_what_is_told_of_quality_and_what_was_dropped_is_there(told):
    page = Page((told / PAGE).read_text())
    assert ["table", "12.0", "black > 0.9"] in page.rows
    text = (told / PAGE).read_text()
    assert "Quality: sharpness" in text
    assert "Quality: words" not in text
    assert "<one>" not in text


def test_views_lie_side_by_side_and_one_without_pictures_is_told(told):
    index = read_index(told)
    table = card(read_sample(told, index[index["recording"] == "table <one>"].iloc[0]))
    phone = card(read_sample(told, index[index["recording"] == "phone"].iloc[0]))
    assert table.frames is not None
    assert table.frames.height < 420  # two views in one row
    assert phone.frames is None
    assert [len(one.sounds) > 0 for one in (table, phone)] == [True, True]
    assert {person for lane in phone.lanes for person, _, _ in lane["bars"]} == {1, NOBODY}


def test_a_folder_without_shards_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}: no index.parquet"):
        report(ReportConfig(tmp_path))


def test_of_a_large_folder_some_recordings_are_read_whole_and_all_here_and_there():
    members = [["a.video.mp4", "meta.json"], ["a.video.mp4", "b.video.mp4", "meta.json"]]
    rows = [{"recording": f"r{r:03d}", "people": [], "members": members[r % 2]} for r in range(100) for _ in range(30)]
    index = pandas.DataFrame(rows)
    assert in_turn(index)[:4] == ["r001", "r000", "r003", "r002"]
    chosen = rows_to_read(index, most=200)
    assert len(chosen) <= 200
    read = index.iloc[chosen]["recording"].value_counts()
    assert (read == 30).sum() == 3
    assert len(read) == 100
    assert rows_to_read(index) == list(range(3000))


def test_only_the_clips_chosen_are_read(shards, monkeypatch):
    monkeypatch.setattr(report_counts, "MOST_READ", 6)
    monkeypatch.setattr(report_counts.rows_to_read, "__defaults__", (6,))
    index = read_index(shards)
    recordings = read_recordings(shards, index)
    assert list(recordings) == list(index["recording"].unique())
    assert sum(recording.read for recording in recordings.values()) <= 6
    first = next(iter(recordings.values()))
    assert joined(first.timeline.streams[min(first.timeline.streams)].values(), 0.1) == [
        (0.0, 16.0)
    ]  # out of the index


def test_sightings_last_until_the_next_look():
    arrays = {"times": np.arange(8) / 2, "window": np.array([0, 1, 1, 2, 5]), "person": np.array([0, 0, 7, 0, 0])}
    assert sightings(arrays, 4.0) == {0: [(0.0, 1.5), (2.5, 3.0)], 7: [(0.5, 1.0)]}
    assert joined([(0.0, 1.5), (1.4, 2.0), (2.1, 3.0), (9.0, 9.5)], gap=0.2) == [(0.0, 3.0), (9.0, 9.5)]


def test_sound_lies_at_its_time_and_its_tone():
    rate, seconds, start = 16000, 10.0, 5.0
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate).astype(np.float32)  # from 5 to 6 s
    wave, mel = (np.asarray(f(tone, rate, start, seconds)) for f in (wave_picture, mel_picture))
    for picture in (wave, mel):
        heard = np.flatnonzero(picture.max(0) > 20) / picture.shape[1] * seconds
        assert (heard.min(), heard.max()) == (pytest.approx(5.0, abs=0.05), pytest.approx(6.0, abs=0.05))
    assert wave.shape[1] == COLUMNS
    band = len(mel) - 1 - mel[:, int(0.55 * mel.shape[1])].argmax()
    hertz = 700 * (10 ** (2595 * np.log10(1 + 8000 / 700) * (band + 1) / 65 / 2595) - 1)
    assert hertz == pytest.approx(1000, rel=0.1)


def test_ticks_are_round():
    assert ticks(4.0) == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]
    assert ticks(600.0)[:3] == [0, 50, 100]


def test_landmarks_are_drawn_where_they_are():
    frame = np.full((50, 100, 3), 255, np.uint8)
    keypoints = np.zeros((33, 4), np.float32)
    keypoints[[11, 12], :2] = [[0.25, 0.5], [0.75, 0.5]]  # shoulders
    keypoints[[11, 12], 3] = 1
    drawn = np.asarray(draw_people(frame, [], [(1, keypoints)], (200, 100)))
    dark = drawn.sum(-1) < 600
    assert dark[50, 60:140].all()
    assert not dark[60:90].any()  # nothing below: hips are not seen


def test_histogram_of_equal_values_is_one_column():
    assert histogram("", "", np.array([4.0, 4.0, 4.01]))["counts"] == [3]
    rows = histogram("", "", np.array([1.0, 2.0, 2.0, 11.0]), most=10)
    assert rows["counts"][:2] == [1, 2]
    assert (sum(rows["counts"]), rows["edges"][-1], rows["median"]) == (4, 11, 2)
