"""A small command of our own as a job on the real cluster and on the local one: who am I, signals, requeue, failure."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
from submitit import LocalExecutor, SlurmExecutor
from submitit.core.core import Job

from slurm.config import ClusterConfig
from slurm.submit import last_line, slurm_parameters, wait_for
from slurm.task import RUN_ME_AGAIN, Task
from tests.slurm_cluster.cluster import SlurmCluster

# Writes who it is, then "trains" ten steps of 0.3 s from where it was; stops at SIGUSR2 or SIGTERM as pretrain does.
STAGE = f"""
import json, os, signal, sys, time
from pathlib import Path
rank = os.environ["RANK"]
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME",
         "SLURMD_NODENAME")
Path(f"rank{{rank}}.json").write_text(json.dumps({{name: os.environ.get(name) for name in names}}))
stop = []
for number in (signal.SIGUSR2, signal.SIGTERM):
    signal.signal(number, lambda *_: stop.append(1))
steps = Path(f"steps{{rank}}.txt")
for step in range(len(steps.read_text().split()) if steps.exists() else 0, 10):
    with steps.open("a") as out:
        out.write(f"{{step}}\\n")
    if stop:
        sys.exit({RUN_ME_AGAIN})
    time.sleep(0.3)
"""


def submit_to(cluster: SlurmCluster, config: ClusterConfig, task: Task, monkeypatch: pytest.MonkeyPatch) -> Job[int]:
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, cluster.environment[name])
    executor = SlurmExecutor(config.logs)
    executor.update_parameters(**slurm_parameters(config))
    return executor.submit(task)


def read_ranks(folder: Path, count: int) -> list[dict[str, str]]:
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(count)]


def wait_for_file(path: Path, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.1)


def test_two_nodes_know_who_they_are_and_a_usr2_requeues_them(
    cluster: SlurmCluster, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ClusterConfig(nodes=2, time=30, network_interface="lo", logs=folder / "logs")
    task = Task([sys.executable, "-c", STAGE], folder, config.network_interface, grace_seconds=10)
    job = submit_to(cluster, config, task, monkeypatch)
    wait_for_file(folder / "steps1.txt")
    time.sleep(0.5)
    cluster.run("scancel", "--signal=USR2", job.job_id)
    assert cluster.wait_until_over(job.job_id, 40) == "COMPLETED"
    assert cluster.restarts(job.job_id) == 1
    for rank in (0, 1):  # stopped once, went on where it was: every step once
        assert (folder / f"steps{rank}.txt").read_text().split() == [str(step) for step in range(10)]
    first, second = read_ranks(folder, 2)
    assert (first["RANK"], second["RANK"]) == ("0", "1")
    assert first["SLURMD_NODENAME"] != second["SLURMD_NODENAME"]
    assert first["MASTER_ADDR"] == second["MASTER_ADDR"] == first["SLURMD_NODENAME"]
    assert first["MASTER_PORT"] == second["MASTER_PORT"]
    assert {one["WORLD_SIZE"] + one["LOCAL_WORLD_SIZE"] + one["LOCAL_RANK"] for one in (first, second)} == {"210"}
    assert first["GLOO_SOCKET_IFNAME"] == "lo"
    assert wait_for([job]) == 0


def test_a_failing_rank_is_named_with_its_logs(
    cluster: SlurmCluster, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ClusterConfig(processes_per_node=2, logs=folder / "logs")
    code = "import os, sys; print('no such shard', file=sys.stderr); sys.exit(int(os.environ['RANK']) * 7)"
    job = submit_to(cluster, config, Task([sys.executable, "-c", code], folder), monkeypatch)
    assert wait_for([job]) == 1
    error = capsys.readouterr().err
    assert f"job {job.job_id}, rank 1 failed" in error
    assert "exit code 7" in error
    assert "rank 0 failed" not in error
    log = folder / "logs" / f"{job.job_id}_1_log.err"
    assert str(log) in error
    assert "no such shard" in log.read_text()
    assert cluster.wait_until_over(job.job_id, 20) == "FAILED"


def test_scancel_ends_the_job_for_good(cluster: SlurmCluster, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task([sys.executable, "-c", STAGE], folder)
    job = submit_to(cluster, ClusterConfig(logs=folder / "logs"), task, monkeypatch)
    wait_for_file(folder / "steps0.txt")
    cluster.run("scancel", job.job_id)
    assert cluster.wait_until_over(job.job_id, 20) == "CANCELLED"
    assert cluster.restarts(job.job_id) == 0


def test_local_cluster_resumes_after_a_usr2(folder: Path) -> None:
    executor = LocalExecutor(folder / "logs")
    executor.update_parameters(tasks_per_node=2, timeout_min=1)
    job = executor.submit(Task([sys.executable, "-c", STAGE], folder, grace_seconds=10))
    wait_for_file(folder / "steps1.txt")
    time.sleep(0.5)
    for child in Path(f"/proc/{job.job_id}/task/{job.job_id}/children").read_text().split():
        os.kill(int(child), 12)
    assert wait_for([job]) == 0
    for rank in (0, 1):
        assert (folder / f"steps{rank}.txt").read_text().split() == [str(step) for step in range(10)]
    assert [one["WORLD_SIZE"] + one["LOCAL_RANK"] for one in read_ranks(folder, 2)] == ["20", "21"]


def test_last_line_is_the_exception() -> None:
    assert last_line("Job failed with trace:\n----\nTraceback\n  x\nRuntimeError: exit code 7\n----\nsee logs") == (
        "RuntimeError: exit code 7"
    )
    assert last_line("no output\nState: FAILED") == "no output"
