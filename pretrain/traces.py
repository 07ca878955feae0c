"""Which tokens of a clip show a person or carry that person's voice, and which stretch of time a token holds.

Masking by person leans to the safe side: where it is not known whether somebody is seen or heard, all tokens count.
"""

from __future__ import annotations

import numpy as np

from pretrain.clips import Clip, View
from pretrain.config import ModelConfig
from pretrain.stream_vectors import WINDOW_SECONDS
from pretrain.tokens import SCENE, Tokens


def people_of(tokens: dict[str, Tokens]) -> np.ndarray:
    """The persons to whom any token of a clip belongs, int64 [person], sorted."""
    people = np.unique(np.concatenate([part.person for part in tokens.values()]))
    return people[people != SCENE]


def extent(name: str, tokens: Tokens, model: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last instant of which anything enters each token: seconds [token] each."""
    if name == "video":
        half = model.tubelet / model.frame_rate / 2
    else:  # a spectrum looks half a window around its cell
        half = model.streams[name].token_seconds / 2 + (WINDOW_SECONDS / 2 if name == "audio" else 0.0)
    return tokens.time - half, tokens.time + half


def traces(
    clip: Clip, tokens: dict[str, Tokens], person: int, model: ModelConfig, margin: float
) -> dict[str, np.ndarray]:
    """bool [token] by modality: the person's own streams, pixels in every view (with ``margin``) and voice.

    tokens: all of the clip's, by modality.
    """
    found = {name: part.person == person for name, part in tokens.items()}
    if "video" in tokens:
        found["video"] |= _pixels(clip, tokens["video"], person, model, margin)
    if "audio" in tokens:
        found["audio"] |= _voice(clip, tokens["audio"], person, model)
    return found


def _voice(clip: Clip, audio: Tokens, person: int, model: ModelConfig) -> np.ndarray:
    """bool [token]: sound in which the person is heard: all channels of all views (a room's microphones hear everybody)
    while the person speaks, or somebody unknown does; all sound where nobody found out who speaks."""
    if "speech" not in clip.meta:
        return np.ones(len(audio), bool)
    said = [(s["start"], s["end"]) for s in clip.meta["speech"] if s["person"] in (person, None)]
    start, end = extent("audio", audio, model)
    begins, ends = np.array(said, float).reshape(-1, 2).T
    return np.any((start[:, None] < ends) & (end[:, None] > begins), axis=1)


def _pixels(clip: Clip, video: Tokens, person: int, model: ModelConfig, margin: float) -> np.ndarray:
    """bool [token]: cells that touch the person's box at any instant of the tubelet; all of a view where nobody looked for
    people, none of one where the person was looked for and not seen."""
    shown = np.zeros(len(video), bool)
    start, end = extent("video", video, model)
    for number, view in enumerate(clip.views.values()):
        rows = np.flatnonzero(video.view == number)
        if not len(rows):
            continue
        if view.face is None and view.pose is None:
            shown[rows] = True
        _, height, width = video.grids[video.grid[rows[0]]]
        row, column = video.place[rows] // width, video.place[rows] % width
        starts, step = np.unique(start[rows], return_inverse=True)
        ends = starts + (end[rows[0]] - start[rows[0]])
        for times, boxes in boxes_of(view, person):
            wide = np.tile((boxes[:, 2:] - boxes[:, :2]) * margin, 2) * [-1, -1, 1, 1]
            x0, y0, x1, y1 = hull(times, boxes + wide, starts, ends)[step].T
            across = (x0 * width <= column + 1) & (x1 * width >= column)
            shown[rows] |= across & (y0 * height <= row + 1) & (y1 * height >= row)
    return shown


def boxes_of(view: View, person: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Where a view sees a person, as body, as face and as hands: (times [look], boxes [look, 4] as x0 y0 x1 y1, fractions) each.

    The body of a person of whom only the face is known is guessed: three faces wide and down to the lower edge. Several hands
    of an instant have one box: which is the left one may change from look to look.
    """
    found = []
    streams = view.detections()
    for name in ("pose", "face", "hands"):
        rows = streams.get(name)
        mine = np.flatnonzero(rows["person"] == person) if rows is not None else np.zeros(0, int)
        if rows is None or not len(mine):
            continue
        if name == "face":
            boxes = np.array(rows["box"][mine], float)
            boxes = boxes if found else _body_below(boxes)
        else:
            points = rows["keypoints"][mine, :, :2]
            boxes = np.concatenate([points.min(1), points.max(1)], 1)
        window, first = np.unique(rows["window"][mine], return_inverse=True)
        whole = np.tile([np.inf, np.inf, -np.inf, -np.inf], (len(window), 1))
        np.minimum.at(whole[:, :2], first, boxes[:, :2])
        np.maximum.at(whole[:, 2:], first, boxes[:, 2:])
        found.append((rows["times"][window], whole))
    return found


def _body_below(faces: np.ndarray) -> np.ndarray:
    """faces [look, 4] -> bodies [look, 4]"""
    width = faces[:, 2] - faces[:, 0]
    return np.stack(
        [faces[:, 0] - width, faces[:, 1], faces[:, 2] + width, np.maximum(faces[:, 3], 1)],
        1,
    )


def hull(times: np.ndarray, boxes: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The smallest boxes [step, 4] that hold a moving one from ``start`` to ``end`` [step].

    times [look], boxes [look, 4]: it moves straight from look to look, and stands before the first and after the last.
    """
    times, first = np.unique(times, return_index=True)
    instants = np.unique(np.concatenate([times, start, end]))
    path = np.stack([np.interp(instants, times, side) for side in boxes[first].T], 1)
    path = np.concatenate([path, path[-1:]])  # reduceat takes no bound beyond the last row
    bounds = np.stack([np.searchsorted(instants, start), np.searchsorted(instants, end, side="right")], 1).ravel()
    low, high = np.minimum.reduceat(path, bounds)[::2], np.maximum.reduceat(path, bounds)[::2]
    return np.concatenate([low[:, :2], high[:, 2:]], 1)
