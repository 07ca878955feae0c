"""The table and the picture of benchmarks/finetune.py, of its table.json alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.finetune_steps import FULL
from benchmarks.runs import header, with_interval

SMALL, ENOUGH = 0.02, 0.97  # share of the backbone's weights; of full fine-tuning's metric
ALL_BLOCKS, LAST_THIRD, KEPT = 0.85, 0.5, 0.1  # most of full fine-tuning's step


def as_text(record: dict[str, Any]) -> str:
    """Markdown: what the methods reach, test by test; what they cost; which goals are met."""
    lines = []
    for name, task in record["tasks"].items():
        seeds = len(next(iter(task["rows"].values()))[task["tests"][0]][task["metric"]]["seeds"])
        sizes = ", ".join(
            f"{test}: {task['rows'][FULL][test]['examples']} examples of {task['rows'][FULL][test]['recordings']} recordings"
            for test in task["tests"]
        )
        lines += [
            f"**{name}**: {task['metric']}, mean ± deviation over {seeds} seeds (95 % interval by resampling whom it is about); "
            f"less full: the difference to full fine-tuning, paired. {sizes}.",
            "",
            *header(["share, %", *(c for t in task["tests"] for c in (t, f"{t}, less full")), "rate"]),
        ]
        for row, found in task["rows"].items():
            cells = [f"{100 * record['share'][row]:.2f}"]
            for test in task["tests"]:
                cells += [reached(found[test], task["metric"])]
                less = found.get("less full", {}).get(test)
                cells += ["" if less is None or row == FULL else with_interval(less)]
            rate = "" if found["lr"] is None else f"{found['lr']:g}"
            lines.append(f"| {row} | {' | '.join(cells)} | {rate} |")
        lines.append("")
    lines += ["Step: median share of full fine-tuning's (least to most); memory of a step, MB.", ""]
    sizes = list(record["steps"])
    lines += header([f"{size}: {what}" for size in sizes for what in ("step, %", "MB")])
    for row in record["steps"][sizes[0]]:
        cells = []
        for size in sizes:
            of = record["steps"][size][row]
            cells += ["{:.0f} ({:.0f} to {:.0f})".format(*(100 * share for share in of["ratio"]))]
            cells += [f"{of['memory'] / 1e6:.0f}"]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {line}" for line in goals(record)), ""])


def reached(found: dict[str, Any], metric: str) -> str:
    """A metric over seeds, and its interval."""
    of = found[metric]
    if of is None:
        return "none"
    ends = "" if found["interval"] is None else " ({:.3f} to {:.3f})".format(*found["interval"])
    return f"{of['mean']:.3f} ± {of['std']:.3f}{ends}"


def goals(record: dict[str, Any]) -> list[str]:
    """A line for each goal: by how much it is met or missed."""
    lines = []
    for name, task in record["tasks"].items():
        test, metric = task["tests"][0], task["metric"]
        means = {row: of[test][metric]["mean"] for row, of in task["rows"].items() if of[test][metric]}
        small = {row: mean for row, mean in means.items() if record["share"][row] <= SMALL and row != FULL}
        if small and means.get(FULL, 0) > 0:
            best = max(small, key=lambda row: small[row])
            lines.append(
                f"{name}, {test}: the best method with at most {100 * SMALL:.0f} % of the weights, {best}, reaches "
                f"{100 * small[best] / means[FULL]:.0f} % of full fine-tuning's {metric}"
            )
    for size, rows in record["steps"].items():
        for what, most in (("in all blocks", ALL_BLOCKS), ("in the last third", LAST_THIRD), ("kept features", KEPT)):
            of = {row: found["ratio"][0] for row, found in rows.items() if kind(row) == what}
            if of:
                missed = [f"{row} {100 * share:.0f} %" for row, share in of.items() if share > most]
                told = f"missed by {', '.join(missed)}" if missed else f"met (at most {100 * max(of.values()):.0f} %)"
                lines.append(f"step at {size}, {what}, at most {100 * most:.0f} %: {told}")
    return lines


def kind(row: str) -> str:
    """Where a row has its weights."""
    if row in {"linear", "attentive"}:
        return "kept features"
    return FULL if row == FULL else "in the last third" if row.endswith("last third") else "in all blocks"


def draw(path: Path, record: dict[str, Any]) -> None:
    """A panel a task: the metric on its first test against the trained share of the backbone, and full fine-tuning's as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tasks = record["tasks"]
    figure, panels = plt.subplots(1, len(tasks), figsize=(6.5 * len(tasks), 5), layout="constrained", squeeze=False)
    colours = {"in all blocks": "#2b6ca3", "in the last third": "#d9822b", "kept features": "#5b8c5a", FULL: "black"}
    for axes, (name, task) in zip(panels[0], tasks.items(), strict=True):
        test, metric = task["tests"][0], task["metric"]
        seen = set()
        for row, found in task["rows"].items():
            if found[test][metric] is None:
                continue
            mean, ends = found[test][metric]["mean"], found[test]["interval"]
            at = max(100 * record["share"][row], 0.01)  # a head alone: at the left edge
            whiskers = None if ends is None else [[max(mean - ends[0], 0)], [max(ends[1] - mean, 0)]]
            label = kind(row) if kind(row) not in seen else None
            seen.add(kind(row))
            axes.errorbar(at, mean, whiskers, fmt="o", color=colours[kind(row)], elinewidth=0.6, label=label)
            axes.annotate(row.removesuffix(", last third"), (at, mean), (4, 3), textcoords="offset points", fontsize=7)
            if row == FULL:
                axes.axhline(ENOUGH * mean, color="grey", linestyle=":", linewidth=1)
        axes.axvline(100 * SMALL, color="grey", linestyle=":", linewidth=1)
        axes.set(xscale="log", title=f"{name}: {test}", ylabel=metric, xlabel="trained share of the backbone, % (log)")
        axes.legend(fontsize=7, loc="lower right")
    figure.savefig(path, dpi=120)
    plt.close(figure)
