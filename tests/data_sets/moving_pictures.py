"""Small video files whose stretches look different from one another, so that what happens in them can be learnt."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

Stretch = tuple[float, float, int, bool]
"""start and end in seconds, how bright the wall is (0 to 255), whether a square moves"""


def write_stretches(
    path: Path, seconds: float, stretches: Sequence[Stretch] = (), rate: float = 8.0, size: tuple[int, int] = (64, 48)
) -> Path:
    """H.264 (VP9 in .webm) of ``rate`` pictures a second; size: width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=None if path.suffix != ".MP4" else "mp4") as container:
        options = {} if path.suffix == ".webm" else {"crf": "18"}
        stream = container.add_stream(
            "libvpx-vp9" if path.suffix == ".webm" else "libx264",
            rate=Fraction(rate).limit_denominator(1001),
            options=options,
        )
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(round(seconds * rate)):
            time = number / rate
            now = next((s for s in stretches if s[0] <= time < s[1]), (0.0, 0.0, 20, False))
            picture = np.full((size[1], size[0], 3), now[2], np.uint8)
            left = 4 * number % (size[0] - 16) if now[3] else 8
            picture[16:32, left : left + 16] = 255 - now[2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path
