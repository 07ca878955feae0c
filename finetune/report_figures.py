"""The drawings of the report and of ``finetune compare``: SVG pictures as data addresses, the same bytes for the same numbers."""

from __future__ import annotations

import base64
import io
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from data_prep.overlay import INK, PALETTE
from finetune.metrics import BINS
from finetune.report_record import probabilities

MOST_LINES = 8  # classes whose probability is drawn; of more, those that are most probable in the recording
BESIDE = {"left": 0.08, "right": 0.8, "bottom": 0.22, "top": 0.97, "hspace": 0.15}  # room for names to the right
MOST_LETTERS = 22  # of a class's name beside a picture
SMALLEST = 1e-3  # weights or seconds that a logarithmic axis shows
SETTINGS = {
    "svg.hashsalt": "kinesic",
    "text.parse_math": False,  # a class may be called $x$
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa5b1",
    "text.color": INK,
    "axes.labelcolor": INK,
}


@dataclass
class Point:
    """A method or run in the picture of costs: main metric with its interval (or its own value twice), weights, seconds."""

    name: str
    value: float
    low: float
    high: float
    weights: int
    seconds: float
    strong: bool
    """the method of the report, not what stands beside it"""


@contextmanager
def drawing(
    width: float, height: float, columns: int = 1, rows: int = 1, layout: Any = "constrained", **more: Any
) -> Generator[tuple[Any, Any, list[str]]]:
    """A figure of so many inches, its axes, and a list that holds the address of the picture once it is drawn.

    layout: as matplotlib has it; or the margins of ``subplots_adjust``, in a third of the time.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    address: list[str] = []
    with matplotlib.rc_context(SETTINGS):
        margins = layout if isinstance(layout, dict) else None
        found = None if margins else layout
        figure, axes = plt.subplots(rows, columns, figsize=(width, height), layout=found, **more)
        if margins:
            figure.subplots_adjust(**margins)
        yield figure, axes, address
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    address.append(f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}")


def scatter(rows: pd.DataFrame) -> str:
    """Targets against predictions of a regression, a point an example and seed."""
    with drawing(4.4, 4.2) as (_, axes, address):
        axes.scatter(rows["target"], rows["prediction"], s=10, alpha=0.5, color=PALETTE[1], edgecolors="none")
        ends = [
            min(rows["target"].min(), rows["prediction"].min()),
            max(rows["target"].max(), rows["prediction"].max()),
        ]
        axes.plot(ends, ends, color="#9aa5b1", linewidth=1)
        axes.set(xlabel="target", ylabel="prediction")
    return address[0]


def reliability(calibration: dict[str, Any]) -> str:
    """What is said against what is so (``report_record.calibration``), and how often each is said."""
    said = np.array(calibration["predicted"])
    with drawing(4.4, 4.2, rows=2, height_ratios=(4, 1), sharex=True) as (_, (above, below), address):
        above.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=1)
        above.plot(said, calibration["observed"], "o-", color=PALETTE[5], markersize=4)
        above.set(ylabel="how often it is so", ylim=(-0.02, 1.02), xlim=(-0.02, 1.02))
        begin = np.minimum((said * BINS).astype(int), BINS - 1) / BINS
        below.bar(begin, calibration["count"], 1 / BINS, align="edge", color="#486581", edgecolor="white")
        of = calibration["of"] or "the most probable class"
        below.set(xlabel=f"probability of {of}", ylabel="examples")
    return address[0]


def over_time(rows: pd.DataFrame, classes: Sequence[str]) -> str:
    """Target and prediction of one recording (and participant) over time: rows of predictions.csv of one seed."""
    rows = rows.sort_values("start")
    said = probabilities(rows)
    if len(said.columns) and set(rows["target"]) | set(rows["prediction"]) <= set(classes):
        return _classes_over_time(rows, said, classes)
    with drawing(9.5, 1.9, layout=BESIDE) as (_, axes, address):
        if len(said.columns):
            _lines(axes, rows, said)
            axes.set(ylabel="probability", ylim=(-0.03, 1.03))
        else:
            _steps(axes, rows, rows["target"], INK, "target", 2.5)
            _steps(axes, rows, rows["prediction"], PALETTE[5], "prediction", 1.5)
        axes.set_xlabel("seconds")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return address[0]


def _classes_over_time(rows: pd.DataFrame, said: pd.DataFrame, classes: Sequence[str]) -> str:
    """A strip of the targets, one of the predictions, and the probabilities below them."""
    colours = {name: PALETTE[number % len(PALETTE)] for number, name in enumerate(classes)}
    with drawing(9.5, 2.3, rows=2, height_ratios=(1, 2.4), sharex=True, layout=BESIDE) as (_, (strips, lines), address):
        for y, column in ((1, "target"), (0, "prediction")):
            for start, end, name in rows[["start", "end", column]].itertuples(index=False):
                strips.broken_barh([(start, end - start)], (y - 0.4, 0.8), color=colours[name], edgecolor="white")
        strips.set_yticks([1, 0], ["target", "prediction"])
        strips.tick_params(length=0)
        strips.spines[:].set_visible(False)
        _lines(lines, rows, said, colours)
        lines.set(ylabel="probability", xlabel="seconds", ylim=(-0.03, 1.03))
        lines.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return address[0]


def _lines(axes: Any, rows: pd.DataFrame, said: pd.DataFrame, colours: dict[str, str] | None = None) -> None:
    likely = said.max().sort_values(ascending=False, kind="stable").index[:MOST_LINES]
    for number, name in enumerate(name for name in said.columns if name in set(likely)):
        colour = colours[name] if colours else PALETTE[number % len(PALETTE)]
        _steps(axes, rows, said[name], colour, _short(name), 1.8)


def _short(name: str) -> str:
    return name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…"


def _steps(axes: Any, rows: pd.DataFrame, values: pd.Series, colour: str, name: str, width: float) -> None:
    """A level for each row, joined where one row ends as the next one starts."""
    starts, ends, levels = (column.to_numpy(float) for column in (rows["start"], rows["end"], values))
    x = np.stack([starts, ends, np.full(len(starts), np.nan)], 1)
    y = np.stack([levels, levels, np.full(len(starts), np.nan)], 1)
    touching = np.flatnonzero(np.isclose(ends[:-1], starts[1:]))
    x[touching, 2], y[touching, 2] = ends[touching], levels[touching + 1]
    axes.plot(x.ravel(), y.ravel(), color=colour, linewidth=width, label=name)


def stretches(drops: Sequence[float], unit: str) -> str:
    """Mean drop by stretch of a clip, from its start to its end."""
    with drawing(4.4, 2.4) as (_, axes, address):
        at = (np.arange(len(drops)) + 0.5) / len(drops)
        axes.bar(at, drops, 0.92 / len(drops), color="#486581")
        axes.axhline(0, color="#9aa5b1", linewidth=1)
        axes.set(xlabel="part of the clip that is left out, start to end", xlim=(0, 1), ylabel=unit)
        axes.set_xticks(
            np.linspace(0, 1, len(drops) + 1), [f"{100 * x:.0f} %" for x in np.linspace(0, 1, len(drops) + 1)]
        )
    return address[0]


def costs(points: Sequence[Point], metric: str, simpler: tuple[float, str] | None = None) -> str:
    """The main metric against trained weights and against seconds of training, both on logarithmic axes.

    simpler: (value, name) of a predictor that costs nothing that is counted here: a line.
    """
    with drawing(9.5, 1.9 + 0.22 * max(len(points), 8), columns=2, sharey=True) as (figure, both, address):
        for axes, field, label in zip(
            both, ("weights", "seconds"), ("trained weights", "seconds of a training"), strict=True
        ):
            for number, point in enumerate(points):
                x = max(getattr(point, field), SMALLEST)
                reach = [[point.value - point.low], [point.high - point.value]]
                style = {"fmt": "oDsv^P*X"[number // len(PALETTE) % 8], "markersize": 8 if point.strong else 5}
                colour = PALETTE[number % len(PALETTE)]
                axes.errorbar(
                    x, point.value, np.clip(reach, 0, None), **style, color=colour, elinewidth=1, label=point.name
                )
            if simpler:
                axes.axhline(simpler[0], color="#9aa5b1", linewidth=1.2, linestyle="--", label=simpler[1])
            _logarithmic(axes, [max(getattr(point, field), SMALLEST) for point in points])
            axes.set_xlabel(label)
            axes.grid(color="#e4e7eb", linewidth=0.6)
        both[0].set_ylabel(metric)
        names = both[0].get_legend_handles_labels()
        figure.legend(*names, loc="outside right upper", frameon=False)
    return address[0]


def _logarithmic(axes: Any, values: Sequence[float]) -> None:
    """An x axis with room beside the values, and round numbers on it however near to each other they lie."""
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = min(values) / 2, max(values) * 2
    axes.set(xscale="log", xlim=(low, high))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:g}")
