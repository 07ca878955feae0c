"""Shards through their own reader and through plain WebDataset."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from hypothesis import given
from hypothesis import strategies as st

from configs import UserError
from data_prep.shards import (
    ShardWriter,
    decode_npz,
    encode_npz,
    key_bases,
    read_index,
    read_sample,
    sample_key,
    write_index,
)

SAMPLES = {
    "r-000000000": {"main.video.mp4": b"v" * 700, "cam_2.face.npz": b"f", "meta.json": b"{}"},
    f"{'long' * 16}_abcdef-000010000": {f"{'view' * 9}.regions.npz": b"", "meta.json": b'{"a": 1}'},
}


def write(folder: Path) -> Path:
    folder.mkdir()
    writer = ShardWriter(folder / "shard.tar", folder / ".shard.tmp")
    for number, (key, members) in enumerate(SAMPLES.items()):
        row = {
            "recording": f"00{number}",
            "start": 10.0 * number,
            "end": 10.0 * number + 5,
            "split": None,
            "people": ["anna"],
        }
        writer.write(key, members, row)
    assert not (folder / "shard.tar").exists()
    writer.finish()
    writer.publish()
    write_index(folder, writer.rows)
    return folder


def test_every_sample_is_read_by_its_row(tmp_path: Path) -> None:
    folder = write(tmp_path / "out")
    index = read_index(folder)
    assert list(index.recording) == ["000", "001"]
    assert list(index.people[0]) == ["anna"]
    for row in (*[row for _, row in index.iterrows()], *index.itertuples(), *index.to_dict("records")):
        sample = read_sample(folder, row)
        key = sample.pop("__key__")
        assert sample == SAMPLES[key]


def test_plain_webdataset_reads_the_same(tmp_path: Path) -> None:
    folder = write(tmp_path / "out")
    samples = list(wds.WebDataset(str(folder / "shard.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == list(SAMPLES)
    for sample in samples:
        assert {name: data for name, data in sample.items() if not name.startswith("__")} == SAMPLES[sample["__key__"]]


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "1"), write(tmp_path / "2")
    assert (first / "shard.tar").read_bytes() == (second / "shard.tar").read_bytes()
    assert (first / "index.parquet").read_bytes() == (second / "index.parquet").read_bytes()


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no output of data_prep build"):
        read_index(tmp_path)
    (tmp_path / ".build").mkdir()
    with pytest.raises(UserError, match="not finished"):
        read_index(tmp_path)
    folder = write(tmp_path / "out")
    rows = read_index(folder)
    (folder / "shard.tar").write_bytes((folder / "shard.tar").read_bytes()[:600])
    for _, row in rows.iterrows():
        with pytest.raises(UserError, match=r"shard\.tar: sample .* cannot be read"):
            read_sample(folder, row)


def test_arrays_come_back_and_objects_do_not(tmp_path: Path) -> None:
    arrays = {"times": np.arange(3.0), "box": np.zeros((0, 4), np.float32)}
    back = decode_npz(encode_npz(arrays))
    assert {name: (array.dtype, array.tolist()) for name, array in back.items()} == {
        name: (array.dtype, array.tolist()) for name, array in arrays.items()
    }
    assert encode_npz(arrays) == encode_npz(arrays)
    with pytest.raises(ValueError, match="Object arrays"):
        encode_npz({"bad": np.array([{}], dtype=object)})
    buffer = io.BytesIO()
    np.savez(buffer, bad=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="Object arrays"):
        decode_npz(buffer.getvalue())


def test_keys() -> None:
    bases = key_bases(["a b", "a_b", "a.b", "only.one", "x" * 70])
    assert bases["a_b"] == "a_b"
    assert bases["a b"].startswith("a_b_")
    assert bases["a b"] != bases["a.b"]
    assert bases["only.one"] == "only_one"
    assert bases["x" * 70] == "x" * 64 + "_" + bases["x" * 70][-6:]
    assert sample_key("a_b", 3723.5) == "a_b-003723500"


@given(st.lists(st.text(max_size=80), unique=True, max_size=8))
def test_keys_are_unique_and_plain(names: list[str]) -> None:
    bases = key_bases(names)
    assert len(set(bases.values())) == len(names)
    assert all(c.isascii() and (c.isalnum() or c == "_") for base in bases.values() for c in base)
    assert bases == key_bases(names[::-1])
