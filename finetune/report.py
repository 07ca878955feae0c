"""What a run leaves behind to look at: predictions.csv, metrics.json, report.html, report.md, and a table on the screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep.report import write
from finetune.config import RunConfig
from finetune.evaluation import Predictions, metrics_of
from finetune.problem import Problem
from finetune.report_html import PAGE, ahead, page
from finetune.report_record import FOLDS
from finetune.tasks import Task

AHEAD = "method ahead by"
SHOWN = 6  # columns of the table on the screen; report.md has all
SIMPLER = (
    "majority",
    "mean predictor",
    "metadata",
)  # rows whose predictions are kept: a data set's own rule is applied to them
Table = dict[str, dict[str, dict[str, Any]]]  # row -> test set -> what evaluation.summary gives


def write_predictions(path: Path, config: RunConfig, problem: Problem, results: dict[str, Predictions]) -> pd.DataFrame:
    """One row an example, test set and seed. Returns what it wrote."""
    frames = []
    for test, predictions in results.items():
        about = problem.examples.iloc[predictions.examples]
        for seed, values in enumerate(predictions.values):
            frame = about[["recording", "participant", "start", "end"]].reset_index(drop=True)
            split = predictions.splits[seed] if test == FOLDS else test
            frame = frame.assign(split=split, seed=seed, target=about["value"].to_numpy())
            limits = np.broadcast_to(predictions.thresholds, predictions.values.shape[:2])[seed]
            frame["prediction"] = problem.task.said(problem.task.decide(values, limits))
            for number, name in enumerate(problem.task.classes):
                frame[f"p({name})"] = values[:, number].round(6)
            if config.threshold == "youden":
                frame["threshold"] = limits.round(6)
            frames.append(frame)
    table = pd.concat(frames, ignore_index=True)
    write(path, table.to_csv(index=False).encode())
    return table


def baseline_file(folder: Path, row: str) -> Path:
    """Where a run keeps the predictions of a row of SIMPLER."""
    return folder / "baselines" / f"{row}.csv"


def write_baselines(
    folder: Path, config: RunConfig, problem: Problem, results: dict[str, dict[str, Predictions]]
) -> None:
    """The same for the rows of SIMPLER, each in a file of its own; results: row -> test set -> predictions."""
    for row in SIMPLER:
        file = baseline_file(folder, row)
        file.unlink(missing_ok=True)  # of an earlier run into the same folder
        if row in results:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_predictions(file, config, problem, results[row])


def write_report(
    config: RunConfig, problem: Problem, table: Table, record: dict[str, Any], predictions: pd.DataFrame
) -> None:
    """metrics.json, report.html and report.md into ``config.out``; prints the table. record: of report_record.record."""
    write(config.out / "metrics.json", json.dumps(record, indent=1, allow_nan=False).encode())
    write(config.out / PAGE, page(record, predictions, config.out.resolve().name).encode())
    write(config.out / "report.md", markdown(config, problem, table, record["trained"]).encode())
    print_table(config, problem, table)
    print(record["trained"])
    print(f"report: {config.out / PAGE}   predictions: {config.out / 'predictions.csv'}")


def cells(problem: Problem, row: dict[str, Any]) -> list[str]:
    """The metrics of one row and test set as text: mean over seeds and spread; of the main one also the interval and ``ahead``."""
    values = {name: row[name] for name in metrics_of(row)}
    spread = {n: "" if v is None else f"{v['mean']:.3f} ± {v['std']:.3f}" for n, v in values.items()}
    interval = "" if row["interval"] is None else "{:.3f} to {:.3f}".format(*row["interval"])
    return [spread.pop(problem.task.main_metric), interval, ahead(row), *spread.values()]


def headings(row: dict[str, Any], task: Task) -> list[str]:
    """What ``cells`` are about."""
    return [task.main_metric, "95 % interval", AHEAD, *(name for name in metrics_of(row) if name != task.main_metric)]


def markdown(config: RunConfig, problem: Problem, table: Table, trained: str) -> str:
    """report.md: what was asked, what came out, and what to be careful about."""
    lines = [
        f"# {config.target}: {problem.task.name} with method {config.method}",
        "",
        f"Encoder `{config.encoder}` ({'tuned' if config.method == 'full' else 'frozen'}), streams "
        f"{', '.join(problem.streams)}; data `{config.data}`; "
        f"labels `{config.labels}`. {config.seeds} seeds.",
        "",
        f"{trained[0].upper()}{trained[1:]}.",
        "",
        f"Mean ± deviation over seeds; the interval is that of {problem.task.main_metric}, by resampling {problem.unit}. "
        f"{AHEAD.capitalize()}: what {config.method} has more of it than a row, the same {problem.unit} drawn for both.",
    ]
    for test in next(iter(table.values())):
        first = next(iter(table.values()))[test]
        names = headings(first, problem.task)
        where = "all folds" if test == "folds" else f"split `{test}`"
        lines += ["", f"## {where}: {first['examples']} examples of {first['recordings']} recordings", ""]
        lines += [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        lines += [
            f"| {label(name, config)} | {' | '.join(cells(problem, rows[test]))} |" for name, rows in table.items()
        ]
        if first["participants"]:
            lines += [
                "",
                f"Of {first['participants']['examples']} participants, each by the mean over the own examples:",
                "",
            ]
            lines += [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
            of = {name: cells(problem, rows[test]["participants"]) for name, rows in table.items()}
            lines += [f"| {label(name, config)} | {' | '.join(values)} |" for name, values in of.items()]
    if problem.notes:
        lines += ["", "## To be careful about", "", *(f"- {note}" for note in problem.notes)]
    return "\n".join(lines) + "\n"


def label(name: str, config: RunConfig) -> str:
    """A row's name in tables and plots."""
    name = "linear probe" if name == "linear" else name
    return f"**{name}**" if name == label_of_method(config) else name


def label_of_method(config: RunConfig) -> str:
    return "linear probe" if config.method == "linear" else config.method


def print_table(config: RunConfig, problem: Problem, table: Table) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    for test, first in next(iter(table.values())).items():
        names = headings(first, problem.task)[:SHOWN]
        shown = RichTable(
            "",
            *names,
            title=f"{config.target}, {test}: {first['examples']} examples of {first['recordings']} recordings",
        )
        for name, rows in table.items():
            shown.add_row(label(name, config).strip("*"), *cells(problem, rows[test])[:SHOWN])
        Console().print(shown)
