"""Does any damage to a media file hang or crash a build, or cost a neighbour? ``python -m benchmarks.mutations``

Real files are copied, each copy damaged in one of six ways where a seed says, and all copies are built together with whole
ones among them. Prints what became of them, and fails where a whole file lost a clip, where a damaged one is neither in the
shards nor in failures.csv, where anybody wrote a traceback, or where ``data_prep check`` finds a fault.
"""

from __future__ import annotations

import argparse
import csv
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av

from data_prep.shards import read_index

EVERY = 25
"""After how many damaged copies a whole one comes."""


def flip(data: bytearray, dice: random.Random) -> None:
    """Single bits, as memory and cables lose them."""
    for _ in range(dice.randint(1, 60)):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def flip_headers(data: bytearray, dice: random.Random) -> None:
    """Bytes of the first and the last 4 KB, where the tables lie."""
    for _ in range(dice.randint(1, 12)):
        at = dice.randrange(4096) if dice.random() < 0.5 else len(data) - 1 - dice.randrange(4096)
        data[at % len(data)] = dice.randrange(256)


def wipe(data: bytearray, dice: random.Random) -> None:
    """A stretch of zeros, as lost sectors are read."""
    size = 512 * dice.randint(1, 64)
    at = dice.randrange(len(data))
    data[at : at + size] = bytes(len(data[at : at + size]))


def lose(data: bytearray, dice: random.Random) -> None:
    """A stretch that is missing: all behind it lies elsewhere than the tables say."""
    at = dice.randrange(len(data))
    del data[at : at + dice.randint(1, 20_000)]


def repeat(data: bytearray, dice: random.Random) -> None:
    """A stretch that was written twice."""
    at = dice.randrange(len(data))
    data[at:at] = data[at : at + dice.randint(1, 20_000)]


def stop(data: bytearray, dice: random.Random) -> None:
    """A copy that ended too early."""
    del data[dice.randrange(16, len(data)) :]


DAMAGES: list[Callable[[bytearray, random.Random], None]] = [flip, flip_headers, wipe, lose, repeat, stop]


def formats(sources: list[Path], folder: Path) -> list[Path]:
    """The sources, and each again as Matroska and as MPEG transport stream: other parsers."""
    found = list(sources)
    for source in sources:
        for suffix in (".mkv", ".ts"):
            path = folder / f"{source.stem}{suffix}"
            with av.open(str(source)) as old, av.open(str(path), "w") as new:
                streams = {
                    s.index: new.add_stream_from_template(s) for s in old.streams if s.type in ("video", "audio")
                }
                for packet in old.demux():
                    if packet.dts is not None and packet.stream.index in streams:
                        packet.stream = streams[packet.stream.index]
                        new.mux(packet)
            found.append(path)
    return found


def write(sources: list[Path], folder: Path, count: int, seed: int) -> int:
    """Fills the folder; returns how many files are whole."""
    folder.mkdir()
    whole = 0
    for number in range(count):
        source = sources[number % len(sources)]
        data = bytearray(source.read_bytes())
        if number % EVERY == 0:
            (folder / f"{number:04d}-whole-{source.stem}{source.suffix}").write_bytes(data)
            whole += 1
        damage = DAMAGES[number // len(sources) % len(DAMAGES)]
        damage(data, random.Random(f"{seed} {number}"))
        (folder / f"{number:04d}-{damage.__name__}{source.suffix}").write_bytes(data)
    return whole


def build(folder: Path, out: Path, settings: list[str]) -> tuple[subprocess.CompletedProcess[str], float]:
    """The real command; seconds that it took."""
    command = [sys.executable, "-m", "data_prep", "build", str(folder), str(out), *settings]
    begin = time.monotonic()
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return run, time.monotonic() - begin


def judge(folder: Path, out: Path, run: subprocess.CompletedProcess[str]) -> tuple[Counter[str], list[str]]:
    """What became of the damaged files, and what must not have happened."""
    wrong = [] if run.returncode in (0, 3) else [f"exit code {run.returncode}: {run.stderr[-500:]}"]
    if "Traceback" in run.stderr + run.stdout:
        wrong.append(f"a traceback: {run.stderr[-2000:]}")
    if not (out / "index.parquet").is_file():
        return Counter(), [*wrong, "no index"]
    built = Counter(read_index(out).recording)
    with (out / "failures.csv").open(newline="") as file:
        lines = {line["recording"]: line["reason"] for line in csv.DictReader(file)}
    fates: Counter[str] = Counter()
    clips: dict[str, set[int]] = {}
    for path in sorted(folder.iterdir()):
        name = path.stem
        if "-whole-" in name:
            clips.setdefault(path.name.split("-whole-")[1], set()).add(built[name])
            if name in lines or not built[name]:
                wrong.append(f"{path.name}: a whole file was lost: {lines.get(name)}")
        elif name in lines:
            fates[f"{'built with a line' if built[name] else 'a line'}: {kind_of(lines[name])}"] += 1
        elif built[name]:
            fates["built, nothing to be said"] += 1
        else:
            wrong.append(f"{path.name}: neither built nor in failures.csv")
    wrong += [f"{name}: whole copies gave {sorted(counts)} clips" for name, counts in clips.items() if len(counts) > 1]
    return fates, wrong


def kind_of(reason: str) -> str:
    """A reason without its numbers and names."""
    return re.sub(r"\d+(\.\d+)?", "N", re.sub(r"\(.*?\)", "", reason)).split(";")[0].strip()


def main(argv: list[str] | None = None) -> int:
    """Runs it; returns 1 where anything happened that must not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path, help="real media files, short ones")
    parser.add_argument("--count", type=int, default=600, help="damaged copies")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args(argv)
    settings = ["--landmarks=none", "--clip_seconds=4", "--short_side=64", "--fps=10", "--memory_gb=2"]
    settings += ["--deadline_seconds=60", f"--workers={given.workers}"]
    with tempfile.TemporaryDirectory() as temporary:
        folder, out = Path(temporary) / "in", Path(temporary) / "out"
        whole = write(formats(given.sources, Path(temporary)), folder, given.count, given.seed)
        run, seconds = build(folder, out, settings)
        fates, wrong = judge(folder, out, run)
        check = subprocess.run([sys.executable, "-m", "data_prep", "check", str(out)], capture_output=True, text=True)
    if check.returncode:
        wrong.append(f"data_prep check: {check.stdout[-2000:]}{check.stderr[-500:]}")
    print(f"{given.count} damaged copies and {whole} whole files, seed {given.seed}: {seconds:.0f} s")
    for fate, number in fates.most_common():
        print(f"{number:6d}  {fate}")
    print("\n".join(wrong) or "no whole file lost, no traceback, nothing unsaid; data_prep check finds no fault")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
