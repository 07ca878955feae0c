"""``kinesic slurm STAGE``: what belongs to the cluster, what to the stage, the script, and errors before anything is queued."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep.build import build
from data_prep.config import BuildConfig
from slurm.__main__ import main, split_arguments, stage_command
from tests.data_prep.media import write_media
from tests.slurm_cluster.cluster import SlurmCluster

RUN = ["--data.shards", "OUT", "--out", "RUN"]


def run_kinesic(
    *arguments: str, folder: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    kinesic = Path(sys.executable).with_name("kinesic")
    return subprocess.run(
        [str(kinesic), *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_cluster_settings_are_taken_out_wherever_they_stand() -> None:
    line = (
        "--nodes 2 --config demo --time=30 --data.shards OUT --dry_run --out RUN --wait true --cluster_config gpu.yaml"
    )
    cluster, stage = split_arguments(line.split())
    assert cluster == ["--nodes", "2", "--time=30", "--dry_run", "--wait", "true", "--cluster_config", "gpu.yaml"]
    assert stage == ["--config", "demo", "--data.shards", "OUT", "--out", "RUN"]


def test_all_after_two_dashes_is_the_stages() -> None:
    assert split_arguments(["--nodes", "2", "--out", "RUN", "--", "--time", "3"]) == (
        ["--nodes", "2"],
        ["--out", "RUN", "--time", "3"],
    )


@pytest.mark.parametrize(
    ("stage", "arguments", "command"),
    [
        ("pretrain", ["--out", "R"], ["pretrain", "run", "--out", "R"]),
        ("pretrain", ["release", "R", "S"], ["pretrain", "release", "R", "S"]),
        ("data_prep", ["M", "OUT"], ["data_prep", "build", "M", "OUT"]),
        ("data_prep", ["build", "M", "OUT"], ["data_prep", "build", "M", "OUT"]),
        ("finetune", ["extract", "V"], ["finetune", "extract", "V"]),
    ],
)
def test_a_stage_alone_means_its_main_command(stage: str, arguments: list[str], command: list[str]) -> None:
    assert stage_command(stage, arguments) == command


def test_dry_run_prints_the_script_and_the_command_without_any_slurm(folder: Path) -> None:
    result = run_kinesic("slurm", "pretrain", "--cluster_config", "two_nodes", "--account", "lab 7", "--dry_run", *RUN,
                         folder=folder, environment={"PATH": "/nowhere", "PYTHONSAFEPATH": "1"})  # fmt: skip
    assert result.returncode == 0, result.stderr
    for line in ("#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=4", "#SBATCH --gpus-per-node=4", "#SBATCH --time=1440",
                 "#SBATCH --account='lab 7'", "#SBATCH --signal=USR2@300", "#SBATCH --requeue"):  # fmt: skip
        assert line in result.stdout.splitlines()
    assert "# 8 x: " in result.stdout
    assert f"-P -m kinesic pretrain run {' '.join(RUN)}" in result.stdout
    assert not (folder / "slurm_logs").exists()


def test_the_script_is_one_that_slurm_takes(cluster: SlurmCluster, folder: Path) -> None:
    script = run_kinesic(
        "slurm", "pretrain", "--nodes", "2", "--gpus_per_node", "1", "--dry_run", *RUN, folder=folder
    ).stdout
    (folder / "job.sh").write_text(script)
    assert "to start at" in cluster.run("sbatch", "--test-only", str(folder / "job.sh")).stderr


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["pretrain", "--data.shard", "OUT", "--out", "RUN"], "--data.shard OUT; did you mean data.shards?"),
        (["pretrain", "--node", "2", *RUN], "or the cluster setting nodes?"),
        (["pretrain", "--nodes", "two", *RUN], "nodes: expected int, got two"),
        (["pretrain", "--nodes", "0", *RUN], "--nodes 0: must be at least 1"),
        (["pretrain", "--time", "1", "--warn_seconds", "60", *RUN], "must lie between 0 and --time (60 s)"),
        (["pretrain", "--array", "2", *RUN], "write {array} where they differ"),
        (["pretrain", "--cluster_config", "two_node", *RUN], "did you mean two_nodes?"),
        (["data_prep", "--nodes", "2", "M", "OUT"], "data_prep build is one process a job"),
        (["pretain", *RUN], "no stage 'pretain'"),
        (["pretrain", *RUN], "no sbatch here"),
    ],
)
def test_what_is_wrong_comes_out_in_one_line_before_anything_is_queued(
    arguments: list[str], error: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert error in lines[0]
    assert not (folder / "slurm_logs").exists()


def test_what_sbatch_refuses_is_one_line(cluster: SlurmCluster, folder: Path) -> None:
    result = run_kinesic(
        "slurm", "pretrain", "--partition", "gpus", *RUN, folder=folder, environment=cluster.environment
    )
    assert result.returncode == 2
    assert "invalid partition" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_array_is_a_job_for_each_number(cluster: SlurmCluster, folder: Path) -> None:
    shutil.copytree(
        folder / "configs", folder / "videos_0"
    )  # a folder without videos: the build ends at once, with an error
    result = run_kinesic("slurm", "data_prep", "--array", "2", "--wait", "videos_{array}", "out_{array}",
                         folder=folder, environment=cluster.environment)  # fmt: skip
    assert result.returncode == 1
    first = result.stdout.splitlines()[0].split()[1]
    job = first.split("_")[0]
    assert [cluster.wait_until_over(f"{job}_{i}", 20) for i in (0, 1)] == ["FAILED", "FAILED"]
    for i in (0, 1):
        log = folder / "slurm_logs" / f"{job}_{i}_0_log.out"
        assert f"kinesic data_prep build videos_{i} out_{i}" in log.read_text()
        assert str(log) in result.stderr


def test_a_dry_run_shows_the_share_of_every_job_of_a_build(folder: Path) -> None:
    line = "--array 3 --cpus_per_task 8 M OUT --clip_seconds 4"
    result = run_kinesic("slurm", "data_prep", "--dry_run", *line.split(), folder=folder)
    assert result.returncode == 0, result.stderr
    assert "#SBATCH --array=0-2" in result.stdout
    commands = [text.split("-m ")[1] for text in result.stdout.splitlines() if text.startswith("# 1 x: ")]
    assert commands == [f"kinesic data_prep build M OUT --clip_seconds 4 --array {i}/3" for i in range(3)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of videos/ and out/, their build in one piece."""
    root = tmp_path_factory.mktemp("built")
    for name in ("a", "b"):
        write_media(root / "videos" / f"{name}.mkv", 2.0)
    assert build(BuildConfig(root / "videos", root / "out", landmarks="none", workers=1)) == 0
    return root


@pytest.mark.parametrize("where", ["local", "slurm"])
def test_an_array_builds_one_output(where: str, built: Path, folder: Path, request: pytest.FixtureRequest) -> None:
    environment = request.getfixturevalue("cluster").environment if where == "slurm" else None
    shutil.copytree(built / "videos", folder / "videos")
    line = "--array 2 --wait videos out --landmarks none --workers 1"
    queued = run_kinesic("slurm", "data_prep", "--cluster", where, *line.split(),
                         folder=folder, environment=environment)  # fmt: skip
    assert queued.returncode == 0, queued.stderr
    logs = "".join(log.read_text() for log in sorted((folder / "slurm_logs").glob("*_log.out")))
    assert "task 0/2 is done" in logs
    assert "task 1/2 is done" in logs
    assert not (folder / "out" / "index.parquet").exists()
    merged = run_kinesic("data_prep", "merge", "out", folder=folder)
    assert merged.returncode == 0, merged.stderr
    for file in (built / "out").iterdir():
        if file.suffix in {".tar", ".parquet", ".csv"}:
            assert (folder / "out" / file.name).read_bytes() == file.read_bytes()


def test_local_cluster_runs_the_stage_in_the_background(folder: Path) -> None:
    (folder / "empty").mkdir()
    began = time.monotonic()
    result = run_kinesic("slurm", "data_prep", "--cluster", "local", "--wait", "empty", "out", folder=folder)
    assert result.returncode == 1, result.stdout  # data_prep finds no video in there and says so, in the job's log
    job = result.stdout.split()[1]
    assert f"job {job} (local)" in result.stdout
    log = folder / "slurm_logs" / f"{job}_0_log.err"
    assert str(log) in result.stderr
    assert "kinesic data_prep build" in log.read_text()
    assert time.monotonic() - began < 60
    assert not Path(f"/proc/{job}").exists()
