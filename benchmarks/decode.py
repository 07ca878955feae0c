"""How fast are the frames of a clip read out of a shard's bytes: PyAV or decord2? ``python -m benchmarks.decode``

Two kinds of clips of moving gradients and noise, written as data_prep writes them (H.264, closed GOPs): 64x64 at
8 fps for 4 s, and 256 pixels high at 25 fps for 10 s. The readers take turns, so that a busy machine slows all of them alike.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np

from pretrain.clips import read_frames

KINDS = {"64x64, 8 fps, 4 s": (64, 64, 8, 4, 40), "256x456, 25 fps, 10 s": (256, 456, 25, 10, 5)}


def video(height: int, width: int, fps: int, seconds: int) -> bytes:
    """An MP4 in memory: gradients that move, with a little noise."""
    random, file = np.random.default_rng(0), io.BytesIO()
    row, column = np.mgrid[:height, :width]
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "20", "preset": "veryfast", "x264-params": "open-gop=0"}
        for k in range(fps * seconds):
            waves = [np.sin((row * (c + 1) + column * 2 + 9 * k) / 25) for c in range(3)]
            picture = 128 + 100 * np.stack(waves, -1) + random.normal(0, 4, (height, width, 3))
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def decord_frames(threads: int) -> Callable[[bytes], np.ndarray]:
    """decord2's reader; threads = 0 lets it choose."""
    import decord

    def read(data: bytes) -> np.ndarray:
        reader = decord.VideoReader(io.BytesIO(data), num_threads=threads)
        return reader.get_batch(range(len(reader))).asnumpy()

    return read


def main() -> None:
    readers = {"PyAV": read_frames, "decord2, 1 thread": decord_frames(1), "decord2, own threads": decord_frames(0)}
    for kind, (height, width, fps, seconds, repeats) in KINDS.items():
        data = video(height, width, fps, seconds)
        frames = {name: read(data) for name, read in readers.items()}
        times: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(repeats):
            for name, read in readers.items():
                start = time.perf_counter()
                read(data)
                times[name].append(time.perf_counter() - start)
        print(f"{kind} ({len(data) / 1000:.0f} kB)")
        for name, seconds_each in times.items():
            apart = np.abs(frames[name].astype(int) - frames["PyAV"].astype(int)).mean()
            print(
                f"  {name:<22}{1000 * statistics.median(seconds_each):8.1f} ms a clip (median of {repeats}), "
                f"{len(frames[name])} frames, {apart:.2f} levels from PyAV's"
            )


if __name__ == "__main__":
    main()
