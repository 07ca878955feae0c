"""What a build has found out about files, so that it is not found out again: a line each in files below OUT/.build."""

from __future__ import annotations

import json
from dataclasses import asdict, astuple
from fractions import Fraction
from pathlib import Path

from data_prep.config import BuildConfig
from data_prep.decode import Probe, UnreadableError, check
from data_prep.sync import METHOD, Clock, Pair
from data_prep.units import STATE, workplace

PROBES, CLOCKS = "probes.jsonl", "clocks.jsonl"


class ProbeMemory:
    """Probes by path, size and time of change: a line each in a file that an interrupted run may leave cut short.

    Everybody reads what all tasks of an array have written, and writes to a file of its own.
    """

    def __init__(self, config: BuildConfig) -> None:
        self._path = workplace(config) / PROBES
        self._known: dict[tuple, Probe | tuple[str, str]] = {}
        for path in sorted((config.out / STATE).rglob(PROBES)):
            self._read(path)

    def _read(self, path: Path) -> None:
        for line in path.read_text().splitlines():
            try:
                *key, value = json.loads(line)
                if isinstance(value, dict):
                    value["zero"], value["pixel_aspect"] = Fraction(value["zero"]), Fraction(value["pixel_aspect"])
                    self._known[tuple(key)] = Probe(**value)
                else:
                    self._known[tuple(key)] = (value[0], value[1])
            except (ValueError, TypeError, KeyError, IndexError):
                continue  # cut short, or of another version

    def get(self, path: Path) -> Probe | tuple[str, str] | None:
        """What is known of a file as it is now."""
        try:
            check(path)
        except UnreadableError as error:
            return error.args
        return self._known.get(self._key(path))

    def put(self, path: Path, probed: Probe | tuple[str, str]) -> None:
        """Remembers what was found."""
        if isinstance(probed, Probe):
            value = asdict(probed) | {"zero": str(probed.zero), "pixel_aspect": str(probed.pixel_aspect)}
        else:
            value = list(probed)
        with self._path.open("a") as file:
            file.write("\n" + json.dumps([*self._key(path), value]))

    @staticmethod
    def _key(path: Path) -> tuple:
        stat = path.stat()
        # the last change of the file or of the rights to it; unlike the time of its content, nobody sets it back
        return str(path.absolute()), stat.st_size, stat.st_ctime_ns


class ClockMemory:
    """Measured clocks by the files' paths, sizes and times of change; an interrupted run may leave a line cut short.

    Everybody reads what all tasks of an array have written, and writes to a file of its own.
    """

    def __init__(self, config: BuildConfig) -> None:
        self._path = workplace(config) / CLOCKS
        self._known: dict[str, Clock | str] = {}
        for path in sorted((config.out / STATE).rglob(CLOCKS)):
            for line in path.read_text().splitlines():
                try:
                    key, value = json.loads(line)
                    self._known[json.dumps(key)] = value if isinstance(value, str) else Clock(*value)
                except (ValueError, TypeError):
                    continue  # cut short

    def get(self, one: Pair) -> Clock | str | None:
        """What is known of two views whose files are as they were."""
        return self._known.get(json.dumps(self._key(one)))

    def put(self, one: Pair, clock: Clock | str) -> None:
        """Remembers what was found."""
        value = clock if isinstance(clock, str) else list(astuple(clock))
        with self._path.open("a") as file:
            file.write("\n" + json.dumps([self._key(one), value]))

    @staticmethod
    def _key(one: Pair) -> list:
        views = [[(file.source.path, file.offset) for file in files] for files in (one.reference, one.view)]
        stats = [[(path, path.stat(), offset) for path, offset in files] for files in views]
        return [
            METHOD,
            *([[str(p.absolute()), s.st_size, s.st_mtime_ns, offset] for p, s, offset in files] for files in stats),
        ]
