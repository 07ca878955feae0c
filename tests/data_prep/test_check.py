"""`data_prep check`: whole shards pass; each kind of fault, put into real shards, is named where it is."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from configs import UserError
from data_prep.check import check
from data_prep.config import CheckConfig
from data_prep.shards import ShardWriter, decode_npz, encode_npz, read_index, read_sample, write_index

Members = dict[str, bytes]
Rows = list[dict[str, Any]]


def copy(shards: Path, out: Path) -> tuple[Path, Rows]:
    """A copy of the shards and its index as rows."""
    shutil.copytree(shards, out)
    return out, read_index(out).astype(object).to_dict("records")  # pyrefly: ignore[bad-return]


def edited(shards: Path, out: Path, edits: list[Callable[[Members], None]]) -> list[str]:
    """Shards written anew with an edit in each sample: all checksums are right. The keys of the edited samples."""
    out.mkdir()
    keys, written, rows = [], [], read_index(shards).to_dict("records")
    for name in dict.fromkeys(row["shard"] for row in rows):
        writer = ShardWriter(out / name, out / "temporary")
        for row in rows:
            if row["shard"] == name:
                sample = read_sample(shards, row)
                if edits:
                    edits.pop()(sample)
                    keys.append(row["key"])
                facts = {name: row[name] for name in ("recording", "start", "end", "split", "people")}
                writer.write(str(sample.pop("__key__")), sample, facts)
        writer.publish()
        written += writer.rows
    write_index(out, written)
    return keys


def said(out: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of faults that the command prints."""
    code = check(CheckConfig(out, workers=1))
    lines = capsys.readouterr().out.splitlines()
    assert code == (3 if len(lines) > 1 else 0)
    return lines[:-1]


def test_whole_shards_have_no_fault(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(shards, capsys) == []


def test_a_users_stream_is_looked_at(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows of several people share a time, and a number that is not there is nan; infinite ones and times that fall are faults."""
    whole = {"times": np.array([0.0, 0.0, 0.5, 0.5]), "values": np.ones((4, 2)), "person": np.array([0, 1, 0, 1])}
    gap, endless, falling = ({name: values.copy() for name, values in whole.items()} for _ in range(3))
    gap["values"][1, 0], endless["values"][1, 0], falling["times"][3] = np.nan, np.inf, 0.25
    scene = {name: values for name, values in whole.items() if name != "person"}

    def adding(arrays: dict[str, np.ndarray]) -> Callable[[Members], None]:
        return lambda members: members.update({"gaze.npz": encode_npz(arrays)})

    keys = edited(shards, tmp_path / "own", [adding(a) for a in (scene, falling, endless, gap, whole)])
    lines = said(tmp_path / "own", capsys)
    assert [line.split(maxsplit=2)[1:] for line in lines] == [
        [keys[2], "gaze.npz: `values` holds numbers that are not finite"],
        [keys[3], "gaze.npz: `times` do not grow at 0.25 s"],
        [keys[4], "gaze.npz: `times` do not grow at 0 s"],
    ]


def change_meta(**changes: Any) -> Callable[[Members], None]:
    def edit(members: Members) -> None:
        meta = json.loads(members["meta.json"])
        members["meta.json"] = json.dumps({k: v for k, v in (meta | changes).items() if v != "gone"}).encode()

    return edit


def change_stream(stream: str, **changes: Any) -> Callable[[Members], None]:
    """What meta.json says of a stream of the first view that has it."""

    def edit(members: Members) -> None:
        meta = json.loads(members["meta.json"])
        facts = next(view["streams"] for view in meta["views"].values() if stream in view["streams"])[stream]
        facts.update(changes)
        members["meta.json"] = json.dumps(meta).encode()

    return edit


def first(members: Members, ending: str) -> str:
    return sorted(name for name in members if name.endswith(ending))[0]


def change_arrays(ending: str, change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Members], None]:
    def edit(members: Members) -> None:
        arrays = decode_npz(members[first(members, ending)])
        change(arrays)
        members[first(members, ending)] = encode_npz(arrays)

    return edit


def set_array(name: str, row: int, value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[name][row] = value

    return change


def drop_frame(members: Members) -> None:
    """The video without the packet of its fifth frame."""
    source = io.BytesIO(members[first(members, "video.mp4")])
    target = io.BytesIO()
    with av.open(source, "r") as old, av.open(target, "w", format="mp4") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(packet for packet in old.demux() if packet.dts is not None):
            packet.stream = stream
            if number != 5:
                new.mux(packet)
    members[first(members, "video.mp4")] = target.getvalue()


def lengthen_sound(members: Members) -> None:
    name = first(members, "audio.flac")
    samples, rate = soundfile.read(io.BytesIO(members[name]))
    buffer = io.BytesIO()
    soundfile.write(buffer, np.concatenate([samples, samples]), rate, format="FLAC")
    members[name] = buffer.getvalue()


def with_other(ending: str, content: bytes | None) -> Callable[[Members], None]:
    def edit(members: Members) -> None:
        name = first(members, ending)
        members[name] = content or b""
        if content is None:
            del members[name]

    return edit


MEANT: dict[str, tuple[Callable[[Members], None], str, str]] = {
    "schema": (change_meta(schema=99), "meta.json", "schema is 99"),
    "recording": (change_meta(recording="other"), "meta.json", "recording is 'other'"),
    "end": (change_meta(end=0.5), "meta.json", "end is 0.5"),
    "split": (change_meta(split="elsewhere"), "meta.json", "split is 'elsewhere'"),
    "people": (change_meta(people=[]), "meta.json", "people are []"),
    "ids": (change_meta(people=[{"id": 0}, {"id": 0}]), "meta.json", "person ids are not different"),
    "field": (change_meta(versions="gone"), "meta.json", "lacks versions"),
    "view": (change_meta(views={"main": {}}), "meta.json", "view main lacks source, sha256"),
    "no JSON": (with_other("meta.json", b"{"), "meta.json", "no JSON"),
    "no meta": (with_other("meta.json", None), "meta.json", "missing"),
    "member gone": (with_other("audio.flac", None), ".audio", "in meta.json and not in the shard"),
    "unknown member": (lambda m: m.update({"main.gaze.npz": b""}), "main.gaze.npz", "meta.json does not know it"),
    "strange member": (
        lambda m: m.update({"main.notes.txt": b""}),
        "main.notes.txt",
        "no member that the format knows",
    ),
    "video damaged": (with_other("video.mp4", b"\0" * 99), "video.mp4", "cannot be read (InvalidDataError"),
    "video size": (change_stream("video", width=66), "video.mp4", "meta.json says 66x64"),
    "video rate": (change_stream("video", rate=7.5), "video.mp4", "do not come every 1/7.5 s"),
    "video start": (change_stream("video", start=1.0), "video.mp4", "do not lie in the clip of 4 s"),
    "frame lost": (drop_frame, "video.mp4", "31 frames do not come every 1/8 s"),
    "sound damaged": (with_other("audio.flac", b"no"), "audio.flac", "cannot be read (LibsndfileError"),
    "sound channels": (change_stream("audio", channels=7), "audio.flac", "meta.json says 7"),
    "sound rate": (change_stream("audio", rate=8000), "audio.flac", "meta.json says 8000"),
    "sound start": (change_stream("audio", start=0.2), "audio.flac", "4 s of sound from 0.2 s do not lie"),
    "sound length": (lengthen_sound, "audio.flac", "8 s of sound from 0 s do not lie"),
    "array damaged": (with_other("face.npz", b"no"), "face.npz", "cannot be read ("),
    "no times": (change_arrays("face.npz", lambda a: a.pop("times")), "face.npz", "no `times [window]`"),
    "times back": (change_arrays("face.npz", set_array("times", 3, 0.1)), "face.npz", "`times` do not grow at 0.1 s"),
    "times late": (change_arrays("regions.npz", set_array("times", -1, 9.0)), "regions.npz", "to 9 s do not lie"),
    "times start": (change_stream("pose", start=0.5), "pose.npz", "`times` start at 0 s, meta.json says 0.5 s"),
    "window": (change_arrays("pose.npz", set_array("window", -1, 99)), "pose.npz", "`window` does not grow from 0"),
    "no person": (change_arrays("pose.npz", lambda a: a.pop("person")), "pose.npz", "lacks `window` or `person`"),
    "person": (change_arrays("face.npz", set_array("person", 0, 77)), "face.npz", "`person` names [77]"),
    "rows": (
        change_arrays("face.npz", lambda a: a.update(box=a["box"][1:])),
        "face.npz",
        "`box` is [",
    ),
    "shape": (
        change_arrays("pose.npz", lambda a: a.update(keypoints=a["keypoints"][:, :9])),
        "pose.npz",
        "`keypoints` is [",
    ),
    "nan": (change_arrays("pose.npz", set_array("world", 0, np.nan)), "pose.npz", "`world` holds numbers that are not"),
    "cells": (change_arrays("regions.npz", lambda a: a.pop("motion")), "regions.npz", "has no `people` and `motion`"),
    "share": (change_arrays("regions.npz", set_array("people", 0, 2)), "regions.npz", "shares outside 0 to 1"),
}


@pytest.fixture(scope="module")
def found(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What the command says of each fault, put into a sample of its own: {fault: lines about that sample}."""
    found = {}
    samples = len(read_index(shards))
    for batch in (list(MEANT)[first : first + samples] for first in range(0, len(MEANT), samples)):
        out = tmp_path_factory.mktemp("edited") / "out"
        keys = edited(shards, out, [MEANT[fault][0] for fault in batch[::-1]])
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert check(CheckConfig(out, workers=1)) == 3
        lines = [line.partition(" ") for line in printed.getvalue().splitlines()[:-1]]
        assert {text.split(" ")[0] for _, _, text in lines} == set(keys)  # samples without a fault are not named
        for fault, key in zip(batch, keys, strict=True):
            found[fault] = [text.removeprefix(f"{key} ") for _, _, text in lines if text.startswith(f"{key} ")]
    return found


@pytest.mark.parametrize("fault", MEANT)
def test_a_member_that_is_wrong_is_named(fault: str, found: dict[str, list[str]]) -> None:
    _, member, what = MEANT[fault]
    assert any(member in line.split(":")[0] and what in line for line in found[fault]), found[fault]


def damage(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def test_shards_and_index_that_do_not_fit_are_named(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, rows = copy(shards, tmp_path / "out")
    one, two, three, *_ = names = sorted({row["shard"] for row in rows})
    damage(out / one, rows[0]["offset"] + 2000, b"\xff")  # inside a member
    last = next(row for row in rows[::-1] if row["shard"] == two)
    (out / two).write_bytes((out / two).read_bytes()[: last["offset"] + 1000])
    (out / three).unlink()
    shutil.copy(out / names[-1], out / "shard-stray.tar")
    lines = said(out, capsys)
    assert f"{one} {rows[0]['key']}: its contents have another sha256 than index.parquet says" in lines
    assert any(line.startswith(f"{two} {last['key']}: ends at byte ") for line in lines)
    assert f"{three}: No such file or directory" in lines
    assert "shard-stray.tar: not in index.parquet" in lines
    assert len([line for line in lines if not line.startswith(one)]) == 3


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (lambda rows: rows.pop(1), "the sample before it ends at"),
        (lambda rows: rows.append(rows[0]), "2 samples bear this key"),
        (lambda rows: rows[1].update(start=1.0), "begins at 1 s, before"),
        (lambda rows: rows[1].update(offset=rows[1]["offset"] + 512), "cannot be read ("),
        (lambda rows: rows[1].update(members=["meta.json"]), "not in index.parquet"),
        (lambda rows: rows[1].update(sha256="0"), "another sha256"),
        (lambda rows: rows.pop(), "holds something behind its last sample"),
        (lambda rows: rows[1].update(people=["nobody"]), "people are"),
    ],
)
def test_an_index_that_is_wrong_is_named(
    edit: Callable[[Rows], Any], what: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, rows = copy(shards, tmp_path / "out")
    edit(rows)
    write_index(out, rows)
    assert any(what in line for line in said(out, capsys))


def test_an_index_that_cannot_be_used_is_said(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = copy(shards, tmp_path / "out")
    read_index(out).drop(columns="sha256").to_parquet(out / "index.parquet")
    assert said(out, capsys) == ["index.parquet: no column sha256"]
    (out / "index.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="cannot be read"):
        check(CheckConfig(out))
    with pytest.raises(UserError, match="no output of data_prep build"):
        check(CheckConfig(tmp_path))
