"""``kinesic finetune compare RUN...``: the table over runs, and what their accuracy costs.

Runs are compared that predict the same target of the same test examples; anything else is refused. Runs that were trained on
other examples (folds, seeds, splits) than the first are marked. Made of the runs' metrics.json alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from configs import UserError
from data_prep.report import write
from finetune.config import CompareConfig
from finetune.report_figures import Point, costs
from finetune.report_html import figure_text, interval, metrics, row_name, template
from finetune.report_record import read_record, trained

PAGE, TABLE = "compare.html", "compare.csv"
MARK = "†"
COUNTS = ("trained_in_backbone", "trained_elsewhere", "trained_in_head", "trained")
SAME = {  # what must be equal, and how it is called
    "target": "target",
    "task": "task",
    "classes": "classes",
    "main_metric": "main metric",
    "tests_sha256": "test examples",
}


def compare(config: CompareConfig) -> None:
    """The command: prints the table as Markdown, writes compare.html and compare.csv. Raises UserError."""
    runs = {name: read_record(folder) for name, folder in named(config.runs).items()}
    refuse_different(runs)
    marked = trained_on_other(runs)
    table = rows(runs, marked)
    first = next(iter(runs.values()))
    notes = (
        [f"{MARK} {', '.join(marked)}: other training examples, folds or seeds than {next(iter(runs))}"]
        if marked
        else []
    )
    config.out.mkdir(parents=True, exist_ok=True)
    write(config.out / TABLE, table.to_csv(index=False).encode())
    write(config.out / PAGE, page(runs, table, notes, first).encode())
    print(markdown(table, first, notes))
    print(f"{config.out / PAGE}: open it in a browser; {config.out / TABLE}: the same figures")


def named(folders: list[Path]) -> dict[str, Path]:
    """Runs by the shortest end of their path that tells them apart. Raises UserError where a run is named twice."""
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        twice = next(folder for folder in resolved if resolved.count(folder) > 1)
        raise UserError(f"{twice} is named twice")
    longest = max(len(folder.parts) for folder in resolved)
    ends = ([Path(*folder.parts[-parts:]).as_posix() for folder in resolved] for parts in range(1, longest + 1))
    names = next(names for names in ends if len(set(names)) == len(names))
    return dict(zip(names, folders, strict=True))


def refuse_different(runs: dict[str, dict[str, Any]]) -> None:
    """Raises UserError where runs are not about the same thing: their figures do not belong into one table."""
    (name, first), *others = runs.items()
    for other, record in others:
        for key, what in SAME.items():
            if record[key] != first[key]:
                said = f" ({record[key]}, {first[key]})" if isinstance(first[key], str) else ""
                raise UserError(f"{other} has other {what} than {name}{said}: they cannot stand in one table")


def trained_on_other(runs: dict[str, dict[str, Any]]) -> list[str]:
    """The runs whose splits are not those of the first."""
    first = next(iter(runs.values()))
    return [name for name, record in runs.items() if record["splits_sha256"] != first["splits_sha256"]]


def rows(runs: dict[str, dict[str, Any]], marked: list[str]) -> pd.DataFrame:
    """compare.csv: a row a test set and run, below them the rows that stand beside the runs (equal ones once)."""
    found, seen = [], set()
    for test in next(iter(runs.values()))["tests_sha256"]:
        for own in (True, False):
            for name, record in runs.items():
                for row, tests in record["rows"].items():
                    figures = figures_of(record, tests[test])
                    alike = (test, row, *figures.values())
                    if own != (row == record["method"]) or (not own and alike in seen):
                        continue
                    seen.add(alike)
                    about = {
                        "test": test,
                        "run": name,
                        "row": row_name(row),
                        "of_the_run": own,
                        "other_training": name in marked,
                    }
                    found.append(about | figures | cost_of(record, row))
    return pd.DataFrame(found).astype(dict.fromkeys(COUNTS, "Int64"))


def figures_of(record: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """The metrics of a row and test set, the main one first; intervals of those that have one."""
    found: dict[str, Any] = {}
    for metric in metrics(row, record["main_metric"]):
        value = row[metric] or {"mean": None, "std": None}
        found |= {metric: value["mean"], f"{metric}_std": value["std"]}
        if metric == record["main_metric"] or "interval" in value:
            ends = row["interval"] if metric == record["main_metric"] else value["interval"]
            found |= dict(zip((f"{metric}_low", f"{metric}_high"), ends or (None, None), strict=True))
    return found | {"examples": row["examples"], "recordings": row["recordings"]}


def cost_of(record: dict[str, Any], row: str) -> dict[str, Any]:
    """What a row took, and of which encoder; None where nothing was counted: the baselines do without it."""
    cost, encoder = record["costs"].get(row), record["encoder"]
    return {
        "trained_in_backbone": cost and cost["backbone"],
        "share_of_backbone": cost and cost["backbone"] / encoder["backbone_weights"],
        "trained_elsewhere": cost and cost["elsewhere"],
        "trained_in_head": cost and cost["head"],
        "trained": cost and trained(cost),
        "seconds": cost and cost["seconds"],
        "device": encoder["device"] if cost else "",
        "streams": " ".join(record["streams"]) if cost else "",
        "encoder_sha256": encoder["sha256"] if cost else "",
    }


def shown(table: pd.DataFrame, record: dict[str, Any], test: str) -> list[dict[str, str]]:
    """The rows of a test set as text, column by column."""
    main = record["main_metric"]
    others = metrics(record["rows"][record["method"]][test], main)[1:]
    found = []
    of_test: list[dict[str, Any]] = [dict(row) for _, row in table[table["test"] == test].iterrows()]
    for row in of_test:
        ends = [figure_text(row[f"{main}_{end}"]) for end in ("low", "high")]
        found.append(
            {
                "run": f"{row['run']}{f' {MARK}' if row['other_training'] else ''}",
                "": row["row"],
                main: _spread(row, main),
                "95 % interval": " to ".join(ends) if all(ends) else "",
                **{metric: _spread(row, metric) for metric in others},
                **_cost(row),
                "device": row["device"],
                "streams": row["streams"],
                "encoder": row["encoder_sha256"][:8],
            }
        )
    return found


def _cost(row: dict[str, Any]) -> dict[str, str]:
    if pd.isna(row["seconds"]):
        return {"backbone": "", "weights": "", "seconds": ""}
    return {
        "backbone": f"{100 * row['share_of_backbone']:.2f} %",
        "weights": f"{row['trained']:,}",
        "seconds": f"{row['seconds']:.3g}",
    }


def _spread(row: dict[str, Any], metric: str) -> str:
    return "" if pd.isna(row[metric]) else f"{figure_text(row[metric])} ± {figure_text(row[f'{metric}_std'])}"


def markdown(table: pd.DataFrame, record: dict[str, Any], notes: list[str]) -> str:
    """A Markdown table for each test set."""
    lines = [f"# {record['target']}: {record['task']}"]
    for test in record["tests_sha256"]:
        lines += ["", f"## {test}", ""]
        text = shown(table, record, test)
        cells = [[cell.replace("|", "\\|") for cell in row] for row in ([*text[0]], *(row.values() for row in text))]
        cells.insert(1, ["---"] * len(cells[0]))
        lines += [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([*lines, "", *notes])


def points(runs: dict[str, dict[str, Any]], table: pd.DataFrame, test: str) -> list[Point]:
    """The runs in the picture of costs, and the linear probes that stand beside them."""
    found = []
    for run, row, own in table.loc[table["test"] == test, ["run", "row", "of_the_run"]].itertuples(index=False):
        record = runs[run]
        key = record["method"] if own else "linear"
        known = interval(record["rows"][key][test], record["main_metric"])
        if known and row == row_name(key):
            cost = record["costs"][key]
            found.append(Point(f"{run}, {row}", *known, trained(cost), cost["seconds"], own))
    return found


def page(runs: dict[str, dict[str, Any]], table: pd.DataFrame, notes: list[str], record: dict[str, Any]) -> str:
    """The HTML page."""
    tests = []
    for test in record["tests_sha256"]:
        drawn = points(runs, table, test)
        picture = costs(drawn, record["main_metric"]) if drawn else None
        tests.append({"name": test, "rows": shown(table, record, test), "picture": picture})
    return template("compare.html.jinja").render(record=record, runs=list(runs), tests=tests, notes=notes)
