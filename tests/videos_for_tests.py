"""Small video files for tests that need a real one and do not care what it shows."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_video(path: Path, frames: int = 16, rate: int = 8, width: int = 64, height: int = 48) -> None:
    """H.264: a bright square that crosses a dark picture again and again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            picture = np.full((height, width, 3), 40, dtype=np.uint8)
            left = 2 * index % (width - 16)
            picture[16:32, left : left + 16] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
