"""Pictures of a run for people to look at: reconstructions.png (what the model makes of hidden tokens) and loss.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from pretrain.clips import Clip
from pretrain.objective import MaskedAutoencoder
from pretrain.reconstruction import Reconstruction, reconstruct
from pretrain.tracking import read_metrics

matplotlib.use("Agg")
from matplotlib import pyplot as plt

INSTANTS = 8  # shown of a clip
POINTS = {"face": 478, "pose": 33}  # of these streams the first numbers of a cell are points (x, y, z)
# lines between the points of a pose: shoulders, arms, trunk, legs (numbers of MediaPipe's 33 points)
BONES = (
    (13, 11),
    (11, 12),
    (12, 14),
    (15, 13),
    (14, 16),
    (11, 23),
    (12, 24),
    (23, 24),
    (23, 25),
    (24, 26),
    (25, 27),
    (26, 28),
)
HIDDEN, SHOWN, REBUILT = "#d9d9d9", "#1f4e79", "#c0504d"


def draw_reconstructions(model: MaskedAutoencoder, clips: Sequence[Clip], seeds: Sequence[int], out: Path) -> None:
    """Writes reconstructions.png: for each kind of masking in use and each modality a clip that has it, in rows original,
    masked, rebuilt."""
    was_training = model.training
    model.eval()
    kinds = model.mask.used_kinds
    found: dict[tuple[str, str], Reconstruction] = {}
    for kind in kinds:
        for clip, seed in zip(clips, seeds, strict=True):
            for name, part in reconstruct(model, clip, seed, kind).items():
                found.setdefault((kind, name), part)
    model.train(was_training)
    figure = plt.figure(figsize=(1.3 * INSTANTS, 4 * len(found)), layout="constrained")
    for (kind, name), panel in zip(found, figure.subfigures(len(found), 1, squeeze=False).flat, strict=True):
        title = name if len(kinds) == 1 else f"{kind}: {name}"
        if name == "video" and model.teacher is not None:
            title += " (rebuilt: cosine similarity with the teacher's features, 0 black, 1 white)"
        panel.suptitle(title, x=0.02, ha="left", fontweight="bold")
        draw = _draw_video if name == "video" else _draw_points if name in POINTS else _draw_cells
        draw(panel, found[kind, name], name)
    _save(figure, out / "reconstructions.png")


def _draw_video(panel: Any, part: Reconstruction, name: str) -> None:
    axes = panel.subplots(3, INSTANTS)
    masked = np.where(part.hidden[..., None], 0.85, part.original)
    rebuilt = np.where(np.isnan(part.rebuilt), 0.85, part.rebuilt)
    for column, frame in enumerate(_instants(len(part.original))):
        for row, pictures in enumerate((part.original, masked, rebuilt)):
            axes[row, column].imshow(pictures[frame], vmin=0, vmax=1)
    _label(axes)


def _draw_points(panel: Any, part: Reconstruction, name: str) -> None:
    """A face as its head sees it, or a pose relative to its person's recent place, at some instants."""
    axes = panel.subplots(3, INSTANTS)
    there = np.flatnonzero(~np.isnan(part.original[:, 0]))
    series = [cells[:, : 3 * POINTS[name]].reshape(len(cells), -1, 3) for cells in (part.original, part.rebuilt)]
    spread = np.nanmax(np.abs(series[0][..., :2])) * 1.1
    for column, cell in enumerate(there[_instants(len(there))]):
        hidden = part.hidden[cell]
        rows = ((series[0], SHOWN), (series[0], HIDDEN if hidden else SHOWN), (series[1], REBUILT if hidden else SHOWN))
        for row, (points, colour) in enumerate(rows):
            if not (row == 1 and hidden):
                place = points[cell, :, :2]
                axes[row, column].scatter(*place.T, s=1 if name == "face" else 4, c=colour, linewidths=0)
                for bone in BONES if name == "pose" else ():
                    axes[row, column].plot(*place[list(bone)].T, c=colour, linewidth=1)
            axes[row, column].set(xlim=(-spread, spread), ylim=(spread, -spread), aspect="equal")
            nothing = (row == 1 and hidden) or np.isnan(rows[row][0][cell]).all()
            axes[row, column].set_facecolor(HIDDEN if nothing else "white")
    _label(axes)


def _draw_cells(panel: Any, part: Reconstruction, name: str) -> None:
    """Numbers over time as a map: for audio a mel spectrogram."""
    axes = panel.subplots(3, 1, squeeze=False)
    low, high = np.nanpercentile(part.original, [1, 99])
    masked = np.where(part.hidden[:, None], np.nan, part.original)
    for row, cells in enumerate((part.original, masked, part.rebuilt)):
        axes[row, 0].imshow(cells.T, aspect="auto", origin="lower", vmin=low, vmax=high, cmap="magma")
        axes[row, 0].set_facecolor(HIDDEN)
    _label(axes)


def _instants(length: int) -> np.ndarray:
    """Up to INSTANTS places, evenly spread."""
    return np.unique(np.linspace(0, length - 1, min(length, INSTANTS)).astype(int))


def _label(axes: np.ndarray) -> None:
    for row, text in enumerate(("original", "masked", "rebuilt")):
        axes[row, 0].set_ylabel(text)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)


def draw_losses(out: Path) -> None:
    """Writes loss.png from metrics.csv: a curve a modality, steps behind it in a paler tone; a panel for all kinds of masking
    together, and one for each where there are several."""
    rows = read_metrics(out / "metrics.csv")
    columns = [name.removeprefix("loss_") for name in rows[0] if name.startswith("loss_")]
    modalities = [name for name in columns if "/" not in name]
    kinds = list(dict.fromkeys(name.partition("/")[0] for name in columns if "/" in name))
    figure, axes = plt.subplots(
        1, 1 + len(kinds), figsize=(7 + 4 * len(kinds), 4), layout="constrained", sharey=True, squeeze=False
    )
    for axis, kind in zip(axes.flat, ["", *kinds], strict=True):
        for number, modality in enumerate(modalities):
            column = f"loss_{kind}/{modality}" if kind else f"loss_{modality}"
            points = [(int(row["step"]), float(row[column])) for row in rows if row[column]]
            _draw_curve(axis, points, f"C{number}", modality)
        axis.set(xlabel="step", ylim=(0, None), title=kind)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.3)
    axes[0, 0].set_ylabel("error of hidden tokens")
    axes[0, 0].legend(frameon=False)
    _save(figure, out / "loss.png")


def _draw_curve(axis: Any, points: list[tuple[int, float]], colour: str, label: str) -> None:
    if not points:
        return
    steps, losses = np.array(points).T
    width = max(len(losses) // 20, 1)
    smooth = np.convolve(losses, np.ones(width) / width, "valid")
    axis.plot(steps, losses, color=colour, alpha=0.25, linewidth=0.8)
    axis.plot(steps[width - 1 :], smooth, color=colour, linewidth=2, label=label)


def _save(figure: Any, file: Path) -> None:
    temporary = file.with_name(f".{file.name}")
    figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
    temporary.replace(file)
