"""What the members of a sample must hold: checked one by one against meta.json and the clip's length.

Whatever a decoder says of damaged bytes is a fault as well; nothing is raised.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import soundfile

from data_prep.clips import SAMPLE_RATE
from data_prep.decode import TOLERANCE
from data_prep.shards import decode_npz

Arrays = dict[str, np.ndarray]
ROW_SHAPES = {
    "face": {"box": (4,), "landmarks": (478, 3), "blendshapes": (52,), "head": (4, 4), "score": ()},
    "pose": {"keypoints": (33, 4), "world": (33, 3), "score": ()},
    "hands": {"handedness": (), "keypoints": (21, 3), "score": ()},
}
"""Shape of one row of each member of an .npz that has a row a detection; given landmarks may lack some."""


def check_member(name: str, content: bytes, facts: dict[str, Any], length: float, people: set[int]) -> Iterator[str]:
    """What is wrong with a member.

    ``facts``: what meta.json says of the stream. ``length``: seconds of the clip. ``people``: the ids that it names.
    """
    stem, _, suffix = name.rpartition(".")
    stream = stem.rpartition(".")[2]
    try:
        if suffix == "mp4":
            yield from _video_faults(content, facts, length)
        elif suffix == "flac":
            yield from _audio_faults(content, facts, length)
        elif suffix == "npz":
            yield from _array_faults(decode_npz(content), stream, facts, length, people)
        else:
            yield "no member that the format knows"
    except Exception as error:  # damaged bytes make a decoder raise anything
        yield f"cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:120]})"


def _video_faults(content: bytes, facts: dict[str, Any], length: float) -> Iterator[str]:
    with av.open(io.BytesIO(content), "r") as container:
        if [stream.type for stream in container.streams] != ["video"]:
            yield f"holds {[stream.type for stream in container.streams]}, not one video"
            return
        stream = container.streams.video[0]
        if stream.codec_context.name != "h264":
            yield f"is {stream.codec_context.name}, not h264"
        if (stream.width, stream.height) != (facts.get("width"), facts.get("height")):
            named = f"{facts.get('width')}x{facts.get('height')}"
            yield f"is {stream.width}x{stream.height}, meta.json says {named}"
        stamps = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
        times = np.sort(stamps) * float(stream.time_base or 0)
        container.seek(0)
        next(container.decode(stream))
    rate, start = facts.get("rate", 0.0), facts.get("start", -1.0)
    if not len(times) or np.abs(times - np.arange(len(times)) / max(rate, 1e-6)).max() > TOLERANCE:
        yield f"its {len(times)} frames do not come every 1/{rate:g} s from 0"
    if start < 0 or start + (len(times) - 1) / max(rate, 1e-6) > length + TOLERANCE:
        yield f"{len(times)} frames from {start:g} s at {rate:g} a second do not lie in the clip of {length:g} s"


def _audio_faults(content: bytes, facts: dict[str, Any], length: float) -> Iterator[str]:
    sound = soundfile.info(io.BytesIO(content))
    if (sound.format, sound.samplerate) != ("FLAC", SAMPLE_RATE) or facts.get("rate") != SAMPLE_RATE:
        yield f"is {sound.format} at {sound.samplerate} Hz, meta.json says {facts.get('rate')}, not FLAC at {SAMPLE_RATE} Hz"
    if sound.channels != facts.get("channels"):
        yield f"has {sound.channels} channels, meta.json says {facts.get('channels')}"
    start = facts.get("start", -1.0)
    if not sound.frames or start < 0 or start + sound.frames / sound.samplerate > length + TOLERANCE:
        yield f"{sound.duration:g} s of sound from {start:g} s do not lie in the clip of {length:g} s"


def _array_faults(arrays: Arrays, stream: str, facts: dict[str, Any], length: float, people: set[int]) -> Iterator[str]:
    times = arrays.pop("times", None)
    if times is None or times.ndim != 1 or not len(times) or not np.isfinite(times).all():
        yield "has no `times [window]` of finite numbers"
        return
    own = (
        stream not in ROW_SHAPES and "window" not in arrays
    )  # a user's: a time a row, and perhaps several people at once
    still = np.diff(times) < 0 if own and "person" in arrays else np.diff(times) <= 0
    if np.any(still):
        yield f"`times` do not grow at {times[1:][still][0]:g} s"
    if times[0] < 0 or times[-1] > length + TOLERANCE:
        yield f"`times` from {times[0]:g} to {times[-1]:g} s do not lie in the clip of {length:g} s"
    if "start" in facts and abs(facts["start"] - times[0]) > TOLERANCE:
        yield f"`times` start at {times[0]:g} s, meta.json says {facts['start']:g} s"
    rows = len(times)
    if stream in ROW_SHAPES or "window" in arrays:
        window, person = arrays.get("window"), arrays.get("person")
        if window is None or person is None:
            yield "lacks `window` or `person`"
            return
        rows = len(window)
        if np.any(window < 0) or np.any(window >= len(times)) or np.any(np.diff(window) < 0):
            yield f"`window` does not grow from 0 to {len(times) - 1}"
    if "person" in arrays and (strangers := set(arrays["person"].ravel().tolist()) - people):
        yield f"`person` names {sorted(strangers)}, meta.json only {sorted(people)}"
    for name, array in arrays.items():
        shape = ROW_SHAPES.get(stream, {}).get(name, array.shape[1:])
        if array.shape != (rows, *shape):
            yield f"`{name}` is {list(array.shape)}, not {[rows, *shape]}"
        elif array.dtype.kind == "f" and not (np.isfinite(array) | (own & np.isnan(array))).all():  # nan: a gap
            yield f"`{name}` holds numbers that are not finite"
    if stream == "regions":
        yield from _cell_faults(arrays)


def _cell_faults(arrays: Arrays) -> Iterator[str]:
    people, motion = arrays.get("people"), arrays.get("motion")
    if people is None or motion is None or people.ndim != 3 or people.shape != motion.shape:
        yield "has no `people` and `motion` [window, rows, columns] of one shape"
    elif people.min() < 0 or people.max() > 1:
        yield "`people` holds shares outside 0 to 1"
