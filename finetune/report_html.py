"""report.html: one page of a run, made of metrics.json and predictions.csv; it needs nothing else and loads nothing.

Style is data_prep's report's. No frame of a recording is shown, so that the page can be passed on where pictures may not be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import data_prep
from finetune import report_figures as figures
from finetune.evaluation import metrics_of
from finetune.report_figures import Point
from finetune.report_record import FOLDS, tested, trained

PAGE = "report.html"
MOST_RECORDINGS = 6  # drawn over time
GIVEN = {"adapted": "adapters put into it", "added": "streams beside the data"}
MOST_CLASSES = 30  # of a confusion matrix that is shown; metrics.json has larger ones


def page(record: dict[str, Any], predictions: pd.DataFrame, name: str) -> str:
    """The HTML page of a run; ``name`` is its folder's."""
    tests = list(record["confusion"])
    return template("page.html.jinja").render(
        name=name,
        record=record,
        main=record["rows"][record["method"]],
        tests=[_test(record, tested(predictions, test), test) for test in tests],
        timelines=_timelines(record, predictions),
        stretches=_stretches(record["left_out"]),
        costs=[(test, _costs(record, test)) for test in tests if points(record, test)],
        settings=_settings(record),
    )


def template(name: str) -> Any:
    """A template of report_page/, in which everything is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("finetune", "report_page")
    settings = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    css = [
        Path(data_prep.__path__[0], "report_page", "page.css"),
        Path(__file__).parent / "report_page" / "finetune.css",
    ]
    names = {
        "styles": [file.read_text(encoding="utf-8") for file in css],
        "figure": figure_text,
        "ahead": ahead,
        "row_name": row_name,
        "metrics": metrics,
        "spans": spans,
        "rows_of": rows_of,
        "where": where,
        "MOST_CLASSES": MOST_CLASSES,
    }
    return Environment(loader=loader, **settings).get_template(name, globals=names)


def metrics(row: dict[str, Any], main: str) -> list[str]:
    """The names of the metrics of a row and test set, the main one first."""
    return sorted(metrics_of(row), key=lambda name: name != main)


def figure_text(value: float | None) -> str:
    """A number as all tables show it."""
    return "" if value is None or math.isnan(value) else f"{value:.3f}"


def ahead(row: dict[str, Any]) -> str:
    """How much the run's method is ahead of a row in the main metric, with its interval; empty for the method's own."""
    told = row.get("ahead")
    if told is None:
        return ""
    return f"{told['mean']:+.3f}" + (
        "" if told["interval"] is None else " ({:+.3f} to {:+.3f})".format(*told["interval"])
    )


def row_name(name: str) -> str:
    """A row of metrics.json in words."""
    return "linear probe" if name == "linear" else name


def where(test: str) -> str:
    """A test set in words."""
    return "all folds" if test == FOLDS else f"split {test}"


def rows_of(rows: dict[str, Any], test: str, part: str | None = None) -> dict[str, Any]:
    """The rows of a test set, or of a part of what is told of it."""
    return {name: tests[test][part] if part else tests[test] for name, tests in rows.items()}


def interval(row: dict[str, Any], main: str) -> tuple[float, float, float] | None:
    """(value, low, high) of the main metric of a row and test set; its own value for ends that are not known."""
    if row[main] is None:
        return None
    value = row[main]["mean"]
    low, high = row["interval"] or (value, value)
    return value, low, high


def spans(rows: Sequence[dict[str, Any]], main: str) -> list[tuple[float, float, float] | None]:
    """``interval`` of rows in per cent of an axis that all of them share: (value, low, high) each."""
    known = [interval(row, main) for row in rows]
    numbers = [number for one in known if one for number in one]
    if not numbers:
        return [None] * len(rows)
    least, room = min(numbers), max(max(numbers) - min(numbers), 1e-9)
    scaled = [None if one is None else [4 + 92 * (number - least) / room for number in one] for one in known]
    return [None if one is None else (one[0], one[1], one[2]) for one in scaled]


def points(record: dict[str, Any], test: str) -> list[Point]:
    """The rows of a run in the picture of costs."""
    found = []
    for name, cost in record["costs"].items():
        if known := interval(record["rows"][name][test], record["main_metric"]):
            found.append(Point(row_name(name), *known, trained(cost), cost["seconds"], name == record["method"]))
    return found


def _test(record: dict[str, Any], rows: pd.DataFrame, test: str) -> dict[str, Any]:
    """What the page shows of the errors in a test set."""
    calibration, confusion = record["calibration"][test], record["confusion"][test]
    numeric = all(pd.api.types.is_numeric_dtype(rows[column]) for column in ("target", "prediction"))
    precision = record["rows"][record["method"]][test].get("average_precision")
    return {
        "name": test,
        "precision": precision and list(precision.items()),
        "confusion": confusion,
        "shares": None if confusion is None else _shares(confusion),
        "scatter": figures.scatter(rows) if numeric and confusion is None and len(rows) else None,
        "calibration": calibration,
        "reliability": None if calibration is None else figures.reliability(calibration),
    }


def _shares(confusion: list[list[int]]) -> list[list[float]]:
    counts = np.array(confusion)
    return (counts / np.maximum(counts.sum(1, keepdims=True), 1)).tolist()


def _timelines(record: dict[str, Any], predictions: pd.DataFrame) -> list[tuple[str, str]]:
    """(whose, picture) of recordings, evenly chosen among those of which the first seed predicts several clips."""
    first = predictions[predictions["seed"] == 0]
    lines = [(who, rows) for who, rows in first.groupby(["recording", "participant"], dropna=False) if len(rows) > 1]
    chosen = np.unique(np.linspace(0, len(lines) - 1, min(len(lines), MOST_RECORDINGS)).round().astype(int))
    found = []
    for number in chosen:
        (recording, participant), rows = lines[number]
        splits = ", ".join(map(str, rows["split"].unique()))
        title = f"{recording}, {participant}" if participant == participant and participant else str(recording)
        found.append((f"{title} ({splits})", figures.over_time(rows, record["classes"])))
    return found


def _costs(record: dict[str, Any], test: str) -> str:
    """The picture of costs, with the best of the rows that do without the encoder as a line."""
    main = record["main_metric"]
    simpler = {name: tests[test][main] for name, tests in record["rows"].items() if name not in record["costs"]}
    best = max(((row["mean"], name) for name, row in simpler.items() if row), default=None)
    return figures.costs(points(record, test), main, best)


def _stretches(left_out: dict[str, Any] | None) -> str | None:
    return None if left_out is None else figures.stretches(left_out["stretches"], "mean drop")


def _settings(record: dict[str, Any]) -> list[tuple[str, str]]:
    """What the run was made of and may be told from another by."""
    encoder = record["encoder"]
    rows = [
        ("encoder", encoder["path"]),
        ("sha256 of its weights", encoder["sha256"]),
        *((name, record[key]) for key, name in GIVEN.items() if record.get(key)),
        ("streams", ", ".join(record["streams"])),
        ("data", record["data"]),
        ("labels", record["labels"]),
        ("splits", f"{record['folds']} folds" if record["folds"] else "of the manifest"),
        ("sha256 of the splits", record["splits_sha256"]),
        *((f"sha256 of the examples, {where(test)}", sha) for test, sha in record["tests_sha256"].items()),
        ("seeds", record["seeds"]),
        ("trained on", encoder["device"]),
    ]
    return [(name, str(value)) for name, value in rows]
