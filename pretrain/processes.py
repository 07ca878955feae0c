"""The processes of one run: who am I, how do we add numbers up, and have we been asked to stop?

One process a GPU (or a share of the cores), started by torchrun or by a scheduler that sets RANK, WORLD_SIZE, LOCAL_RANK,
MASTER_ADDR and MASTER_PORT; without these there is one process.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from configs import UserError

LOCK_SECONDS = 60
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)  # a scheduler sends the second some time before its limit


@dataclass(frozen=True)
class Processes:
    """This process among those of the run."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum of ``values`` over all processes, on the CPU (integers exactly)."""
        values = values.to(self.device)
        dist.all_reduce(values)
        return values.cpu()

    def wait(self) -> None:
        """Returns once every process is here."""
        dist.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)


def start_processes() -> Processes:
    """Joins the processes of this run: NCCL where there is a GPU, gloo elsewhere; divides the cores among them."""
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed insists on it
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    else:
        os.environ["DS_ACCELERATOR"] = "cpu"
        torch.set_num_threads(_threads())
    if not dist.is_initialized():
        alone: Any = {} if "RANK" in os.environ else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
        bound: Any = {"device_id": device} if device.type == "cuda" else {}
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", **alone, **bound)
        atexit.register(dist.destroy_process_group)  # not sooner: DeepSpeed keeps what it has learnt of the group
    return Processes(dist.get_rank(), dist.get_world_size(), device)


def _threads() -> int:
    """OMP_NUM_THREADS, else an equal share of the cores (torchrun sets 1 where nobody asked)."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and not (asked == "1" and "TORCHELASTIC_RUN_ID" in os.environ):
        return int(asked)
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class StopRequest:
    """Remembers a SIGTERM or SIGUSR2 while entered, so that the step in progress ends and is saved."""

    def __enter__(self) -> StopRequest:
        self.received = False
        self._before = {number: signal.signal(number, self._receive) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True


def ignore_stop_signals() -> None:
    """For processes that only read data: a signal to the whole job must not end them before the last step is saved."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def only_run_in(folder: Path) -> Generator[None]:
    """Keeps a second run out of a folder (processes can outlive a launcher that was killed). Raises UserError.

    Waits a little: a network file system needs some time to notice that the holder's machine has died.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        began = time.monotonic()
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= began + LOCK_SECONDS:
                    raise UserError(f"{folder}: another run writes there; stop it first") from None
                if not told:
                    print(f"{folder}: another run writes there; waiting {LOCK_SECONDS} s for its end", file=sys.stderr)
                    told = True
                time.sleep(1)
        yield
