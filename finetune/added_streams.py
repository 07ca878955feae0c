"""``--add_stream gaze.yaml``: streams that a release does not know, read beside its shards; the trunk stays frozen.

    gaze:                     # the stream's name; a file may declare several
      features: 2             # numbers a row; the rest as pretrain's model.streams (docs/model.md)
      cell_seconds: 0.1
      cells_per_token: 5
      data: gaze              # a folder of <recording>.npz, .parquet or .csv; or one table; relative to this file

A table has a column ``time`` (seconds on the recording's clock), where it is about people ``participant`` (a name) or
``person`` (the number in the shards), one column a number and, where it holds several recordings, ``recording``. An npz has
``times`` [row], ``values`` [row, number] and perhaps ``participant`` or ``person`` [row]. What a recording lacks is absent.

What is trained is a tokenizer a stream and its gates in every block, which start at zero: at step 0 everything that the
encoder says of its own streams is what it said without the new one.
"""

from __future__ import annotations

import difflib
import hashlib
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from configs import UserError
from finetune.labels import SCENE, people_of
from pretrain.clips import PERSON_STREAMS, Clip
from pretrain.config import StreamConfig
from pretrain.encoder import Encoder
from pretrain.objective import moments
from pretrain.pooling import RELATIONS
from pretrain.tokens import StreamTokenizer

SUFFIXES = (".npz", ".parquet", ".csv")
WHO = ("participant", "person")
TAKEN = ("video", "audio", *PERSON_STREAMS)  # what data_prep finds by itself
Rows = dict[str, np.ndarray]


@dataclass
class AddedStreams:
    """The streams of an ``--add_stream`` file: how each is told to the model, and its rows.

    rows: name -> recording -> "times" [row] (seconds on the recording's clock, growing), "values" float32 [row, number] with
    nan where there is none and, of people, "participant" (names) or "person" (numbers in the shards) [row].
    """

    streams: dict[str, StreamConfig]
    rows: dict[str, dict[str, Rows]]

    def put(self, clip: Clip) -> Clip:
        """Gives a clip the rows of its time. Who is not named in the shards becomes a person whom no other stream shows."""
        for name, recordings in self.rows.items():
            rows = recordings.get(clip.recording)
            if rows is None:
                continue
            first, last = np.searchsorted(rows["times"], [clip.start, clip.end])
            if first < last:
                mine = {key: values[first:last] for key, values in rows.items()}
                clip.streams[name] = {
                    "times": mine["times"] - clip.start,
                    "values": mine["values"],
                    **_persons(clip, mine),
                }
        return clip

    def digest(self) -> str:
        """Changes with any number."""
        found = hashlib.sha256(repr(self.streams).encode())
        for name, recordings in self.rows.items():
            for recording, rows in sorted(recordings.items()):
                found.update(f"{name}/{recording}".encode())
                for key, values in sorted(rows.items()):
                    found.update(key.encode() + np.ascontiguousarray(values).tobytes())
        return found.hexdigest()

    def notes(self, index: pd.DataFrame) -> list[str]:
        """What a user should know of streams and data (an index of shards). Raises UserError where nothing fits."""
        people = index.groupby("recording")["people"].agg(lambda lists: {name for names in lists for name in names})
        notes = []
        for name, recordings in self.rows.items():
            known = set(people.index) & set(recordings)
            if not known:
                theirs = min(recordings)
                near = (
                    difflib.get_close_matches(theirs, sorted(people.index), 1, cutoff=0.3) or sorted(people.index)[:1]
                )
                raise UserError(
                    f"--add_stream: {name} has no recording of the data: it says {theirs!r}, the data say {near[0]!r}"
                )
            if missing := sorted(set(people.index) - known):
                notes.append(f"{name}: {_some(missing)} of {len(people)} recordings have none; it is absent there")
            named = {r: set(recordings[r]["participant"]) - {""} for r in known if "participant" in recordings[r]}
            if strange := sorted({who for r, names in named.items() for who in names - people[r]}):
                notes.append(f"{name}: the shards do not name {_some(strange)}: people whom no other stream shows")
        return notes


def _some(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def _persons(clip: Clip, rows: Rows) -> Rows:
    """The person number of each row, as "person" [row]; nothing for a stream of the scene."""
    if "person" in rows or "participant" not in rows:
        return {"person": rows["person"]} if "person" in rows else {}
    numbers = people_of({"people": clip.people})
    following = 1 + max((person["id"] for person in clip.people), default=SCENE)
    names, which = np.unique(rows["participant"], return_inverse=True)
    for name in names.tolist():
        if name and name not in numbers:
            numbers[name], following = following, following + 1
    return {"person": np.array([numbers.get(name, SCENE) for name in names.tolist()], np.int64)[which]}


def read_added(file: Path) -> AddedStreams:
    """The streams that a YAML file declares, with their data. Raises UserError; a bad file of a folder is left out, in a line."""
    import yaml

    if not file.is_file():
        raise UserError(f"--add_stream {file}: no such file")
    try:
        given = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeError) as error:
        raise UserError(f"{file}: not a readable YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict) or not given:
        raise UserError(f"{file}: expected NAME: {{features, cell_seconds, cells_per_token, data}}")
    declared = {str(name): _declared(file, str(name), settings) for name, settings in given.items()}
    rows = {name: _read_all(file.parent / data, name, stream.features) for name, (stream, data) in declared.items()}
    return AddedStreams({name: stream for name, (stream, _) in declared.items()}, rows)


def _declared(file: Path, name: str, given: Any) -> tuple[StreamConfig, str]:
    """What a file says of one stream, and where its data are."""
    known = [*(field.name for field in fields(StreamConfig)), "data"]
    if not name.isidentifier() or name in TAKEN:
        why = (
            "is what data_prep finds by itself" if name in TAKEN else "has other characters than letters, digits and _"
        )
        raise UserError(f"{file}: a stream cannot be called {name!r}: that {why}")
    if not isinstance(given, dict) or set(given) != set(known):
        has = ", ".join(map(str, given)) if isinstance(given, dict) else repr(given)
        raise UserError(f"{file}: {name} needs {', '.join(known)}; it has {has}")
    features, seconds, cells = given["features"], given["cell_seconds"], given["cells_per_token"]
    numbers = isinstance(features, int) and isinstance(cells, int) and isinstance(seconds, (int, float))
    if not numbers or min(features, cells) < 1 or seconds <= 0:
        raise UserError(
            f"{file}: {name}: features and cells_per_token are whole numbers, cell_seconds seconds; all above 0"
        )
    return StreamConfig(features, float(seconds), cells), str(given["data"])


def _read_all(data: Path, name: str, features: int) -> dict[str, Rows]:
    """The rows of every recording, out of a table or of the files of a folder."""
    if data.is_file():
        table = _read_table(data)
        if "recording" not in table:
            raise UserError(f"{data}: a table of several recordings needs a column recording")
        parts = table.drop(columns="recording").groupby(table["recording"].astype(str), sort=False)
        try:
            return {str(recording): _of_table(part, features) for recording, part in parts}
        except ValueError as error:
            raise UserError(f"{data}: {error}") from None
    if not data.is_dir():
        raise UserError(f"{data}: no such file or folder, which should hold {name}")
    found: dict[str, Rows] = {}
    for file in sorted(path for path in data.rglob("*") if path.suffix in SUFFIXES):
        try:
            rows = _of_npz(file, features) if file.suffix == ".npz" else _of_table(_read_table(file), features)
            found[file.relative_to(data).with_suffix("").as_posix()] = rows
        except (UserError, ValueError) as error:
            print(f"{name}: left out, {str(error).removeprefix(f'{file}: ')} ({file})", file=sys.stderr)
    if not found:
        raise UserError(f"{data}: no file <recording>{' or '.join(SUFFIXES)} with rows of {name}")
    return found


def _read_table(file: Path) -> pd.DataFrame:
    try:
        if file.suffix == ".parquet":
            return pd.read_parquet(file)
        return pd.read_csv(file, dtype={"recording": str, "participant": str}, skipinitialspace=True)
    except (ValueError, OSError) as error:
        raise UserError(f"{file}: not a readable table: {' '.join(str(error).split())}") from None


def _of_table(table: pd.DataFrame, features: int) -> Rows:
    """The rows of one recording. Raises ValueError."""
    if "time" not in table:
        raise ValueError(f"no column time; there are {', '.join(map(str, table.columns))}")
    who = {name: table[name].to_numpy() for name in WHO if name in table}
    numbers = table.drop(columns=["time", *who])
    return _rows(table["time"].to_numpy(), numbers.to_numpy(), who, features, ", ".join(map(str, numbers.columns)))


def _of_npz(file: Path, features: int) -> Rows:
    """The same out of an npz. Raises ValueError."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            given = {name: arrays[name] for name in ("times", "values", *WHO) if name in arrays}
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"not a readable npz without Python objects: {error}") from None
    if not {"times", "values"} <= set(given) or given["values"].ndim != 2:
        raise ValueError("needs times [row] and values [row, number]")
    who = {name: given[name] for name in WHO if name in given}
    if any(len(column) != len(given["times"]) for column in (given["values"], *who.values())):
        raise ValueError("times, values and whose they are differ in length")
    return _rows(given["times"], given["values"], who, features, "values")


def _rows(times: np.ndarray, values: np.ndarray, who: Rows, features: int, names: str) -> Rows:
    """Rows in order of time; those without a time are left out, what is no finite number is nan. Raises ValueError."""
    if values.shape[1] != features:
        raise ValueError(f"{values.shape[1]} numbers a row ({names}), not the {features} that features says")
    try:
        times, values = times.astype(np.float64), values.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"time and numbers ({names}) must be numbers: {error}") from None
    order = np.argsort(times, kind="stable")
    order = order[np.isfinite(times[order])]
    rows = {"times": times[order], "values": np.where(np.isfinite(values), values, np.nan)[order]}
    if "participant" in who:
        absent = pd.isna(who["participant"])
        rows["participant"] = np.where(absent, "", who["participant"].astype(str))[order]
    elif "person" in who:
        numbers = np.where(pd.isna(who["person"]), SCENE, who["person"]).astype(np.int64)
        rows["person"] = numbers[order]
    return rows


class AddedTokenizer(StreamTokenizer):
    """The tokenizer of a stream that the release does not know. ``first``: its state before training."""

    first: dict[str, Tensor]

    def keep(self) -> None:
        """Takes the present state for the one before training."""
        self.first = {name: value.clone() for name, value in self.state_dict().items()}


def add(encoder: Encoder, streams: Mapping[str, StreamConfig]) -> None:
    """Lets an encoder read more streams: fresh tokenizers, always the same, and closed gates. Raises UserError."""
    if not isinstance(encoder, Encoder):
        raise UserError("--add_stream: a Video Swin reads video alone; take a release or a VideoMAE")
    if both := set(streams) & set(encoder.modalities):
        raise UserError(f"--add_stream: this encoder knows {', '.join(sorted(both))} already: take another name")
    try:
        encoder.config = replace(encoder.config, streams={**encoder.config.streams, **streams})
    except ValueError as error:
        raise UserError(f"--add_stream: {error}") from None
    encoder.modalities = encoder.config.modalities
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, stream in streams.items():
            tokenizer = AddedTokenizer(stream, encoder.config.dim).to(encoder.device)
            tokenizer.keep()
            encoder.streams[name] = tokenizer
    for reading in encoder.trunk.readings():
        for source in _sources(streams):
            reading.gates[source] = nn.Parameter(torch.zeros(reading.heads, device=encoder.device))


def _sources(names: Collection[str]) -> set[str]:
    return {f"{name}_{relation}" for name in names for relation in RELATIONS}


def tokenizers(encoder: Encoder) -> dict[str, AddedTokenizer]:
    """The tokenizers of the streams that ``add`` gave an encoder."""
    streams = encoder.streams.items() if isinstance(encoder, Encoder) else ()  # a Video Swin has none
    return {name: module for name, module in streams if isinstance(module, AddedTokenizer)}


def added(encoder: Encoder) -> dict[str, StreamConfig]:
    """The streams that ``add`` gave an encoder."""
    return {name: encoder.config.streams[name] for name in tokenizers(encoder)}


def stream_state(encoder: Encoder) -> dict[str, Tensor]:
    """Tokenizers, with mean and deviation of the numbers, and gates of added streams, by their names in the encoder."""
    names = added(encoder)
    prefixes, gates = tuple(f"streams.{name}." for name in names), tuple(f".gates.{s}" for s in _sources(names))
    return {
        n: v
        for n, v in encoder.state_dict(keep_vars=True).items()
        if names and (n.startswith(prefixes) or n.endswith(gates))
    }


def stream_weights(encoder: Encoder) -> dict[str, nn.Parameter]:
    """What of ``stream_state`` is learnt."""
    return {name: value for name, value in stream_state(encoder).items() if isinstance(value, nn.Parameter)}


def told(encoder: Encoder, streams: AddedStreams | None) -> tuple[object, ...]:
    """What features depend on of added streams: their rows, and how the numbers are standardised."""
    statistics = [(name, one.mean.tolist(), one.std.tolist()) for name, one in tokenizers(encoder).items()]
    return () if streams is None else (streams.digest(), *statistics)


def fit_statistics(encoder: Encoder, streams: AddedStreams, recordings: Collection[str]) -> None:
    """Takes mean and deviation of the numbers from the rows of some recordings. Raises UserError where they have none."""
    for name, tokenizer in tokenizers(encoder).items():
        of_recording = streams.rows[name]
        values = [of_recording[r]["values"] for r in sorted(recordings) if r in of_recording]
        if not sum(map(len, values)):
            raise UserError(f"--add_stream: no recording to train on has a row of {name}")
        mean, deviation = moments(np.concatenate(values).astype(np.float64))
        tokenizer.mean.copy_(torch.from_numpy(mean))
        tokenizer.std.copy_(torch.from_numpy(deviation))
        tokenizer.keep()


@torch.no_grad()
def restart(encoder: Encoder) -> None:
    """Added streams are as they were before training: the next fold must not know what the last one learnt."""
    for tokenizer in tokenizers(encoder).values():
        tokenizer.load_state_dict(tokenizer.first)
    for name, weight in stream_weights(encoder).items():
        if ".gates." in name:
            weight.zero_()
