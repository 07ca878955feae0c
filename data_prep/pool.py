"""Work in several processes, any of which may crash or hang.

multiprocessing.Pool waits for ever on a task whose process was killed, and one dead process breaks a whole
ProcessPoolExecutor. Here a dead or silent process costs the task that it had, and is replaced. A task that needs more
memory than it may have gets a MemoryError, or dies of it. When the parent dies, so do its workers.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, NamedTuple

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1"
)
"""A process a core is fastest; threads on top of it only wait for one another."""
STARTING = 120.0
"""Seconds that a worker may take until it is ready: the first one waits for the imports."""
KILLED = f"killed by {signal.SIGKILL.name}"
"""Why a task is lost whose process somebody else ended: a person, or the kernel when the machine ran out of memory."""
Report = Callable[[Any], None]


class News(NamedTuple):
    """What became of a task: a note from it while it runs, its result, or why there is none."""

    task: Any
    kind: Literal["note", "done", "error", "died"]
    value: Any


@dataclass
class _Worker:
    process: Any
    connection: Connection
    task: Any = None
    heard: float = field(default_factory=lambda: time.monotonic() + STARTING)


class Pool:
    """Runs ``function(task, report)`` in ``workers`` processes; ``report(note)`` also tells that it is alive.

    A worker that reports nothing for ``silence`` seconds is killed. ``preload`` names modules that are imported once, in
    the process that the workers are forked from. ``memory``: bytes that a worker may take, 0 = any; code and files that
    are mapped do not count (RLIMIT_DATA: the libraries map three times the memory that they use).
    """

    def __init__(
        self,
        function: Callable[[Any, Report], Any],
        workers: int,
        silence: float,
        preload: list[str],
        memory: int = 0,
    ) -> None:
        self._function, self._silence, self._count, self._memory = function, silence, workers, memory
        os.environ.update(ONE_THREAD)  # inherited by the process that the workers are forked from
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(preload)
        self._workers: list[_Worker] = []
        self._queue: deque[Any] = deque()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()

    def add(self, task: Any) -> None:
        """Puts a task before the others: one that is tried again."""
        self._queue.appendleft(task)

    def run(self, tasks: Iterable[Any]) -> Iterator[News]:
        """Runs the tasks, started in their order, and gives the news of them until all are over."""
        self._queue.extend(tasks)
        while self._queue or any(worker.task is not None for worker in self._workers):
            self._start()
            ready = wait([worker.connection for worker in self._workers], timeout=1)
            for worker in list(self._workers):
                news = self._hear(worker) if worker.connection in ready else self._check(worker)
                if news is not None:
                    yield news

    def _start(self) -> None:
        """Gives tasks to idle workers, and starts workers as long as there are tasks for them."""
        while self._queue:
            idle = next((worker for worker in self._workers if worker.task is None), None)
            if idle is None and len(self._workers) < self._count:
                ours, theirs = self._context.Pipe()
                process = self._context.Process(target=_work, args=(self._function, theirs, self._memory), daemon=True)
                process.start()
                theirs.close()
                idle = _Worker(process, ours)
                self._workers.append(idle)
            if idle is None:
                return
            idle.task, idle.heard = self._queue.popleft(), max(idle.heard, time.monotonic())
            try:
                idle.connection.send(idle.task)
            except OSError:  # it died while idle; the task goes to another one
                self.add(idle.task)
                self._workers.remove(idle)

    def _hear(self, worker: _Worker) -> News | None:
        try:
            kind, value = worker.connection.recv()
        except (EOFError, OSError):
            return self._buried(worker, "")
        worker.heard = time.monotonic()
        if kind == "ready":
            return None
        task = worker.task
        if kind != "note":
            worker.task = None
        return News(task, kind, value)

    def _check(self, worker: _Worker) -> News | None:
        if worker.task is None or time.monotonic() - worker.heard < self._silence:
            return None
        worker.process.kill()
        return self._buried(worker, f"nothing came from it for {self._silence:.0f} s")

    def _buried(self, worker: _Worker, reason: str) -> News | None:
        worker.process.join()
        self._workers.remove(worker)
        code = worker.process.exitcode
        if not reason:
            reason = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return None if worker.task is None else News(worker.task, "died", reason)


def _work(function: Callable[[Any, Report], Any], connection: Connection, memory: int) -> None:
    """The life of a worker."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends its workers
    if memory:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    connection.send(("ready", None))
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            value = function(task, lambda note: connection.send(("note", note)))
        except Exception as error:
            connection.send(("error", _portable(error)))
        else:
            connection.send(("done", value))


def _portable(error: Exception) -> Exception:
    """The error, or its text where it does not survive the way to the parent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
