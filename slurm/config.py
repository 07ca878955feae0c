"""The settings of a cluster job. What the stage itself wants stands in the stage's own config."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass
class ClusterConfig:
    """Where and how a stage runs on a cluster."""

    cluster: Literal["slurm", "local"] = "slurm"
    """slurm: queue the job with sbatch; local: run it on this machine in the background, nodes and all"""
    nodes: int = 1
    """how many machines"""
    processes_per_node: int = 1
    """how many processes on each machine: one a GPU"""
    cpus_per_task: int = 1
    """CPU cores for each process"""
    gpus_per_node: int = 0
    """GPUs on each machine"""
    mem_gb: float | None = None
    """memory on each machine in GB; unset = the cluster's default"""
    time: int = 60
    """minutes until the cluster ends the job. A stage that is not done by then is queued again and goes on"""
    warn_seconds: int = 120
    """how long before its end the stage is told to write a checkpoint"""
    partition: str | None = None
    """the cluster's queue; unset = its default"""
    account: str | None = None
    """who pays for the job"""
    network_interface: str | None = None
    """over which interface the processes talk, for instance ib0; unset = they find out"""
    setup: list[str] = field(default_factory=list)
    """shell lines to run on each machine first, for instance ["module load cuda/13"]"""
    array: int = 1
    """how many jobs: {array} in the stage's arguments becomes 0, 1, ... (--array 3 --seed {array} --out run{array});
    data_prep build without {array} is one build, divided among the jobs"""
    logs: Path = Path("slurm_logs")
    """folder for the job's script and the logs of every process; all machines must see it"""
    wait: bool = False
    """stay until the job is done, and end with an error if it failed"""
    dry_run: bool = False
    """print the script and the command, queue nothing"""

    def __post_init__(self) -> None:
        for name in ("nodes", "processes_per_node", "cpus_per_task", "time", "array"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least 1")
        if not 0 < self.warn_seconds < 60 * self.time:
            raise ValueError(f"--warn_seconds {self.warn_seconds}: must lie between 0 and --time ({60 * self.time} s)")
