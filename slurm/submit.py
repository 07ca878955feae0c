"""From a command line to a queued job: the stage's command, the cluster's parameters, submitit."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from submitit import LocalExecutor, SlurmExecutor
from submitit.core.core import Executor, Job
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import _make_sbatch_string

from configs import UserError, field_types
from slurm.config import ClusterConfig
from slurm.task import Task

REQUEUES = 1000  # how often a job may run into its time limit: a long training does so many times


def submit(config: ClusterConfig, arguments: list[str]) -> int:
    """Queues ``kinesic <arguments>`` as ``config`` says; returns the exit code. Raises UserError."""
    if config.nodes * config.processes_per_node > 1 and arguments[:2] != ["pretrain", "run"]:
        name = " ".join(arguments[:2])
        raise UserError(f"{name} is one process a job: set --cpus_per_task, not --nodes or --processes_per_node")
    arguments = array_arguments(config, arguments)
    tasks = [make_task(config, [a.replace("{array}", str(i)) for a in arguments]) for i in range(config.array)]
    check_arguments(tasks[0])  # the others differ in a number only
    if config.dry_run:
        return print_script(config, tasks)
    executor = make_executor(config)
    try:
        jobs: list[Job[int]] = executor.submit_array(tasks)
    except (FailedJobError, FailedSubmissionError) as error:
        raise UserError(f"sbatch refused the job: {' '.join(str(error).split())}") from None
    for job, task in zip(jobs, tasks, strict=True):
        where = job.paths.folder / f"{job.job_id}_*_log.*"
        print(f"job {job.job_id} ({config.cluster}): {shlex.join(task.command)}\nlogs: {where}", flush=True)
    return wait_for(jobs) if config.wait else 0


def array_arguments(config: ClusterConfig, arguments: list[str]) -> list[str]:
    """The arguments with {array} where the jobs of an array differ: a build is divided. Raises UserError where none do."""
    if config.array == 1 or any("{array}" in argument for argument in arguments):
        return arguments
    if arguments[:2] == ["data_prep", "build"]:
        return [*arguments, "--array", f"{{array}}/{config.array}"]
    raise UserError(f"--array {config.array}: all jobs would be the same; write {{array}} where they differ")


def make_task(config: ClusterConfig, arguments: list[str]) -> Task:
    """The callable for each process. -P: a folder of the same name where one stands must not shadow a package."""
    command = [sys.executable, "-P", "-m", "kinesic", *arguments]
    return Task(command, Path.cwd(), config.network_interface, grace_seconds=0.8 * config.warn_seconds)


def check_arguments(task: Task) -> None:
    """Lets the stage read its settings now: a misspelt one must not come out hours later, on a node. Raises UserError."""
    run = subprocess.run([*task.command, "--print_config"], cwd=task.folder, capture_output=True, text=True)
    if run.returncode:
        error = (run.stderr.strip() or run.stdout.strip()).splitlines()[-1]
        unknown = re.search(r"unrecognized arguments: --(\w+)", error)
        ours = difflib.get_close_matches(unknown[1], field_types(ClusterConfig), 1, 0.75) if unknown else []
        raise UserError(error + "".join(f"; or the cluster setting {name}?" for name in ours))


def slurm_parameters(config: ClusterConfig) -> dict[str, Any]:
    """What becomes #SBATCH lines, under SLURM's own names."""
    parameters = {
        "job_name": "kinesic",
        "time": config.time,
        "nodes": config.nodes,
        "ntasks_per_node": config.processes_per_node,
        "cpus_per_task": config.cpus_per_task,
        "gpus_per_node": config.gpus_per_node or None,
        "mem": f"{round(1024 * config.mem_gb)}MB" if config.mem_gb else None,
        "partition": config.partition,
        "account": config.account,
        "signal_delay_s": config.warn_seconds,
        # srun does not take cpus_per_task from the job by itself since SLURM 22.05
        "srun_args": [f"--cpus-per-task={config.cpus_per_task}"],
        "setup": [*config.setup, "export PYTHONSAFEPATH=1"],
        "additional_parameters": {"requeue": True},
    }
    return {name: value for name, value in parameters.items() if value is not None}


def make_executor(config: ClusterConfig) -> Executor:
    """submitit's executor. Raises UserError where there is no SLURM."""
    if config.cluster == "slurm":
        if not shutil.which("sbatch") or not shutil.which("srun"):
            raise UserError(
                "no sbatch here: run this on the cluster's login node, or with --cluster local or --dry_run"
            )
        executor: Executor = SlurmExecutor(config.logs, max_num_timeout=REQUEUES)
        executor.update_parameters(**slurm_parameters(config))
        return executor
    os.environ["PYTHONSAFEPATH"] = "1"
    executor = LocalExecutor(config.logs, max_num_timeout=REQUEUES)
    executor.update_parameters(
        tasks_per_node=config.nodes * config.processes_per_node,
        gpus_per_node=config.nodes * config.gpus_per_node,
        timeout_min=config.time,
        signal_delay_s=config.warn_seconds,
        setup=config.setup,
    )
    return executor


def print_script(config: ClusterConfig, tasks: list[Task]) -> int:
    """Prints the script that would be queued, and the command of every process. Needs no SLURM."""
    logs = config.logs.absolute()
    if config.cluster == "slurm":
        command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(logs))}"
        count = len(tasks) if len(tasks) > 1 else None
        print(_make_sbatch_string(command=command, folder=logs, map_count=count, **slurm_parameters(config)))
    for task in tasks:
        print(f"# {config.nodes * config.processes_per_node} x: {shlex.join(task.command)}")
    return 0


def wait_for(jobs: list[Job[int]]) -> int:
    """Waits for the jobs; returns 0, or 1 after naming every failed process and its two logs."""
    failed = 0
    try:
        for job in jobs:
            job.wait()
            for rank in range(job.num_tasks):
                process = job.task(rank)
                if error := process.exception():
                    failed += 1
                    print(
                        f"job {job.job_id}, rank {rank} failed: {last_line(str(error))}\n"
                        f"  {process.paths.stdout}\n  {process.paths.stderr}",
                        file=sys.stderr,
                    )
            print(f"job {job.job_id}: {'failed' if failed else 'done'}")
    except KeyboardInterrupt:
        print(f"\nno longer waiting; the jobs go on: {' '.join(job.job_id for job in jobs)}", file=sys.stderr)
        return 130
    return int(failed > 0)


def last_line(text: str) -> str:
    """The line of an error that says what it was: of a traceback the exception, else the first line."""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error:" in line]
    return errors[-1] if errors else lines[0]
