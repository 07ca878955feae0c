"""``kinesic data_prep check OUT``: is everything in a folder of shards as the format says? Each fault is named.

The index against the shards byte for byte (ranges, lengths, checksums, members), meta.json against the index, and each
member against meta.json and the clip's length (data_prep/check_members.py). Nothing is written.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import Progress

from data_prep.check_members import check_member
from data_prep.config import CheckConfig
from data_prep.decode import TOLERANCE
from data_prep.pool import Pool, Report
from data_prep.shards import INDEX, SCHEMA, ShardError, checksum, index_schema, read_index, unpack

META = ("schema", "key", "recording", "start", "end", "split", "people", "extra", "views", "versions")
Row = dict[str, Any]
VIEW = ("source", "sha256", "offset", "drift", "confidence", "streams")
SILENCE = 300.0
"""Seconds after which a worker that has finished no sample is taken for hanging."""


class Fault(NamedTuple):
    """What is wrong, and where: empty where all of a shard, or all of a sample, is meant."""

    shard: str
    key: str
    member: str
    what: str


@dataclass(frozen=True)
class _Shard:
    """A shard to check, with its rows of the index in their order."""

    path: Path
    rows: tuple[Row, ...]


def check(config: CheckConfig) -> int:
    """Runs the command: a line a fault; returns 0, or 3 where there is one. Raises UserError where there is no index."""
    index = read_index(config.out)
    rows: list[Row] = index.astype(object).where(index.notna(), None).to_dict("records")  # pyrefly: ignore
    faults = [Fault(INDEX, "", "", f"no column {column}") for column in index_schema().names if column not in index]
    if not faults:
        faults += _index_faults(config.out, rows)
        faults += _shard_faults(_by_shard(config.out, rows), config.workers or len(os.sched_getaffinity(0)))
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for fault in sorted(faults):
        console.print(f"{' '.join(filter(None, fault[:3]))}: {fault.what}")
    ending = f"{len(faults)} faults" if faults else "no fault"
    console.print(f"{config.out}: {len(rows)} samples, {ending}")
    return 3 if faults else 0


def _by_shard(out: Path, rows: list[Row]) -> list[_Shard]:
    shards: dict[str, list[Row]] = {}
    for row in rows:
        shards.setdefault(row["shard"], []).append(row)
    return [_Shard(out / name, tuple(held)) for name, held in shards.items()]


def _index_faults(out: Path, rows: list[Row]) -> Iterator[Fault]:
    """Keys that are not unique, clips of a recording that overlap, shards that the index does not know."""
    for key, count in Counter(row["key"] for row in rows).items():
        if count > 1:
            yield Fault(INDEX, key, "", f"{count} samples bear this key")
    for path in sorted({path.name for path in out.glob("*.tar")} - {row["shard"] for row in rows}):
        yield Fault(path, "", "", f"not in {INDEX}")
    for before, after in pairwise(sorted(rows, key=lambda row: (row["recording"], row["start"]))):
        if before["recording"] == after["recording"] and after["start"] < before["end"] - TOLERANCE:
            what = f"begins at {after['start']:g} s, before {before['key']} ends ({before['end']:g} s)"
            yield Fault(after["shard"], after["key"], "", what)


def _shard_faults(shards: list[_Shard], workers: int) -> list[Fault]:
    """Checks the shards in several processes: what a damaged file does to a decoder costs that shard only."""
    faults: list[Fault] = []
    progress = Progress(console=Console(stderr=True))
    with Pool(_check_shard, workers, SILENCE, ["data_prep.check"]) as pool, progress:
        bar = progress.add_task("checking", total=sum(len(shard.rows) for shard in shards))
        for news in pool.run(shards):
            if news.kind == "note":
                progress.advance(bar)
            elif news.kind == "done":
                faults += news.value
            else:
                faults.append(Fault(news.task.path.name, "", "", f"cannot be checked: {news.value}"))
    return faults


def _check_shard(shard: _Shard, report: Report) -> list[Fault]:
    """The faults of one shard: its samples one by one, and what lies between and behind them."""
    faults = []

    def add(key: str, member: str, what: str) -> None:
        faults.append(Fault(shard.path.name, key, member, what))

    try:
        with shard.path.open("rb") as file:
            size, end = shard.path.stat().st_size, 0
            for row in sorted(shard.rows, key=lambda row: row["offset"]):
                if row["offset"] != end:
                    add(row["key"], "", f"begins at byte {row['offset']}, the sample before it ends at {end}")
                end = row["offset"] + row["length"]
                if end > size:
                    add(row["key"], "", f"ends at byte {end}, the shard at {size}")
                else:
                    file.seek(row["offset"])
                    for member, what in _sample_faults(file.read(row["length"]), row):
                        add(row["key"], member, what)
                report(1)
            file.seek(end)
            if any(file.read()):
                add("", "", f"holds something behind its last sample (byte {end}) that is not in {INDEX}")
    except OSError as error:
        add("", "", error.strerror or str(error))
    return faults


def _sample_faults(data: bytes, row: Row) -> Iterator[tuple[str, str]]:
    """(member, what is wrong) of the bytes of one sample."""
    try:
        members = unpack(data, row["key"])
    except ShardError as error:
        yield "", f"cannot be read ({error})"
        return
    if checksum(members) != row["sha256"]:
        yield "", f"its contents have another sha256 than {INDEX} says"
    for name in sorted(set(row["members"]) ^ set(members)):
        yield name, f"in {INDEX} and not in the shard" if name in row["members"] else f"not in {INDEX}"
    try:
        meta = json.loads(members.pop("meta.json"))
    except KeyError:
        yield "meta.json", "missing"
        return
    except ValueError as error:
        yield "meta.json", f"no JSON ({error})"
        return
    if absent := [name for name in META if name not in meta]:
        yield "meta.json", f"lacks {', '.join(absent)}"
        return
    yield from (("meta.json", what) for what in _meta_faults(meta, row))
    streams = {}
    for view, about in meta["views"].items():
        if absent := [name for name in VIEW if name not in about]:
            yield "meta.json", f"view {view} lacks {', '.join(absent)}"
        streams |= {f"{view}.{stream}": facts for stream, facts in about.get("streams", {}).items()}
    length = meta["end"] - meta["start"]
    people = {person["id"] for person in meta["people"]}
    for name, content in members.items():
        facts = streams.pop(name.rpartition(".")[0], None)
        if facts is None and name.count(".") > 1:
            yield name, "meta.json does not know it"
        yield from ((name, what) for what in check_member(name, content, facts or {}, length, people))
    for name in streams:
        yield name, "in meta.json and not in the shard"


def _meta_faults(meta: dict[str, Any], row: Row) -> Iterator[str]:
    """What is wrong with the facts of meta.json about the clip as a whole."""
    if meta["schema"] != SCHEMA:
        yield f"schema is {meta['schema']}, this version reads {SCHEMA}"
    for name in ("key", "recording", "start", "end", "split"):
        if name in row and meta[name] != row[name]:
            yield f"{name} is {meta[name]!r}, in {INDEX} {row[name]!r}"
    if meta["end"] <= meta["start"]:
        yield f"end ({meta['end']:g} s) is not after start ({meta['start']:g} s)"
    ids = [person["id"] for person in meta["people"]]
    if len(set(ids)) < len(ids) or not all(isinstance(number, int) and number >= 0 for number in ids):
        yield f"person ids are not different numbers from 0: {ids}"
    named = [person.get("participant") or str(person["id"]) for person in meta["people"]]
    if "people" in row and named != list(row["people"]):
        yield f"people are {named}, in {INDEX} {list(row['people'])}"
