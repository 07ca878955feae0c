"""Does kill -9 at any moment change what a build ends in? ``python -m benchmarks.kills FOLDER --kills 50``

A build of the folder's media is killed at random moments, started again, killed again, and after up to five kills left to
end; then its shards, index and failures are compared, byte for byte, with those of a build that nobody touched.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IN_A_ROW = 5


def command(videos: Path, out: Path, settings: list[str]) -> list[str]:
    return [sys.executable, "-m", "data_prep", "build", str(videos), str(out), *settings]


def results(out: Path) -> dict[str, bytes]:
    """What a build leaves, by file name."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.suffix in {".tar", ".parquet", ".csv"}}


def finish(videos: Path, out: Path, settings: list[str]) -> float:
    """Builds to the end; seconds that it took. Raises RuntimeError where it does not end well."""
    begin = time.monotonic()
    run = subprocess.run(command(videos, out, settings), capture_output=True, text=True, check=False)
    if run.returncode not in (0, 3) or "Traceback" in run.stderr:
        raise RuntimeError(run.stderr)
    return time.monotonic() - begin


def killed_after(videos: Path, out: Path, settings: list[str], seconds: float) -> bool:
    """Starts the build and kills it; False where it was over before."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command(videos, out, settings), **quiet) as process:  # pyrefly: ignore
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        return process.wait() == -signal.SIGKILL


def main(argv: list[str] | None = None) -> int:
    """Runs it; returns 1 where a build ended in other bytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, help="folder of media files")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given, settings = parser.parse_known_args(argv)  # what is not known here are settings of the build
    dice = random.Random(given.seed)
    kills = builds = different = 0
    with tempfile.TemporaryDirectory() as temporary:
        duration = finish(given.videos, Path(temporary) / "whole", settings)
        whole = results(Path(temporary) / "whole")
        again = finish(given.videos, Path(temporary) / "whole", settings)
        changed = results(Path(temporary) / "whole") != whole
        while kills < given.kills:
            out = Path(temporary) / f"out{builds}"
            for _ in range(min(IN_A_ROW, given.kills - kills)):
                kills += killed_after(given.videos, out, settings, dice.uniform(0, duration))
            finish(given.videos, out, settings)
            different += results(out) != whole
            different += bool(list((out / ".build").rglob("*.tmp")))
            builds += 1
    size = sum(map(len, whole.values())) / 1e6
    print(
        f"a build of {len(whole)} files, {size:.1f} MB: {duration:.1f} s; again, with nothing left to do: {again:.1f} s"
    )
    print(f"{kills} kills in {builds} builds, seed {given.seed}: {different} ended in other bytes")
    return 1 if different or changed else 0


if __name__ == "__main__":
    sys.exit(main())
