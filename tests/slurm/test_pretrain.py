"""Pretraining on two nodes of the real cluster, interrupted and queued again, against two processes under torchrun."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.slurm_cluster.cluster import SlurmCluster
from tests.videos_for_tests import write_video

STEPS = 50
RECIPE = f"""
model: {{dim: 24, layers: 1, heads: 2, mlp_dim: 48, decoder_dim: 24, decoder_layers: 1, decoder_heads: 2,
        image_height: 64, image_width: 64, frame_rate: 8}}
mask: {{video: 0.75}}
optimizer: {{lr: 0.003, warmup_steps: 5}}
data: {{workers: 0, cache: true}}
batch: 4
steps: {STEPS}
"""


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What pretrain gets, but for --out: a tiny model and eight clips of 2 s."""
    folder = tmp_path_factory.mktemp("shards")
    write_video(folder / "videos" / "square.mp4", frames=128, width=64, height=64)
    build = ("data_prep", "build", "videos", "out", "--clip_seconds", "2", "--fps", "8", "--short_side", "64")
    command = [sys.executable, "-m", "kinesic", *build, "--landmarks", "none", "--workers", "1"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    (folder / "tiny.yaml").write_text(RECIPE)
    return ["--config", str(folder / "tiny.yaml"), "--data.shards", str(folder / "out")]


def losses(run: Path) -> dict[int, float]:
    """Step -> loss of the video, out of metrics.csv; of a step that was done twice the rows would not be unique."""
    rows = list(csv.DictReader((run / "metrics.csv").open(newline="")))
    found = {int(row["step"]): float(row["loss_video"]) for row in rows}
    assert len(found) == len(rows)
    return found


def wait_for_steps(run: Path, steps: int, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (run / "metrics.csv").exists() and len((run / "metrics.csv").read_text().splitlines()) > steps:
            return
        time.sleep(0.05)
    raise TimeoutError(f"{run / 'metrics.csv'} has not reached {steps} steps")


@pytest.mark.timeout(900)  # a minute and a half on two idle cores: DeepSpeed starts three times
def test_two_nodes_with_a_requeue_reach_the_losses_of_torchrun(
    cluster: SlurmCluster, folder: Path, arguments: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    kinesic = str(Path(sys.executable).with_name("kinesic"))
    slurm = ["--nodes", "2", "--network_interface", "lo", "--time", "30", "--wait"]
    command = [kinesic, "slurm", "pretrain", *slurm, *arguments, "--out", "RUN"]
    with subprocess.Popen(command, cwd=folder, env=cluster.environment, stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout is not None
        job = waiting.stdout.readline().split()[1]
        wait_for_steps(folder / "RUN", 5)
        cluster.run("scancel", "--signal=USR2", job)
        waiting.wait(400)
    logs = "".join(path.read_text()[-2000:] for path in (folder / "slurm_logs").glob(f"{job}_*_log.*"))
    assert waiting.returncode == 0, logs
    assert cluster.restarts(job) == 1
    assert "stopped by a signal" in logs

    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc_per_node", "2"]
    elsewhere = tmp_path_factory.mktemp("torchrun")  # torchrun -m reads the folder that it is called in
    command = [*torchrun, "-m", "pretrain", "run", *arguments, "--out", "RUN"]
    subprocess.run(command, cwd=elsewhere, check=True, capture_output=True, timeout=400)

    there, here = losses(folder / "RUN"), losses(elsewhere / "RUN")
    assert sorted(there) == sorted(here) == list(range(1, STEPS + 1))
    assert here[STEPS] < 0.9 * here[1]
    for step, loss in here.items():
        assert there[step] == pytest.approx(loss, rel=1e-5), f"step {step}"
