"""Predictions over time beside frames of the recording, as one PNG a recording."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from configs import UserError
from data_prep.shards import key_bases, read_sample
from finetune.parts import Parts
from finetune.tuned import Tuned
from pretrain.clips import read_clip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FRAMES = 8  # of a recording, evenly over its time
MOST_PEOPLE, MOST_CLASSES = 6, 8  # that are drawn
MOST_DOTS = 200  # of a line; of more, the line alone is drawn


def draw(parts: Parts, tuned: Tuned, folder: Path, most: int) -> None:
    """Draws the first ``most`` recordings of a finished table into ``folder``, whose PNGs are called as the recordings."""
    if not most:
        return
    names = key_bases(parts.index["recording"].unique())
    chosen = parts.index["recording"].unique()[:most]
    table = pq.read_table(parts.files, filters=[("recording", "in", chosen.tolist())]).to_pandas()
    drawn = [name for name in chosen if (table["recording"] == name).any()]
    folder.mkdir(parents=True, exist_ok=True)
    for name in drawn:
        sheet = contact_sheet(parts, parts.index[parts.index["recording"] == name])
        draw_recording(folder / f"{names[name]}.png", name, table[table["recording"] == name], tuned, sheet)
    print(f"{folder}: pictures of {len(drawn)} recordings")


def contact_sheet(parts: Parts, index: pd.DataFrame) -> list[tuple[float, np.ndarray]]:
    """(time, picture uint8 [height, width, 3]) of the first view, evenly over a recording; only where there are pictures."""
    index = index.sort_values("start", kind="stable")
    first, last = index["start"].min(), index["end"].max()
    found = []
    for time in first + (np.arange(FRAMES) + 0.5) / FRAMES * (last - first):
        row = index.iloc[max(np.searchsorted(index["start"], time, side="right") - 1, 0)]
        try:
            clip = read_clip(read_sample(parts.shards, row), ("video",))
        except (UserError, ValueError, OSError, KeyError):
            continue  # it has been told as left out
        for view in (clip.views[name] for name in sorted(clip.views)):
            if view.frames is not None and len(view.frames):
                at = round((time - clip.start - view.frame_start) * view.frame_rate)
                found.append((float(time), view.frames[int(np.clip(at, 0, len(view.frames) - 1))].copy()))
                break
    return found


def draw_recording(
    path: Path, name: str, rows: pd.DataFrame, tuned: Tuned, sheet: list[tuple[float, np.ndarray]]
) -> None:
    """One picture: the contact sheet, and below it the predictions, an axis for the scene or for each person."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    people = rows["person"].value_counts(dropna=False, sort=True).index[:MOST_PEOPLE]
    more = rows["person"].nunique(dropna=False) - len(people)
    figure = plt.figure(figsize=(13, 1.9 * bool(sheet) + 2.2 * len(people) + 0.4), layout="constrained")
    grid = figure.add_gridspec(1 + len(people), FRAMES, height_ratios=[0.85 if sheet else 0.01] + [1] * len(people))
    for number, (time, picture) in enumerate(sheet):
        shown = figure.add_subplot(grid[0, number])
        shown.imshow(picture)
        shown.set_title(clock(time), fontsize=8)
        shown.axis("off")
    axes: list[Axes] = []
    for number, person in enumerate(sorted(people, key=lambda p: -1 if pd.isna(p) else p)):
        axis = figure.add_subplot(grid[1 + number, :], sharex=axes[0] if axes else None)
        own = rows[rows["person"].isna() if pd.isna(person) else rows["person"] == person]
        _lines(axis, own.sort_values("start"), tuned)
        axis.set_ylabel(_who(own), fontsize=8)
        for time, _ in sheet:
            axis.axvline(time, color="grey", linewidth=0.5, linestyle=":")
        axes.append(axis)
    axes[0].xaxis.set_major_formatter(lambda value, _: clock(value))
    axes[0].set_xlim(rows["start"].min(), rows["end"].max())
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=MOST_CLASSES, fontsize=8)
    figure.suptitle(f"{name}: {tuned.target}" + (f" (and of {more} more people)" if more > 0 else ""), fontsize=10)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, dpi=100, format="png")
    temporary.replace(path)
    plt.close(figure)


def _lines(axis: Axes, rows: pd.DataFrame, tuned: Tuned) -> None:
    """A line a class, or the values; broken where there is no clip."""
    columns = [name for name in rows if str(name).startswith("p(")]
    if columns:
        columns = rows[columns].mean().nlargest(MOST_CLASSES).index
        axis.set_ylim(-0.02, 1.02)
    else:
        columns = ["prediction"]
    start, end = rows["start"].to_numpy(), rows["end"].to_numpy()
    gaps = np.flatnonzero(start[1:] > end[:-1] + 1e-6) + 1
    times = np.insert((start + end) / 2, gaps, np.nan)
    for name in sorted(map(str, columns)):
        label = tuned.target if name == "prediction" else name
        values = np.insert(rows[name].to_numpy(float), gaps, np.nan)
        axis.plot(times, values, marker="." if len(rows) <= MOST_DOTS else "", linewidth=1, label=label)


def _who(rows: pd.DataFrame) -> str:
    person, participant = rows["person"].iloc[0], rows["participant"].iloc[0]
    return "scene" if pd.isna(person) else f"person {person}" if pd.isna(participant) else str(participant)


def clock(seconds: float) -> str:
    """1:02:03, or 2:03 in the first hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
