"""What runs on a node: one process of a stage, told who it is, warned before the job ends and queued again.

- submitit starts one ``Task`` a process; the task starts the stage as its child with torchrun's environment variables.
- SIGUSR2 (time is nearly up, or somebody else needs the node) and SIGTERM are passed on to the child. A stage that can
  go on later writes a checkpoint and exits with code 75; the job is queued again with the same command, which resumes.
- When a node dies nobody is warned: SLURM itself queues the job again (--requeue), and the stage resumes from its newest
  checkpoint.

No stage is imported here: the child finds its own.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from submitit import JobEnvironment
from submitit.core.utils import DelayedSubmission

RUN_ME_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: the stage has written a checkpoint and wants to go on later
WARNINGS = (signal.SIGUSR2, signal.SIGTERM)
STOPPED = {RUN_ME_AGAIN, *(-number for number in WARNINGS)}  # a command without handlers dies of the signal itself
FIRST_PORT, PORTS = 12000, 20000  # all below Linux's ephemeral ports, which begin at 32768


@dataclass
class Task:
    """The callable that is queued: runs ``command`` in ``folder``; returns 0. Raises RuntimeError where that fails."""

    command: list[str]
    folder: Path
    network_interface: str | None = None
    grace_seconds: float = 90
    """how long the command may go on after SIGUSR2; then it is killed, and the job is queued again all the same"""

    def __call__(self) -> int:
        job = JobEnvironment()
        job.paths.result_pickle.unlink(missing_ok=True)  # this job's earlier life: who waits would take it for the end
        print(f"rank {job.global_rank} of {job.num_tasks} on {job.hostname}: {shlex.join(self.command)}", flush=True)
        heard: list[int] = []
        handlers = {number: signal.signal(number, lambda number, _: heard.append(number)) for number in WARNINGS}
        environment = os.environ | process_environment(job, self.network_interface)
        self._child = subprocess.Popen(self.command, cwd=self.folder, env=environment)
        code = self._watch(job, heard, handlers)
        if code:
            raise RuntimeError(
                f"exit code {code} from rank {job.global_rank} of: {shlex.join(self.command)}; "
                f"logs: {job.paths.stdout} {job.paths.stderr}"
            )
        return 0

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit on rank 0 after SIGUSR2: waits until the child has written its checkpoint; same again."""
        try:
            self._child.wait(self.grace_seconds)
        except subprocess.TimeoutExpired:
            print(f"still running {self.grace_seconds} s after SIGUSR2: killed", file=sys.stderr, flush=True)
            self._child.kill()
        return DelayedSubmission(replace(self))

    def _watch(self, job: JobEnvironment, heard: list[int], handlers: dict[signal.Signals, Any]) -> int:
        """The child's exit code. Signals go to the child, then to submitit (rank 0: ``checkpoint``, requeue, exit).

        submitit is called from this loop and not from inside a signal handler, where waiting for the child can block
        for ever. After a child that was stopped this process stays for a while: if it ended before rank 0 has requeued,
        the cluster could end the job for good.
        """
        end = float("inf")
        while time.monotonic() < end:
            if (code := self._child.poll()) is not None and end == float("inf"):
                if code not in STOPPED:
                    return code
                if job.cluster == "local" and job.global_rank:
                    sys.exit(RUN_ME_AGAIN)  # the local cluster starts all again when every process has ended
                end = time.monotonic() + self.grace_seconds
            while heard:
                number = signal.Signals(heard.pop(0))
                if code is None:
                    self._child.send_signal(number)
                elif number == signal.SIGTERM and job.global_rank:
                    sys.exit(RUN_ME_AGAIN)  # rank 0 has requeued, SLURM clears the nodes
                handlers[number](number, None)
            time.sleep(0.1)
        return self._child.wait()


def process_environment(job: JobEnvironment, network_interface: str | None = None) -> dict[str, str]:
    """What torchrun would set for this process: rank, world size, where rank 0 listens, threads."""
    environment = {
        "RANK": str(job.global_rank),
        "LOCAL_RANK": str(job.local_rank),
        "WORLD_SIZE": str(job.num_tasks),
        "LOCAL_WORLD_SIZE": str(job.num_tasks // job.num_nodes),
        "MASTER_ADDR": "127.0.0.1" if job.cluster == "local" else job.hostnames[0],
        "MASTER_PORT": str(FIRST_PORT + int(job.raw_job_id) % PORTS),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or os.environ.get("SLURM_CPUS_PER_TASK") or "1",
        "PYTHONSAFEPATH": "1",  # a folder of the same name where the job was queued must not shadow a package
    }
    if network_interface:
        environment |= {"GLOO_SOCKET_IFNAME": network_interface, "NCCL_SOCKET_IFNAME": network_interface}
    return environment
