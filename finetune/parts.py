"""A table made of many clips that may be stopped at any moment: what ``extract`` and ``predict`` have in common.

OUT.parts/about.json       what the rows depend on; parts of anything else are thrown away
OUT.parts/000012.parquet   the rows of PART_BATCHES batches of clips
OUT                        the rows of all parts

Each is written under another name and renamed when it is whole. Started again, what is there is not computed again, and
batches begin at the same clips as without the stop: the same rows come out. No more than a part is ever in memory.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import Progress

from configs import UserError, plain
from finetune.added_streams import AddedStreams
from finetune.features import batches, readable
from pretrain.clips import Clip

PART_BATCHES = 8
READ = b"clips read"  # in a part's metadata: how many clips its rows are of


@dataclass(frozen=True)
class Parts:
    """The rows of some clips on their way to ``out``. rows_of: clips that hold one of the streams -> columns of ``schema``."""

    out: Path
    shards: Path
    index: pd.DataFrame
    streams: tuple[str, ...]
    rows_of: Callable[[list[Clip]], pd.DataFrame]
    schema: pa.Schema
    batch_size: int
    workers: int
    added: AddedStreams | None = None

    @property
    def folder(self) -> Path:
        """Where the parts lie until ``out`` is whole."""
        return self.out.with_name(f"{self.out.name}.parts")

    @property
    def spans(self) -> list[range]:
        """Part by part: its rows of ``index``."""
        size = PART_BATCHES * self.batch_size
        return [range(first, min(first + size, len(self.index))) for first in range(0, len(self.index), size)]

    @property
    def files(self) -> list[Path]:
        """Part by part: its file."""
        return [self.folder / f"{number:06d}.parquet" for number in range(len(self.spans))]

    def write(self, about: Mapping[str, Any], title: str) -> None:
        """Writes the parts that are not there. about: what the rows depend on beside clips and batch size."""
        self._open(dict(about) | {"streams": self.streams, "batch_size": self.batch_size})
        missing = [number for number, file in enumerate(self.files) if clips_read(file) is None]
        rows = [row for number in missing for row in self.spans[number]]
        if len(missing) < len(self.files):
            print(f"{self.folder}: {len(self.files) - len(missing)} of {len(self.files)} parts are there; going on")
        # one reader for all of them, so that clips are decoded ahead across parts; only the last part may end within a batch
        clips = batches(self.shards, self.index.iloc[rows], self.streams, self.batch_size, self.workers, self.added)
        with Progress() as progress:
            bar = progress.add_task(title, total=len(self.index), completed=len(self.index) - len(rows))
            for number in missing:
                self._write_part(number, islice(clips, PART_BATCHES), lambda done: progress.advance(bar, done))

    def _write_part(self, number: int, clips: islice[list[Clip | None]], report: Callable[[int], None]) -> None:
        temporary, read = self.folder / ".part.tmp", 0
        with pq.ParquetWriter(temporary, self.schema, compression="zstd") as writer:
            for batch in clips:
                kept = [clip for clip in batch if clip is not None and readable(clip, self.streams)]
                read += len(kept)
                if kept:
                    writer.write_table(pa.Table.from_pandas(self.rows_of(kept), self.schema, preserve_index=False))
                report(len(batch))
            writer.add_key_value_metadata({READ: str(read).encode()})
        temporary.replace(self.files[number])

    def _open(self, about: dict[str, Any]) -> None:
        """Makes the folder; parts of other rows, which it may hold from before, are removed."""
        path, about = self.folder / "about.json", plain(about)
        before = json.loads(path.read_text()) if path.is_file() else None
        if before == about:
            return
        if before is not None:
            other = ", ".join(sorted(name for name in {*before, *about} if before.get(name) != about.get(name)))
            print(f"{self.folder}: parts of another {other} are thrown away")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        temporary = self.folder / ".about.tmp"
        temporary.write_text(json.dumps(about, indent=1))
        temporary.replace(path)

    def join(self) -> tuple[int, int]:
        """Writes ``out`` out of the parts, as CSV where it is called so; returns (rows, clips read). Raises UserError."""
        tables = [pq.ParquetFile(file).metadata.num_rows for file in self.files]
        if not sum(tables):
            self.remove()
            raise UserError(f"{self.out}: not written, no clip gives a row of {' or '.join(self.streams)}")
        temporary = self.out.with_name(f".{self.out.name}.tmp")
        if self.out.suffix == ".csv":
            for number, file in enumerate(self.files):
                mode = "a" if number else "w"
                pd.read_parquet(file).to_csv(temporary, index=False, mode=mode, header=not number)
        else:
            with pq.ParquetWriter(temporary, self.schema, compression="zstd") as writer:
                for file in self.files:
                    writer.write_table(pq.read_table(file).cast(self.schema))
        temporary.replace(self.out)
        return sum(tables), sum(clips_read(file) or 0 for file in self.files)

    def remove(self) -> None:
        """Takes the parts away."""
        shutil.rmtree(self.folder, ignore_errors=True)


def clips_read(file: Path) -> int | None:
    """How many clips a part has read; None where it is not there, or not whole after a power cut."""
    try:
        return int((pq.read_metadata(file).metadata or {})[READ])
    except (OSError, pa.ArrowException, KeyError):
        return None
