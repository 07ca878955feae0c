"""Where people are and what moves, per cell of the picture: what relevance is later computed from.

A cell is ``cell`` x ``cell`` pixels (16, as VideoMAE's patches) of the WRITTEN picture, counted from the upper left; the
last row and column are narrower where its sides are no multiple.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.people import Body

SMALLEST = 64  # pixels: optical flow is computed on a picture whose short side has at least this many
OUTLINE = 0.5  # the outline's value from which a pixel counts as a person's


def cell_means(values: NDArray, width: int, height: int, cell: int) -> NDArray[np.float32]:
    """Means [rows, columns] over the cells of a written picture of width x height pixels; values [any, any] cover it."""
    pixels = np.asarray(cv2.resize(values.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA))
    rows, columns = np.arange(0, height, cell), np.arange(0, width, cell)
    sums = np.add.reduceat(np.add.reduceat(pixels, rows, axis=0), columns, axis=1)
    sizes = np.outer(np.diff(rows, append=height), np.diff(columns, append=width))
    return (sums / sizes).astype(np.float32)


def people_cells(
    bodies: list[Body], frame: tuple[int, int], written: tuple[int, int], cell: int
) -> NDArray[np.float32]:
    """Share [rows, columns] of each cell inside a person's outline.

    frame: (width, height) of the picture looked at; written: of the written one. The outline is the pose task's; of a
    person without a pose it is the face's hull.
    """
    width, height = frame
    mask = np.zeros((height, width), np.uint8)
    for body in bodies:
        if body.pose is not None and body.pose.outline is not None:
            outline, left, top = body.pose.outline
            part = mask[top : top + outline.shape[0], left : left + outline.shape[1]]
            part |= outline > OUTLINE
        elif body.face is not None:
            points = np.rint(body.face.landmarks[:, :2] * [width, height]).astype(np.int32)
            cv2.fillConvexPoly(mask, cv2.convexHull(points), 1)
    return cell_means(mask, *written, cell)


class MotionMeter:
    """What moves by itself, look after look: optical flow (DIS) minus the camera's motion (a similarity, by RANSAC).

    width, height: of the written picture. What fills more than half of the picture is taken for the camera.
    """

    def __init__(self, width: int, height: int, cell: int) -> None:
        self.size, self.cell = (width, height), cell
        larger = max(1.0, SMALLEST / min(width, height))
        self.work = (round(width * larger), round(height * larger))
        # The presets FAST and ULTRAFAST stop at a quarter of the resolution, where a cell is 4 pixels wide: of something
        # two cells wide they see half the speed. Stopping at half sees nine tenths, in 6 ms at 456x256.
        self.flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self.flow.setFinestScale(1)
        self.last: tuple[float, NDArray[np.uint8]] | None = None

    def measure(self, time: float, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Mean speed [rows, columns] in picture heights per second since the frame before; zeros for the first.

        time in seconds; frame [height, width, 3] RGB of any size. Raises ValueError where time does not grow.
        """
        small = cv2.resize(frame, self.work, interpolation=cv2.INTER_AREA)
        grey = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)
        before, self.last = self.last, (time, grey)
        if before is None:
            return cell_means(np.zeros((1, 1)), *self.size, self.cell)
        seconds = time - before[0]
        if seconds <= 0:
            raise ValueError(f"the frame at {time} s does not come after the one at {before[0]} s")
        flow = np.asarray(self.flow.calc(before[1], grey, None), np.float32)  # type: ignore
        moved = np.linalg.norm(flow - camera_motion(flow), axis=-1)
        return cell_means(moved / (self.work[1] * seconds), *self.size, self.cell)


def camera_motion(flow: NDArray[np.float32], step: int = 8) -> NDArray[np.float32]:
    """The part of a flow field [height, width, 2] (pixels) that one shift, turn and zoom of the picture explain."""
    height, width = flow.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    here = np.stack([x, y], axis=-1)
    some = here[step // 2 :: step, step // 2 :: step].reshape(-1, 2)
    there = some + flow[step // 2 :: step, step // 2 :: step].reshape(-1, 2)
    affine, _ = cv2.estimateAffinePartial2D(some, there, method=cv2.RANSAC, ransacReprojThreshold=0.5)
    if affine is None:  # no motion that any share of the picture agrees on
        return np.zeros_like(flow)
    return (here @ affine[:, :2].T + affine[:, 2] - here).astype(np.float32)
