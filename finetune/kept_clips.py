"""Decoded clips in memory, so that an epoch after the first, another fold or seed, and the report's pictures decode nothing.

Clips come in another order every epoch, so that the last ones would be the wrong ones to keep: what came first stays as long
as there is room, and nothing is dropped for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pretrain.clips import Clip


@dataclass
class KeptClips:
    """Clips by their number. bytes: what they take. One that could not be read is asked for again."""

    clips: dict[int, Clip] = field(default_factory=dict)
    bytes: int = 0

    def missing(self, numbers: Sequence[int]) -> list[int]:
        """Those of some clips that are to be read, in their order."""
        return [number for number in numbers if number not in self.clips]

    def fill(self, numbers: Sequence[int], read: Iterator[Clip | None], limit: float) -> Iterator[Clip | None]:
        """Some clips in their order; read: those that are missing, in theirs, which are kept as far as ``limit`` bytes go."""
        here = set(self.clips)
        for number in numbers:
            clip = self.clips[number] if number in here else next(read)
            if clip is not None and number not in here and self.bytes + (more := size(clip)) <= limit:
                self.clips[number], self.bytes = clip, self.bytes + more
            yield clip


def size(clip: Clip) -> int:
    """Bytes of a clip's arrays."""
    detections = [rows for view in clip.views.values() for rows in view.detections().values()]
    arrays: list[np.ndarray | None] = [array for view in clip.views.values() for array in (view.frames, view.audio)]
    arrays += [array for rows in (*detections, *clip.streams.values()) for array in rows.values()]
    return sum(array.nbytes for array in arrays if array is not None)
