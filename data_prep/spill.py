"""Where the clips of a recording wait until all of it has been read: who is who, and who spoke, is known at its end only.

The file has no name: when the process ends, however it ends, the file is gone.
"""

from __future__ import annotations

import tempfile
from pathlib import Path


class Spill:
    """Bytes by clip and name in one temporary file in ``folder``; in memory is only where they lie."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed by close)
        self._places: dict[int, dict[str, tuple[int, int]]] = {}
        self._end = 0

    def put(self, clip: int, name: str, content: bytes) -> None:
        """Keeps bytes. Raises OSError where the disk is full."""
        self._file.seek(self._end)
        self._file.write(content)
        self._places.setdefault(clip, {})[name] = self._end, len(content)
        self._end += len(content)

    def get(self, clip: int) -> dict[str, bytes]:
        """What was kept of a clip, by name, in the order in which it came."""
        found = {}
        for name, (start, length) in self._places.get(clip, {}).items():
            self._file.seek(start)
            found[name] = self._file.read(length)
        return found

    def close(self) -> None:
        """Gives the room on the disk back."""
        self._file.close()
