"""Who may write to an output folder at the same time: one build in one piece, or the tasks of an array, each once."""

from __future__ import annotations

import errno
import fcntl
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from configs import UserError
from data_prep.config import BuildConfig
from data_prep.units import STATE, workplace

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What file systems answer that were mounted without locks."""


@contextmanager
def _disk(out: Path) -> Generator[None]:
    """What goes wrong with writing ends the build with one line; of what is read it is a line in failures.csv."""
    try:
        yield
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        what = f"{out}: {error.strerror or error}{place}"
        raise UserError(f"{what}; mend that and run the same command again") from None


@contextmanager
def locked(config: BuildConfig) -> Generator[None]:
    """Makes the output folder and keeps those out who would be in the way. Raises UserError. Locks end with a process."""
    out = config.out
    with ExitStack() as files, _disk(out):
        try:
            workplace(config).mkdir(parents=True, exist_ok=True)
            everybody = files.enter_context((out / STATE / "lock").open("a+"))  # a+: NFS wants reading and writing
            own = files.enter_context((workplace(config) / "lock").open("a+")) if config.task else None
        except OSError as error:
            raise UserError(f"{out}: cannot be written to ({error.strerror}); name another folder") from None
        _lock(
            everybody,
            fcntl.LOCK_SH if own else fcntl.LOCK_EX,
            f"{out}: another build is writing there; wait for it, or name another folder",
        )
        if own:
            _lock(own, fcntl.LOCK_EX, f"{out}: task {config.array} is being built there already; wait for it")
        yield


def _lock(file: IO[str], how: int, refusal: str) -> None:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(refusal) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise UserError(f"{Path(file.name)}: {error.strerror}") from None
        print(f"{file.name}: no locks on this file system: start nothing twice", file=sys.stderr)
