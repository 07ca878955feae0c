"""``kinesic finetune score SET RUN...``: the official figures of a data set, beside the literature's.

Reads what ``finetune run`` wrote (metrics.json, predictions.csv, baselines/) and lets the set's protocol (protocols/) do the rest.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from configs import UserError
from data_prep.report import write
from finetune.protocols import Run
from finetune.protocols.rivals import Rival
from finetune.report import SIMPLER, baseline_file
from finetune.report_html import figure_text, row_name, template
from finetune.report_record import read_record, tested
from finetune.score_config import ScoreConfig

PAGE, TABLE = "score.html", "scores.csv"


def score(config: ScoreConfig) -> None:
    """The command: prints the official figures, writes scores.csv, score.html and the submission. Raises UserError."""
    protocol = importlib.import_module(f"finetune.protocols.{config.set.replace('-', '_')}")
    runs = [read_run(folder) for folder in config.runs]
    refuse_different(runs)
    config.out.mkdir(parents=True, exist_ok=True)
    table = scores(protocol, runs, config.annotations)
    write(config.out / TABLE, table.to_csv(index=False).encode())
    write(config.out / PAGE, page(config.set, protocol, runs, table).encode())
    print(markdown(config.set, protocol, table))
    print(f"{config.out / PAGE}: open it in a browser; {config.out / TABLE}: the same figures")
    for test in tests_of(runs) if hasattr(protocol, "submission") else ():
        read = protocol.read([part(run, test, 0) for run in runs], config.annotations)
        folder = config.out / f"submission-{test}"
        folder.mkdir(exist_ok=True)
        if (path := protocol.submission(read, folder)) is not None:
            print(f"to hand in, of the first seed: {path}")


def read_run(folder: Path, row: str | None = None) -> Run:
    """A finished run with the predictions of all its test sets and seeds; row: those of a baseline. Raises UserError."""
    record = read_record(folder)
    file = folder / "predictions.csv" if row is None else baseline_file(folder, row)
    text = ["recording", "participant", "split"]  # 002003 is no number
    text += ["target", "prediction"] if record["task"] != "regression" else []
    types: Any = dict.fromkeys(text, str)
    try:
        predictions = pd.read_csv(file, dtype=types, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}): make the run again") from None
    return Run(folder, record, predictions)


def tests_of(runs: Sequence[Run]) -> list[str]:
    """The names of the test sets."""
    return list(runs[0].record["tests_sha256"])


def refuse_different(runs: Sequence[Run]) -> None:
    """Raises UserError where runs cannot be put together: other test sets or seeds, or the same target twice."""
    first, targets = runs[0], [run.target for run in runs]
    for run in runs:
        if targets.count(run.target) > 1:
            raise UserError(f"{run.folder}: {run.target} is the target of another run as well: give one run a target")
        if tests_of([run]) != tests_of(runs) or run.record["seeds"] != first.record["seeds"]:
            raise UserError(f"{run.folder} has other test sets or seeds than {first.folder}: they make up no result")


def part(run: Run, test: str, seed: int) -> Run:
    """What a run said of one test set with one seed."""
    of_test = tested(run.predictions, test)
    return replace(run, predictions=of_test[of_test["seed"] == seed].reset_index(drop=True))


def rows_of(runs: Sequence[Run]) -> Iterator[tuple[str, list[Run]]]:
    """The method, then the baselines that all runs have, each as runs with its own predictions."""
    yield ", ".join(dict.fromkeys(row_name(run.record["method"]) for run in runs)), list(runs)
    for row in SIMPLER:
        if all(baseline_file(run.folder, row).is_file() for run in runs):
            yield row, [read_run(run.folder, row) for run in runs]


def scores(protocol: ModuleType, runs: Sequence[Run], annotations: Path | None) -> pd.DataFrame:
    """scores.csv: test, row, metric, value (mean over seeds), std (none of one seed), seeds; empty where none can be told."""
    found = []
    for row, of_row in rows_of(runs):
        for test in tests_of(runs):
            parts = ([part(run, test, seed) for run in of_row] for seed in range(runs[0].record["seeds"]))
            by_seed = pd.DataFrame([protocol.score(protocol.read(of_seed, annotations)) for of_seed in parts])
            for metric, values in by_seed.items():
                mean, std = (values.mean(), values.std()) if np.isfinite(values).all() else (np.nan, np.nan)
                found.append((test, row, metric, float(mean), float(std), len(values)))
    return pd.DataFrame(found, columns=["test", "row", "metric", "value", "std", "seeds"])


def shown(protocol: ModuleType, table: pd.DataFrame, test: str) -> list[dict[str, str]]:
    """The rows of a test set as text, column by column: ours, then the literature's."""
    of_test = table[table["test"] == test]
    metrics = list(dict.fromkeys(of_test["metric"]))
    found = []
    for row, figures in of_test.groupby("row", sort=False):
        said = zip(figures["metric"], figures["value"], figures["std"], strict=True)
        cells = dict.fromkeys(metrics, "") | {metric: _spread(value, std) for metric, value, std in said}
        found.append({"": str(row), **cells, "source": "this run"})
    rivals: dict[tuple[str, str, str], dict[str, str]] = {}
    for rival in protocol.RIVALS:
        of_row = rivals.setdefault((rival.name, rival.split, rival.source), dict.fromkeys(metrics, ""))
        of_row[rival.metric] = _spread(rival.value, rival.spread)
    named = {key: f"{key[0]} ({key[1]})" if key[1] else key[0] for key in rivals}
    return found + [{"": named[key], **cells, "source": key[2]} for key, cells in rivals.items()]


def _spread(value: float, std: float | None) -> str:
    return figure_text(value) + ("" if std is None or np.isnan(std) else f" ± {figure_text(std)}")


def compared(rivals: Sequence[Rival]) -> list[tuple[str, list[str]]]:
    """What may be compared with what: (a sentence, the rows that it is about)."""
    about: dict[str, list[str]] = {}
    for rival in rivals:
        names = about.setdefault(rival.compare, [])
        if rival.name not in names:
            names.append(rival.name)
    return list(about.items())


def markdown(name: str, protocol: ModuleType, table: pd.DataFrame) -> str:
    """A Markdown table for each test set."""
    lines = [f"# {name}", "", protocol.RULE]
    for test in dict.fromkeys(table["test"]):
        text = shown(protocol, table, test)
        cells: list[list[str]] = [[*text[0]], ["---"] * len(text[0]), *([*row.values()] for row in text)]
        lines += ["", f"## {test}", "", *(f"| {' | '.join(row)} |" for row in cells)]
    return "\n".join([*lines, "", *(f"{', '.join(rows)}: {says}" for says, rows in compared(protocol.RIVALS))])


def page(name: str, protocol: ModuleType, runs: Sequence[Run], table: pd.DataFrame) -> str:
    """The HTML page."""
    tests: list[dict[str, Any]] = [{"name": t, "rows": shown(protocol, table, t)} for t in tests_of(runs)]
    return template("score.html.jinja").render(
        name=name,
        rule=protocol.RULE,
        runs=[(run.target, run.record["task"], run.folder.resolve().name) for run in runs],
        seeds=runs[0].record["seeds"],
        tests=tests,
        compared=compared(protocol.RIVALS),
        notes=list(dict.fromkeys(note for run in runs for note in run.record["notes"])),
    )
