"""kill -9 of a run on two processes at a random moment; then the same command again."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from runs_for_tests import STEPS, column, start

from pretrain import checkpoint


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and theirs."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [below for child in children for below in descendants(child)]


@pytest.mark.timeout(900)  # three starts of two processes: a busy machine takes minutes
def test_kill_minus_nine_and_the_same_command_again(recipe: Path, two_processes: Path, tmp_path: Path) -> None:
    out, moment = tmp_path / "run", random.Random()
    steps, delay = moment.randrange(STEPS - 2), moment.random() / 5
    process = start(recipe, out, "--zero_stage", "2")
    while process.poll() is None and not ((out / "metrics.csv").is_file() and len(column(out, "step")) >= steps):
        time.sleep(0.005)
    time.sleep(delay)
    killed = [process.pid, *descendants(process.pid)]
    assert len(killed) >= 3, out.with_suffix(".log").read_text()
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    process.wait(10)
    assert not (out / "finished").exists()
    left = [path.name for path in checkpoint.whole_checkpoints(out)]
    said = f"killed after {steps} steps and {delay:.3f} s, with {left}"
    assert start(recipe, out, "--zero_stage", "2").wait(300) == 0, said + out.with_suffix(".log").read_text()
    assert (out / "finished").read_text() == str(STEPS), said
    for name in ("step", "keys", "loss_video", "loss_audio", "loss_face", "loss_pose"):
        assert column(out, name) == column(two_processes, name), (name, said)
    newest = checkpoint.newest(out)
    assert newest is not None
    assert (newest / "weights.safetensors").read_bytes() == (
        two_processes / "checkpoints" / newest.name / "weights.safetensors"
    ).read_bytes(), said
    assert {path.name for path in (out / "checkpoints").iterdir()} == {
        path.name for path in (two_processes / "checkpoints").iterdir()
    }, said
