"""How good the pictures and the sound of a clip are: measured on what is written, at the rate of the looks.

Of a view: `sharpness`, variance of the Laplacian (median over pictures, levels of 0 to 255 squared); `exposure`, mean
brightness from 0 to 1; `black` and `frozen`, shares of the pictures; `clipping`, share of the samples at full scale;
`silence`, share of the tenths of a second below -60 dBFS in every channel; `speech`, share of the time in which somebody speaks on
any channel; `faces`, share of the looks with a face in them.
A clip has the best of its views. What was not measured is absent and drops no clip.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.config import FilterConfig
from data_prep.shards import QUALITY

BEST = {name: max if name in {"sharpness", "speech", "faces"} else min for name in QUALITY}
"""The numbers that the index tells of a clip, and which of its views' counts."""
BLACK, WHITE = 16, 235  # studio range
DARK = (
    38  # a tenth of the range: a picture is black that has 98 hundredths of its pixels below (as FFmpeg's blackdetect)
)
STILL = 0.25  # levels on average: less is no change (-60 dB, as FFmpeg's freezedetect)
FREEZE = 1.0  # seconds without change from which a picture is frozen: a camera of 2 frames a second is none
FULL_SCALE = 32700  # of 32768
SILENT = 32.768  # root mean square: -60 dBFS


class PictureMeter:
    """Looks at the pictures of one clip one after another."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._sharp: list[float] = []
        self._light: list[float] = []
        self._black: list[bool] = []
        self._still: list[bool] = []  # like the one before
        self._last: NDArray[np.int16] | None = None

    def add(self, time: float, luma: NDArray[np.uint8]) -> None:
        """Takes a picture at a time (seconds, growing): brightness [height, width] in studio range."""
        self._times.append(time)
        levels = luma.astype(np.int16)
        laplacian = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:] - 4 * levels[1:-1, 1:-1]
        self._sharp.append(float(laplacian.var()))
        self._light.append((float(luma.mean()) - BLACK) / (WHITE - BLACK))
        self._black.append(bool(np.count_nonzero(luma < DARK) >= 0.98 * luma.size))
        self._still.append(self._last is not None and float(np.abs(levels - self._last).mean()) <= STILL)
        self._last = levels

    def result(self) -> dict[str, float]:
        """sharpness, exposure, black and frozen; nothing where no picture was seen."""
        if not self._times:
            return {}
        return {
            "sharpness": round(float(np.median(self._sharp)), 2),
            "exposure": round(min(max(float(np.mean(self._light)), 0.0), 1.0), 4),
            "black": round(float(np.mean(self._black)), 4),
            "frozen": round(self._frozen(), 4),
        }

    def _frozen(self) -> float:
        """Share of the pictures in stretches of FREEZE seconds or more without change."""
        frozen, first = 0, 0
        for at in range(1, len(self._times) + 1):
            if at == len(self._times) or not self._still[at]:
                if self._times[at - 1] - self._times[first] >= FREEZE:
                    frozen += at - first
                first = at
        return frozen / len(self._times)


def sound_quality(samples: NDArray[np.int16], rate: int) -> dict[str, float]:
    """clipping and silence of sound [channel, sample]."""
    block = rate // 10
    whole = samples.shape[1] // block * block
    blocks = samples[:, :whole].reshape(len(samples), -1, block) if whole else samples[:, None]
    loud = np.sqrt(np.square(blocks, dtype=np.float64).mean(2)).max(0) >= SILENT
    full = np.abs(samples.astype(np.int32)) >= FULL_SCALE
    return {"clipping": round(float(full.mean()), 6), "silence": round(float(1 - loud.mean()), 4)}


def speech_share(speech: Iterable[Mapping[str, Any]], duration: float) -> dict[str, float]:
    """speech: in which share of a clip of ``duration`` seconds any entry of its list ``speech`` lasts."""
    spoken = until = 0.0
    for entry in sorted(speech, key=lambda entry: entry["start"]):
        spoken += max(0.0, entry["end"] - max(entry["start"], until))
        until = max(until, entry["end"])
    return {"speech": round(spoken / duration, 4)}


def face_share(face: Mapping[str, NDArray]) -> dict[str, float]:
    """faces: in which share of the looks of a face.npz somebody's face was found."""
    return {"faces": round(len(np.unique(face["window"])) / len(face["times"]), 4)}


def of_clip(views: Iterable[Mapping[str, float]]) -> dict[str, float | None]:
    """The best of the views' numbers, None where no view has them."""
    known = list(views)
    numbers = {name: [view[name] for view in known if name in view] for name in BEST}
    return {name: BEST[name](values) if values else None for name, values in numbers.items()}


def reasons_to_drop(filters: FilterConfig, clip: Mapping[str, Any]) -> list[str]:
    """Why a clip of these numbers is to be left out; empty where it is kept."""
    reasons = []
    for field in fields(filters):
        side, _, name = field.name.partition("_")
        bound, number = getattr(filters, field.name), clip.get(name)
        if bound is not None and number is not None and (number < bound if side == "min" else number > bound):
            reasons.append(f"{name} {number:g}, {field.name} {bound:g}")
    return reasons


@dataclass(frozen=True)
class Dropped:
    """A line of dropped.csv: a clip that the filters left out."""

    recording: str
    start: float
    end: float
    reason: str
