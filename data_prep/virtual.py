"""Virtual views: a region of a view (a seat, a face) that becomes a view of its own, cut from the source's resolution.

Its people are the view's: landmarks are measured once, on the source's picture, and carried over into its fractions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_prep.manifest import Box

Arrays = dict[str, NDArray]


def within(stream: str, arrays: Arrays, box: Box) -> Arrays:
    """The rows of face.npz, pose.npz or hands.npz whose place is inside a region, in fractions of the region.

    A face's place is its middle, a body's its nose, a hand's its wrist. What reaches beyond the region lies below 0 or
    above 1, as it does at the edge of any picture. z keeps the unit of x; ``head``, ``world`` and scores stay.
    """
    corner, size = np.array(box[:2], np.float32), np.array(box[2:], np.float32) - np.array(box[:2], np.float32)
    places = arrays["box"].reshape(-1, 2, 2).mean(1) if stream == "face" else arrays["keypoints"][:, 0, :2]
    inside = ((places >= corner) & (places < corner + size)).all(1)
    kept = {name: values if name == "times" else values[inside] for name, values in arrays.items()}
    if "box" in kept:
        kept["box"] = ((kept["box"].reshape(-1, 2, 2) - corner) / size).reshape(-1, 4)
    for name in {"landmarks", "keypoints"} & set(kept):
        moved = kept[name].copy()
        moved[..., :2] = (moved[..., :2] - corner) / size
        moved[..., 2] /= size[0]
        kept[name] = moved
    return kept
