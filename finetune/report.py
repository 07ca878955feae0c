"""What a run leaves behind to look at: predictions.csv, metrics.json, report.md, report.png, and a table on the screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from configs import plain
from finetune.config import RunConfig
from finetune.evaluation import Predictions, metrics_of
from finetune.problem import Problem
from finetune.tasks import Task

SHOWN = 6  # columns of the table on the screen; report.md has all
Table = dict[str, dict[str, dict[str, Any]]]  # row -> test set -> what evaluation.summary gives


def write_predictions(path: Path, config: RunConfig, problem: Problem, results: dict[str, Predictions]) -> None:
    """One row an example, test set and seed."""
    frames = []
    for test, predictions in results.items():
        about = problem.examples.iloc[predictions.examples]
        for seed, values in enumerate(predictions.values):
            frame = about[["recording", "participant", "start", "end"]].reset_index(drop=True)
            split = predictions.splits[seed] if test == "folds" else test
            frame = frame.assign(split=split, seed=seed, target=about["value"].to_numpy())
            limits = np.broadcast_to(predictions.thresholds, predictions.values.shape[:2])[seed]
            frame["prediction"] = problem.task.said(problem.task.decide(values, limits))
            for number, name in enumerate(problem.task.classes):
                frame[f"p({name})"] = values[:, number].round(6)
            if config.threshold == "youden":
                frame["threshold"] = limits.round(6)
            frames.append(frame)
    temporary = path.with_name(f".{path.name}.tmp")
    pd.concat(frames).to_csv(temporary, index=False)
    temporary.replace(path)


def write_report(
    config: RunConfig, problem: Problem, table: Table, results: dict[str, Predictions], trained: str
) -> None:
    """metrics.json, report.md and report.png into ``config.out``; prints the table."""
    text = markdown(config, problem, table, trained)
    record = {
        "target": config.target,
        "task": problem.task.name,
        "classes": problem.task.classes,
        "streams": problem.streams,
        "trained": trained,
        "notes": problem.notes,
        "rows": table,
    }
    for name, content in (("metrics.json", json.dumps(plain(record), indent=1)), ("report.md", text)):
        temporary = config.out / f".{name}.tmp"
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(config.out / name)
    draw(config.out / "report.png", config, problem, table, results)
    print_table(config, problem, table)
    print(trained)
    print(f"report: {config.out / 'report.md'}   predictions: {config.out / 'predictions.csv'}")


def cells(problem: Problem, row: dict[str, Any]) -> list[str]:
    """The metrics of one row and test set as text: mean over seeds, spread, interval of the main metric."""
    values = {name: row[name] for name in metrics_of(row)}
    spread = {n: "" if v is None else f"{v['mean']:.3f} ± {v['std']:.3f}" for n, v in values.items()}
    interval = "" if row["interval"] is None else "{:.3f} to {:.3f}".format(*row["interval"])
    return [spread.pop(problem.task.main_metric), interval, *spread.values()]


def headings(row: dict[str, Any], task: Task) -> list[str]:
    """What ``cells`` are about."""
    return [task.main_metric, "95 % interval", *(name for name in metrics_of(row) if name != task.main_metric)]


def markdown(config: RunConfig, problem: Problem, table: Table, trained: str) -> str:
    """report.md: what was asked, what came out, and what to be careful about."""
    lines = [
        f"# {config.target}: {problem.task.name} with method {config.method}",
        "",
        f"Encoder `{config.encoder}` (frozen), streams {', '.join(problem.streams)}; data `{config.data}`; "
        f"labels `{config.labels}`. {config.seeds} seeds.",
        "",
        f"{trained[0].upper()}{trained[1:]}.",
        "",
        f"Mean ± deviation over seeds; the interval is that of {problem.task.main_metric}, by resampling {problem.unit}.",
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
    lines += ["", "![predictions and rows](report.png)"]
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


def draw(path: Path, config: RunConfig, problem: Problem, table: Table, results: dict[str, Predictions]) -> None:
    """Left: confusion matrix or scatter of the first test set, all seeds; right: every row's main metric as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    test, predictions = next(iter(results.items()))
    targets = np.concatenate([problem.targets[predictions.examples]] * len(predictions.values))
    decided = problem.task.decide(predictions.values, predictions.thresholds)
    if problem.task.name in {"classification", "ordinal"}:
        _confusion(left, targets, decided.ravel(), problem.task.classes)
    elif problem.task.name == "multi-label":
        found = table[config.method][test]["average_precision"]
        left.barh(list(found), [value or 0 for value in found.values()])
        left.invert_yaxis()
        left.set_xlabel("average precision")
    else:
        left.scatter(targets, predictions.values[..., 0].ravel(), s=8, alpha=0.5)
        ends = [min(targets), max(targets)]
        left.plot(ends, ends, color="grey", linewidth=1)
        left.set(xlabel="target", ylabel="prediction")
    left.set_title(f"{label_of_method(config)}, {test}")
    tests = list(results)
    for number, name in enumerate(tests):
        height = 0.8 / len(tests)
        at = np.arange(len(table)) + (number - (len(tests) - 1) / 2) * height
        means = np.array([rows[name][problem.task.main_metric]["mean"] for rows in table.values()])
        ends = np.array([rows[name]["interval"] or (m, m) for rows, m in zip(table.values(), means, strict=True)])
        whiskers = np.clip([means - ends[:, 0], ends[:, 1] - means], 0, None)
        right.barh(at, means, height, xerr=whiskers, label=name, error_kw={"elinewidth": 1})
    right.set_yticks(np.arange(len(table)), [label(name, config).strip("*") for name in table])
    right.invert_yaxis()
    right.set_xlabel(problem.task.main_metric)
    right.legend()
    temporary = path.with_name(f".{path.name}.tmp.png")
    figure.savefig(temporary, dpi=120)
    plt.close(figure)
    temporary.replace(path)


def _confusion(axes: Any, targets: np.ndarray, predicted: np.ndarray, classes: tuple[str, ...]) -> None:
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(targets, predicted, labels=range(len(classes)))
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(share):
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.6 else "black")
    axes.set_xticks(range(len(classes)), classes, rotation=30, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="target")
