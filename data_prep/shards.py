"""Shards: how samples are named, written, indexed and read.

A shard is a WebDataset tar; a sample in it is one clip with all its views (members ``<view>.<member>`` and ``meta.json``).
The same samples give the same bytes: times, owners and modes are fixed. ``index.parquet`` beside the shards has a row a
sample with its byte range, so that any sample is read without scanning.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from configs import UserError

if TYPE_CHECKING:
    import pandas
    import pyarrow

SCHEMA = 1
INDEX = "index.parquet"
QUALITY = ("sharpness", "black", "frozen", "clipping", "silence", "speech", "faces")
"""Columns of the index: data_prep/quality.py says what they are."""
_LONGEST_NAME = 64


class ShardError(ValueError):
    """Bytes that are not the sample that they should be."""


def key_bases(recordings: Iterable[str]) -> dict[str, str]:
    """The first part of the keys of each recording: its name with characters outside [A-Za-z0-9_] replaced by `_`.

    Where two recordings meet in one name, and where a name is cut at 64 characters, 6 hexadecimal digits of the sha256
    of the original are added. The result depends on the set of names only, not on their order.
    """
    plain = {name: re.sub(r"[^A-Za-z0-9_]", "_", name) for name in recordings}
    counts: dict[str, int] = {}
    for base in plain.values():
        counts[base] = counts.get(base, 0) + 1
    return {
        name: base
        if len(base) <= _LONGEST_NAME and (counts[base] == 1 or base == name)
        else f"{base[:_LONGEST_NAME]}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"
        for name, base in plain.items()
    }


def sample_key(base: str, start: float) -> str:
    """The key of a clip: ``<recording>-<start in milliseconds, 9 digits>``."""
    return f"{base}-{round(start * 1000):09d}"


def encode_npz(members: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as the bytes of an .npz file; the same arrays give the same bytes (numpy dates its members 1980)."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **members)  # pyrefly: ignore[bad-argument-type]
    return buffer.getvalue()


def decode_npz(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of an .npz member. Raises ValueError where it holds Python objects."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def checksum(members: Mapping[str, bytes]) -> str:
    """sha256 over names and contents of a sample's members."""
    digest = hashlib.sha256()
    for name in sorted(members):
        digest.update(name.encode() + b"\0" + members[name])
    return digest.hexdigest()


def unpack(data: bytes, key: str) -> dict[str, bytes]:
    """The members of a sample out of its bytes in a shard. Raises ShardError where they are not that sample's."""
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                name, _, suffix = member.name.partition(".")
                content = tar.extractfile(member)
                if name != key or content is None:
                    raise ShardError(f"member {member.name}")
                members[suffix] = content.read()
    except (tarfile.TarError, OSError, EOFError, UnicodeError) as error:
        raise ShardError(str(error)) from None
    return members


class ShardWriter:
    """Writes one shard under a temporary name; ``publish`` gives it its own."""

    def __init__(self, path: Path, temporary: Path) -> None:
        from webdataset import TarWriter  # here, because it imports torch where that is installed

        self.path, self._temporary = path, temporary
        self._file = temporary.open("wb")
        # PAX: long names of recordings and views do not fit USTAR's 100 characters
        self._tar = TarWriter(self._file, user="", group="", mode=0o444, encoder=False, mtime=0, format="PAX_FORMAT")
        self.rows: list[dict[str, Any]] = []

    def write(self, key: str, members: Mapping[str, bytes], row: Mapping[str, Any]) -> None:
        """Adds a sample; ``row`` becomes its row of the index, completed by shard, byte range and checksum."""
        offset = self._tar.tarstream.offset
        self._tar.write({"__key__": key, **members})
        self.rows.append(
            {
                "key": key,
                "shard": self.path.name,
                **row,
                "offset": offset,
                "length": self._tar.tarstream.offset - offset,
                "sha256": checksum(members),
                "members": sorted(members),
            }
        )

    def finish(self) -> None:
        """Ends the archive; it keeps its temporary name."""
        if not self._file.closed:
            self._tar.close()
            self._file.close()

    def publish(self) -> int:
        """Gives the finished shard its name; returns its size in bytes."""
        self.finish()
        size = self._temporary.stat().st_size
        self._temporary.replace(self.path)
        return size

    def discard(self) -> None:
        """Removes what has only its temporary name."""
        # else it tries again, when Python ends, to write what the disk had no room for
        self._tar.tarstream.fileobj.closed = True  # pyrefly: ignore[missing-attribute]
        with contextlib.suppress(OSError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)


def index_schema() -> pyarrow.Schema:
    """The columns of index.parquet."""
    import pyarrow as pa

    return pa.schema(
        [
            ("key", pa.string()),
            ("shard", pa.string()),
            ("recording", pa.string()),
            ("start", pa.float64()),
            ("end", pa.float64()),
            ("split", pa.string()),
            ("people", pa.list_(pa.string())),
            *((name, pa.float64()) for name in QUALITY),
            ("offset", pa.int64()),
            ("length", pa.int64()),
            ("sha256", pa.string()),
            ("members", pa.list_(pa.string())),
        ]
    )


def write_index(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Writes index.parquet: a row a sample, in the order of the shards."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    temporary = folder / f".{INDEX}.tmp"
    pq.write_table(pa.Table.from_pylist(rows, schema=index_schema()), temporary, compression="zstd")
    temporary.replace(folder / INDEX)


def read_index(folder: Path) -> pandas.DataFrame:
    """The table of a folder's samples: a row a sample, in the order of the shards.

    Columns: key, shard (file name), recording, start, end (seconds on the recording's clock), split, people (a string
    a person: the participant, else the person's id), those of QUALITY (null where not measured), offset and length (bytes
    in the shard), sha256 (over names and contents of the members), members (names). Raises UserError where the folder has
    no index, or a damaged one.
    """
    import pandas
    import pyarrow

    path = Path(folder) / INDEX
    if not path.is_file():
        if (Path(folder) / ".build").is_dir():
            raise UserError(f"{folder}: the build is not finished (no {INDEX}); run the same data_prep build again")
        raise UserError(f"{folder}: no {INDEX}, so this is no output of data_prep build")
    try:
        return pandas.read_parquet(path)
    except (pyarrow.ArrowException, OSError) as error:
        line = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: cannot be read ({line}); run the same data_prep build again") from None


def read_sample(folder: Path, row: Any) -> dict[str, bytes]:
    """One sample by its row of the index: {"__key__": key, "<view>.video.mp4": bytes, ..., "meta.json": bytes}.

    ``row`` is a row of ``read_index`` (Series, dict or named tuple). Raises UserError where the shard does not hold it
    whole: the checksum is compared (1 ms a megabyte; decoding it takes a hundred times as long).
    """
    fields = row._asdict() if hasattr(row, "_asdict") else row
    path, key = Path(folder) / fields["shard"], fields["key"]
    try:
        with path.open("rb") as file:
            file.seek(int(fields["offset"]))
            sample = unpack(file.read(int(fields["length"])), key)
        if checksum(sample) != fields["sha256"]:
            raise ShardError("its contents have another sha256 than the index says")
    except (OSError, ShardError) as error:
        raise UserError(f"{path}: sample {key} cannot be read ({error}); run the same data_prep build again") from None
    return {"__key__": key, **sample}  # pyrefly: ignore[bad-return]  (the key is text, as in WebDataset)


def open_sample(folder: Path, row: Any) -> Iterator[tuple[str, IO[bytes]]]:
    """The members of a sample one after another: (name, file to read from). What is not read is not loaded.

    ``row`` is a dict of a row of ``read_index``. Raises UserError where the shard does not hold the sample.
    """
    path, key, end = Path(folder) / row["shard"], row["key"], int(row["offset"]) + int(row["length"])
    try:
        with path.open("rb") as file:
            file.seek(int(row["offset"]))
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while tar.offset < end and (member := tar.next()) is not None:
                    name, _, suffix = member.name.partition(".")
                    content = tar.extractfile(member)
                    if name != key or content is None:
                        raise tarfile.ReadError(f"member {member.name}")
                    yield suffix, content
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{path}: sample {key} cannot be read ({error}); run the same data_prep build again") from None
