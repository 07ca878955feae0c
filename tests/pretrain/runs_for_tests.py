"""Starting `pretrain run` as a user does, and reading what it wrote."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pretrain.tracking import read_metrics

ROOT = Path(__file__).parents[2]
STEPS = 12


def start(recipe: Path, out: Path, *more: str, processes: int = 2) -> subprocess.Popen[str]:
    """``pretrain run`` on a recipe, as a user types it."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "pretrain", "run", "--config", str(recipe)]
    log = out.with_suffix(".log").open("a")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "--out", str(out), *more], cwd=ROOT, env=environment, stdout=log, stderr=log, text=True
    )


def column(out: Path, name: str) -> list[str]:
    return [row[name] for row in read_metrics(out / "metrics.csv")]
