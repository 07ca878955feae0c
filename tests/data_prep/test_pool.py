"""Workers that crash, hang and lose their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from data_prep.pool import Pool, Report

HERE = Path(__file__).resolve().parents[2]


def work(task: Any, report: Report) -> Any:
    """Does what the task says."""
    report("started")
    if task == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "hang":
        time.sleep(60)
    if task == "raise":
        raise OSError(28, "No space left on device")
    return task * 2


def test_a_task_that_kills_or_hangs_costs_itself(tmp_path: Path) -> None:
    with Pool(work, 2, 1.5, []) as pool:
        news = [(n.task, n.kind, n.value) for n in pool.run([1, "crash", 2, "hang", 3, "raise", 4]) if n.kind != "note"]
    ends = {task: (kind, value) for task, kind, value in news}
    assert len(news) == 7
    assert {task: ends[task] for task in (1, 2, 3, 4)} == {n: ("done", 2 * n) for n in (1, 2, 3, 4)}
    assert ends["crash"] == ("died", "killed by SIGKILL")
    assert ends["hang"] == ("died", "nothing came from it for 2 s")
    assert ends["raise"][0] == "error"
    assert ends["raise"][1].errno == 28


PARENT = """
import sys
from data_prep.pool import Pool
from tests.data_prep.test_pool import hold
if __name__ == "__main__":
    with Pool(hold, 2, 60.0, []) as pool:
        for news in pool.run([1, 2]):
            print(news.value, flush=True)
"""


def hold(task: Any, report: Report) -> None:
    """Tells its process id and stays."""
    report(os.getpid())
    time.sleep(60)


def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(HERE)}
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
    deadline = time.monotonic() + 10
    while any(_alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(worker) for worker in workers)


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def grow(task: Any, report: Report) -> int:
    """Takes the megabytes that the task says."""
    report(len(bytearray(task << 20)))
    return task


def test_a_task_that_takes_too_much_memory_costs_itself() -> None:
    with Pool(grow, 1, 30.0, [], memory=1 << 30) as pool:
        news = [(n.task, n.kind, type(n.value)) for n in pool.run([10, 4000, 20]) if n.kind != "note"]
    assert news == [(10, "done", int), (4000, "error", MemoryError), (20, "done", int)]


class OddError(Exception):
    """Cannot be made again out of its arguments, which is how errors come to the parent."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def fail(task: Any, report: Report) -> None:
    raise OddError("too", " odd")


def test_an_error_that_does_not_travel_comes_as_text() -> None:
    with Pool(fail, 1, 30.0, []) as pool:
        (news,) = pool.run([1])
    assert news.kind == "error"
    assert str(news.value) == "OddError: too odd"
