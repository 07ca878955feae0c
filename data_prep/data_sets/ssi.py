"""Feature streams of the SSI framework (X.stream, X.stream~) -> the npz streams that ``--add_stream`` reads.

X.stream is a header in XML: rate, width, number format, and the chunks of rows. X.stream~ holds the numbers: it is the data, not a
backup of the header. The rate differs between sets (25, 30, 40 a second) and is read, never assumed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

import numpy as np
import yaml

from data_prep.data_sets.multimediate import Session
from data_prep.draft import Draft

CELL_SECONDS, CELLS_PER_TOKEN = 0.1, 5
"""Of the declaration: rates of 25, 30 and 40 a second all put two rows or more into a tenth of a second."""
ABOUT_TIME = {"openface2": 3}
"""Columns at the start that tell frame, zero and time and nothing of the person."""
ABSENT = {"openpose": -1.0}
"""The number that stands for a point that was not found."""


class StreamError(ValueError):
    """A stream that cannot be read: why."""


class Chunk(NamedTuple):
    """Rows that follow one another: from when, in seconds; where in the data, in bytes; how many."""

    start: float
    byte: int
    rows: int


@dataclass
class Header:
    """rate: rows a second; dim: numbers a row."""

    rate: float
    dim: int
    chunks: list[Chunk]


def read_stream(header: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """times float64 [row] (seconds), values float32 [row, dim], and the rate. Raises StreamError."""
    told = read_header(header)
    data = header.with_name(f"{header.name}~")
    if not data.is_file():
        raise StreamError(f"{data.name} is missing: it holds the numbers")
    values = np.fromfile(data, "<f4")
    if len(values) % told.dim:
        raise StreamError(f"{data.name} is no whole number of rows of {told.dim} numbers, as the header says")
    values = values.reshape(-1, told.dim)
    times, rows = [], []
    for chunk in told.chunks or [Chunk(0.0, 0, len(values))]:
        first = chunk.byte // (4 * told.dim)
        part = values[first : first + chunk.rows]
        rows.append(part)
        times.append(chunk.start + np.arange(len(part)) / told.rate)
    return np.concatenate(times), np.concatenate(rows), told.rate


def read_header(path: Path) -> Header:
    """What X.stream says. Raises StreamError where it is no header of binary float32 numbers.

    Entities, with which a small file can be made to fill the memory or to read others, are refused.
    """
    info: dict[str, str] = {}
    chunks: list[dict[str, str]] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag == "info":
            info.update(attributes)
        elif tag == "chunk":
            chunks.append(attributes)

    def refuse(*_: object) -> None:
        raise StreamError("declares an entity, which no SSI header does")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except (expat.ExpatError, OSError) as error:
        raise StreamError(f"no SSI header ({error})") from None
    form = tuple(info.get(name, "").upper() for name in ("ftype", "type", "byte"))
    if form != ("BINARY", "FLOAT", "4"):
        raise StreamError(f"ftype, type and byte are {', '.join(map(repr, form))}, not BINARY, FLOAT, 4")
    try:
        rate, dim = float(info["sr"]), int(info["dim"])
        found = [Chunk(float(one["from"]), int(one["byte"]), int(one["num"])) for one in chunks]
    except (KeyError, ValueError) as error:
        raise StreamError(f"sr, dim and chunks cannot be read ({error})") from None
    if not (rate > 0 and dim > 0) or any(chunk.byte < 0 or chunk.rows < 0 for chunk in found):
        raise StreamError(f"sr {rate:g} and dim {dim} must be above 0, chunks not below it")
    return Header(rate, dim, found)


def write_streams(sessions: Sequence[Session], out: Path, wanted: Sequence[str], draft: Draft) -> None:
    """out/<stream>/<recording>.npz (times, values, participant) of every session, and out/streams.yaml, which declares them.

    wanted: names of streams, as audio_egemapsv2 for expert.audio.egemapsv2.stream; none = all. A file that cannot be read, or that
    is of another width than the stream's first, is left out with a remark.
    """
    declared: dict[str, dict[str, object]] = {}
    for session in sessions:
        by_stream: dict[str, list[tuple[str, Path]]] = {}
        for (role, rest), file in sorted(session.files.items()):
            if role in session.roles and rest.endswith(".stream"):
                by_stream.setdefault(stream_name(rest), []).append((role, file))
        for name, files in by_stream.items():
            if wanted and name not in wanted:
                continue
            parts = []
            for role, file in files:
                try:
                    times, values, _ = read_stream(file)
                except StreamError as error:
                    draft.remark("streams cannot be read", f"{session.name}/{file.name}: {error}")
                    continue
                values = known(name, values)
                features = declared.setdefault(name, _declaration(name, values.shape[1]))["features"]
                if values.shape[1] != features:
                    told = f"{session.name}/{file.name} ({values.shape[1]}, not {features})"
                    draft.remark("streams of another width than the first of their name are left out", told)
                    continue
                parts.append((times, values, np.full(len(times), session.participant(role))))
            if parts:
                _write(out / name / f"{session.name}.npz", parts)
    for name in wanted:
        if name not in declared:
            draft.remark("streams that were asked for are nowhere", name)
    if declared:
        out.mkdir(parents=True, exist_ok=True)
        temporary = out / ".streams.tmp.yaml"
        temporary.write_text(yaml.safe_dump(declared, sort_keys=False))
        temporary.replace(out / "streams.yaml")


def stream_name(rest: str) -> str:
    """audio.egemapsv2.stream -> audio_egemapsv2"""
    return re.sub(r"\W", "_", rest.removesuffix(".stream"))


def known(name: str, values: np.ndarray) -> np.ndarray:
    """Rows [row, number] without columns about time, and with nan where nothing was found."""
    values = values[:, ABOUT_TIME.get(name, 0) :]
    return np.where(values == ABSENT[name], np.nan, values).astype(np.float32) if name in ABSENT else values


def _declaration(name: str, features: int) -> dict[str, object]:
    return {
        "features": features,
        "cell_seconds": CELL_SECONDS,
        "cells_per_token": CELLS_PER_TOKEN,
        "data": name,
    }


def _write(path: Path, parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    times, values, participant = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(times, kind="stable")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp.npz")
    np.savez(temporary, times=times[order], values=values[order], participant=participant[order])
    temporary.replace(path)
