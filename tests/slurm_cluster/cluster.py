"""A real SLURM cluster on this one machine, for tests: munged, slurmctld and a slurmd for each of three nodes.

All of it lies in one private folder and listens on free ports of the loopback interface. Needs root and install.sh.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NODES = ("127.0.0.11", "127.0.0.12", "127.0.0.13")
SBIN = "/usr/sbin:/sbin"

SLURM_CONF = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
MailProg=/bin/true
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=10
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
ReturnToService=2
JobRequeue=1
MinJobAge=86400
KillWait=3
SlurmdTimeout=10
SlurmdParameters=config_overrides
GresTypes=gpu
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
"""

# submitit asks only sacct, which needs an accounting database; squeue knows the same of the jobs of today
SACCT = """#!/bin/sh
echo 'JobID|State|NodeList'
squeue -h -a -r -t all -o '%i|%T|%N'
"""


@dataclass
class SlurmCluster:
    """A running cluster; ``environment`` is what a command needs to talk to it."""

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str, timeout: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command as a user of the cluster would; stdout and stderr as text."""
        result = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout)
        if check and result.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {result.returncode}:\n{result.stdout}{result.stderr}")
        return result

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, ..."""
        return self.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").stdout.strip()

    def restarts(self, job: str) -> int:
        """How often the job has been queued again."""
        return int(self.run("scontrol", "show", "job", job).stdout.split("Restarts=")[1].split()[0])

    def wait_until_over(self, job: str, seconds: float) -> str:
        """The state in which the job ended. Raises TimeoutError."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            state = self.state(job)
            if state not in {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED"}:
                return state
            time.sleep(0.3)
        raise TimeoutError(f"job {job} is still {self.state(job)} after {seconds} s\n{self.log_tail()}")

    def log_tail(self) -> str:
        return "".join(f"--- {log}\n{log.read_text()[-1500:]}\n" for log in sorted(self.folder.glob("*.log")))


def why_not() -> str | None:
    """Why this machine cannot run the cluster, in one line; None where it can."""
    path = f"{os.environ.get('PATH', '')}:{SBIN}"
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=path)]
    if not sys.platform.startswith("linux"):
        return "the test cluster needs Linux"
    if missing:
        return f"no {', '.join(missing)} here: tests/slurm_cluster/install.sh installs a SLURM cluster for the tests"
    return None if os.geteuid() == 0 else "the test cluster runs as root"


@contextlib.contextmanager
def start_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """Starts the cluster in an empty folder; stops it at the end, jobs included. Raises TimeoutError if it stays down."""
    cluster = _configure(folder)
    try:
        files = {"socket": "munge.sock", "key-file": "munge.key", "seed-file": "munge.seed"}
        files |= {"pid-file": "munged.pid", "log-file": "munged.log"}
        _daemon(cluster, "munged", "--force", *(f"--{option}={folder}/{name}" for option, name in files.items()))
        _daemon(cluster, "slurmctld")
        for node in NODES:
            _daemon(cluster, "slurmd", "-N", node)
        _wait_for_nodes(cluster)
        yield cluster
    finally:
        with contextlib.suppress(Exception):
            cluster.run("scancel", "-f", "-u", "root", timeout=10, check=False)
            time.sleep(0.5)
        _stop([*folder.glob("slurmd-*.pid"), folder / "slurmctld.pid", folder / "munged.pid"])


def _configure(folder: Path) -> SlurmCluster:
    ports = _free_ports(1 + len(NODES))
    nodes = "".join(
        f"NodeName={node} NodeHostname=localhost NodeAddr={node} Port={port} "
        "CPUs=4 RealMemory=64000 Gres=gpu:2 State=UNKNOWN\n"
        for node, port in zip(NODES, ports[1:], strict=True)
    )
    partition = f"PartitionName=main Nodes={','.join(NODES)} Default=YES MaxTime=INFINITE State=UP\n"
    (folder / "slurm.conf").write_text(SLURM_CONF.format(folder=folder, controller_port=ports[0]) + nodes + partition)
    (folder / "gres.conf").write_text("".join(f"NodeName={node} Name=gpu File=/dev/tty[0-1]\n" for node in NODES))
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    folder.chmod(0o755)
    (folder / "state").mkdir()
    (folder / "bin").mkdir()
    (folder / "bin" / "sacct").write_text(SACCT)
    (folder / "bin" / "sacct").chmod(0o755)
    foreign = ("SLURM_", "SBATCH_", "SUBMITIT_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment["SLURM_CONF"] = f"{folder}/slurm.conf"
    environment["PATH"] = f"{folder}/bin:{Path(sys.executable).parent}:{environment.get('PATH', '')}:{SBIN}"
    return SlurmCluster(folder, environment)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _daemon(cluster: SlurmCluster, *command: str) -> None:
    """Starts a daemon, which goes into the background. Output to a file: a pipe would stay open as long as it lives."""
    log = cluster.folder / f"start-{command[0]}.log"
    with log.open("a") as out:
        result = subprocess.run(command, env=cluster.environment, stdout=out, stderr=out, timeout=30)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {result.returncode}:\n{log.read_text()}")


def _wait_for_nodes(cluster: SlurmCluster, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        states = cluster.run("sinfo", "-h", "-N", "-o", "%T", check=False).stdout.split()
        if states == ["idle"] * len(NODES):
            return
        time.sleep(0.1)
    raise TimeoutError(f"the test cluster's nodes are not idle after {seconds} s: {states}\n{cluster.log_tail()}")


def _stop(pid_files: list[Path], seconds: float = 5) -> None:
    """Ends the daemons, by their pid files and no others; the hard way after some seconds."""
    pids = [int(text) for file in pid_files if file.exists() and (text := file.read_text().strip())]
    for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 1)):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        end = time.monotonic() + patience
        while time.monotonic() < end and (pids := [pid for pid in pids if Path(f"/proc/{pid}").exists()]):
            time.sleep(0.05)
