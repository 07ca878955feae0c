"""The processes of one run: who am I, how do we add numbers up, and have we been asked to stop?

One process a GPU (or a share of the cores), started by torchrun or by a scheduler that sets RANK, WORLD_SIZE, LOCAL_RANK,
MASTER_ADDR and MASTER_PORT; without these there is one process.
"""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import dataclass
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor

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
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    if "RANK" not in os.environ:
        os.environ.update(
            RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port())
        )
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        device = torch.device("cpu")
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
        dist.init_process_group("gloo")
    return Processes(dist.get_rank(), dist.get_world_size(), device)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class StopRequest:
    """Remembers a SIGTERM or SIGUSR2, so that the step in progress ends and is saved."""

    def __init__(self) -> None:
        self.received = False
        for number in STOP_SIGNALS:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True


def ignore_stop_signals() -> None:
    """For processes that only read data: a signal to the whole job must not end them before the last step is saved."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
