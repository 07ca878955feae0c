"""Where people are and what moves, per cell of the picture: what relevance is later computed from.

A cell is ``cell`` x ``cell`` pixels (16, as VideoMAE's patches) of the WRITTEN picture, counted from the upper left; the
last row and column are narrower where its sides are no multiple.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.manifest import WHOLE, Box

if TYPE_CHECKING:
    from data_prep.people import Body  # its tracker takes a second to import, and motion alone does not need it

SMALLEST, LARGEST = 64, 192  # pixels: short side of the picture on which optical flow is computed
STEP = 2  # pixels between the points at which flow is taken: there is none finer, see finest scale
MOST_POINTS = 200  # of them, for the camera's motion: RANSAC's time grows with their number
STILL = 0.1  # pixels between two looks: less is the noise of a camera that stands still
OUTLINE = 0.5  # the outline's value from which a pixel counts as a person's


def cell_means(values: NDArray, width: int, height: int, cell: int, box: Box = WHOLE) -> NDArray[np.float32]:
    """Means [rows, columns] over the cells of a written picture of width x height pixels.

    values [any, any] cover a picture of which ``box`` was written.
    """
    rows = _shares(values.shape[0], height, cell, box[1], box[3])
    columns = _shares(values.shape[1], width, cell, box[0], box[2])
    # Matrix products do not always add up in the same order: in float64 the written float32 are the same all the same.
    return np.asarray(rows @ values.astype(np.float64) @ columns.T, np.float32)


@lru_cache(maxsize=64)
def _shares(length: int, pixels: int, cell: int, low: float, high: float) -> NDArray[np.float64]:
    """Weight [cell, value] of each of ``length`` values in the means of the cells of ``pixels`` pixels from low to high."""
    edges = np.append(np.arange(0, pixels, cell), pixels) / pixels
    edges = (low + edges * (high - low)) * length
    at = np.arange(length)
    inside = np.clip(np.minimum(edges[1:, None], at + 1) - np.maximum(edges[:-1, None], at), 0, None)
    return inside / inside.sum(1, keepdims=True)


@dataclass(frozen=True)
class Cells:
    """What regions.npz holds of one instant of one picture: people and motion [rows, columns]."""

    people: NDArray[np.float32]
    motion: NDArray[np.float32]


class CellMeter:
    """Measures the cells of a view's written picture, and of the pictures that its regions become, look after look.

    pictures: (box, (width, height) written) of each, the whole view first; outlines and speeds are measured once.
    """

    def __init__(self, pictures: Sequence[tuple[Box, tuple[int, int]]], cell: int) -> None:
        self.pictures, self.cell = pictures, cell
        self.motion = MotionMeter(*pictures[0][1], cell)

    def measure(self, time: float, frame: NDArray[np.uint8], bodies: list[Body]) -> list[Cells]:
        """The cells of each picture, at a time (seconds, growing) in an RGB picture [height, width, 3] of the view."""
        mask = people_mask(bodies, frame.shape[1], frame.shape[0])
        speed = self.motion.speed(time, np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8))
        cells = []
        for box, size in self.pictures:
            people = np.clip(cell_means(mask, *size, self.cell, box), 0, 1)  # a sum of shares may be a rounding more
            # speeds are in heights of the picture
            cells.append(Cells(people, cell_means(speed, *size, self.cell, box) / np.float32(box[3] - box[1])))
        return cells


def people_mask(bodies: list[Body], width: int, height: int) -> NDArray[np.uint8]:
    """1 inside a person's outline, else 0 [height, width]: the pose task's outline; without a pose the face's hull."""
    mask = np.zeros((height, width), np.uint8)
    for body in bodies:
        if body.pose is not None and body.pose.outline is not None:
            outline, left, top = body.pose.outline
            part = mask[top : top + outline.shape[0], left : left + outline.shape[1]]
            part |= outline > OUTLINE
        elif body.face is not None:
            points = np.rint(body.face.landmarks[:, :2] * [width, height]).astype(np.int32)
            cv2.fillConvexPoly(mask, cv2.convexHull(points), 1)
    return mask


class MotionMeter:
    """What moves by itself, look after look: optical flow (DIS) minus the camera's motion (a similarity, by RANSAC).

    width, height: of the written picture. What fills more than half of the picture is taken for the camera.
    """

    def __init__(self, width: int, height: int, cell: int) -> None:
        self.size, self.cell = (width, height), cell
        short = min(width, height)
        scale = min(max(short, SMALLEST), LARGEST) / short
        self.work = (round(width * scale), round(height * scale))
        """(width, height) of the grey picture that it works on"""
        # The presets FAST and ULTRAFAST stop at a quarter of the resolution: of something two cells wide they see half
        # the speed. Stopping at half sees more than eight tenths, in 2 ms for a picture of 342x192.
        self.flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self.flow.setFinestScale(1)
        self.camera = Camera(*self.work)
        self.last: tuple[float, NDArray[np.uint8]] | None = None

    def measure(self, time: float, grey: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Mean speed [rows, columns] of each cell: ``speed`` says of what."""
        return cell_means(self.speed(time, grey), *self.size, self.cell)

    def speed(self, time: float, grey: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Speed [any, any] over the picture in picture heights per second since the one before; zeros for the first.

        time in seconds; grey [height, width] of any size. Raises ValueError where time does not grow.
        """
        if grey.shape[::-1] != self.work:
            grey = np.asarray(cv2.resize(grey, self.work, interpolation=cv2.INTER_AREA), np.uint8)
        before, self.last = self.last, (time, grey)
        if before is None:
            return np.zeros((1, 1), np.float32)
        seconds = time - before[0]
        if seconds <= 0:
            raise ValueError(f"the frame at {time} s does not come after the one at {before[0]} s")
        flow = np.asarray(self.flow.calc(before[1], grey, None), np.float32)[::STEP, ::STEP]  # pyrefly: ignore
        left = np.ascontiguousarray(flow - self.camera.motion(flow))
        return np.asarray(cv2.magnitude(left[..., 0], left[..., 1])) / np.float32(self.work[1] * seconds)


class Camera:
    """The camera's motion in flow fields of pictures of width x height pixels, taken every STEP pixels."""

    def __init__(self, width: int, height: int) -> None:
        y, x = np.mgrid[0:height:STEP, 0:width:STEP].astype(np.float64)
        self.here = np.stack([x, y, np.ones_like(x)], axis=-1)
        every = max(1, int(np.sqrt(x.size / MOST_POINTS)))
        self.some = (slice(every // 2, None, every), slice(every // 2, None, every))
        self.points = np.ascontiguousarray(self.here[self.some][..., :2].reshape(-1, 2), np.float32)

    def motion(self, flow: NDArray[np.float32]) -> NDArray[np.float32]:
        """The part of a flow field [rows, columns, 2] (pixels) that one shift, turn and zoom of the picture explain."""
        moved = flow[self.some].reshape(-1, 2)
        if 2 * np.count_nonzero(np.abs(moved).max(1) > STILL) < len(moved):
            return np.zeros_like(flow)  # most of the picture stands still, and RANSAC takes longer than the rest
        there = self.points + moved
        affine, _ = cv2.estimateAffinePartial2D(self.points, there, method=cv2.RANSAC, ransacReprojThreshold=0.5)
        if affine is None:  # no motion that any share of the picture agrees on
            return np.zeros_like(flow)
        return (self.here @ (affine - np.eye(2, 3)).T).astype(np.float32)
