"""Does pretraining look at the behaviour, or at the shirt and the wall?

    python -m benchmarks.shortcut --release RELEASE --shards OUT --labels labels.csv --out FOLDER

Generated scenes: colours tell the label in training and in ``test``, and tell it wrongly in ``test_reversed``. Rows: what
a majority, the mean picture, motion and the raw streams reach; a linear probe on the pretrained and on untrained
encoders, each from video alone and from all streams; an adapter. Differences are paired by recording. Writes table.md,
table.json and shortcut.png.

Three seeds each draw 80 % of the training recordings, the folds of the probe's cross-validation, and the untrained
weights. An untrained encoder reads nothing through its closed gates, so that its video tokens are the same with other
streams beside them: one pass gives both of its rows.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from finetune import baselines, methods, training
from finetune.config import RunConfig, TrainingConfig
from finetune.data import chosen_streams, open_encoder, open_shards
from finetune.evaluation import FitPredict, Predictions, evaluate, probe, summary
from finetune.features import Features, Part, as_features, encoding, map_clips, of_one
from finetune.labels import read_labels
from finetune.problem import Problem, labelled, parts_of
from finetune.report import Table
from finetune.splits import Split, given_split
from pretrain.encoder import Encoder

SEEDS = 3
PROCESSES = 2
SHARE = 0.8  # of the training recordings, drawn for each seed
PAIRS = {
    "pretrained - untrained, video alone": ("pretrained, video alone", "untrained, video alone"),
    "pretrained - untrained, all streams": ("pretrained, all streams", "untrained, all streams"),
    "pretrained, all streams - raw streams": ("pretrained, all streams", "raw streams"),
}


def main() -> None:
    """Reads the arguments, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, text in (
        ("release", "release of a pretraining run"),
        ("shards", "shards with splits train, test, test_reversed"),
        ("labels", "labels.csv of the scenes"),
        ("out", "folder for table.md, table.json and shortcut.png"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=True, help=text)
    parser.add_argument("--target", default="gesture", help="column of the labels (default: gesture)")
    parser.add_argument("--epochs", type=int, default=2, help="passes of the adapter over its clips (default: 2)")
    parser.add_argument(
        "--adapter_clips", type=int, default=256, help="clips that the adapter learns from (default: 256)"
    )
    args = parser.parse_args()
    began = time.perf_counter()
    config = RunConfig(
        encoder=args.release,
        data=args.shards,
        labels=args.labels,
        target=args.target,
        out=args.out,
        method="adapter",
        seeds=SEEDS,
        training=TrainingConfig(epochs=args.epochs),
    )
    problem, results, trained = measure(config, args.adapter_clips)
    table = {name: summary(problem, of_row) for name, of_row in results.items()}
    differences = {
        title: {test: difference(problem, results[a][test], results[b][test]) for test in results[a]}
        for title, (a, b) in PAIRS.items()
        if a in results and b in results
    }
    write(args.out, config, problem, table, differences, f"{trained}; {time.perf_counter() - began:.0f} s in all")


def measure(config: RunConfig, adapter_clips: int) -> tuple[Problem, dict[str, dict[str, Predictions]], str]:
    """The problem (its features: pretrained, video alone), the predictions of every row, and how the adapter was trained."""
    encoder = open_encoder(config.encoder, config.device).requires_grad_(False)
    problem, given = read_problem(config, encoder)
    table = describe(problem.shards, problem.index, problem.examples, config)
    problem.features = as_features(table["alone values"], table["alone present"])
    results = probed(problem, given, matrices(table, chosen_streams(encoder, None)))
    split = fewer(problem, subset(problem, given, 0), adapter_clips)
    results["adapter, video alone"] = evaluate([[split]], adapter(encoder, problem, config))
    recipe = f"{len(split.train)} clips, {config.training.epochs} epochs at most, begun at the probe, 1 seed"
    return problem, results, f"Adapter: {recipe}"


def read_problem(config: RunConfig, encoder: Encoder, clips: int | None = None) -> tuple[Problem, Split]:
    """The problem, as yet without features, and the split that the data name.

    clips: read at most so many of a recording, evenly spread.
    """
    shards, index = open_shards(config.data, config.encoder, encoder, config.out / "shards")
    if clips is not None:
        rows = [np.asarray(rows) for rows in index.groupby("recording", sort=False).indices.values()]
        kept = [some[np.unique(np.linspace(0, len(some) - 1, clips).astype(int))] for some in rows]
        index = index.iloc[np.concatenate(kept)].reset_index(drop=True)
    index, examples, task, _ = labelled(read_labels(config.labels, config.target), shards, index, config)
    given = given_split(examples, config.group_by)
    if given is None:
        raise SystemExit(f"{config.data}: no splits train and test")
    problem = Problem(
        shards=shards,
        index=index,
        examples=examples,
        task=task,
        streams=("video",),
        targets=task.targets(examples["value"].to_numpy()),
        groups=np.unique(examples["recording"], return_inverse=True)[1],
        features=of_one(np.empty((len(examples), 0), np.float32)),
    )
    return problem, given


def probed(problem: Problem, given: Split, rows: Mapping[str, Sequence[Features]]) -> dict[str, dict[str, Predictions]]:
    """Predictions of a linear probe on every row's features, one for each seed where the seeds differ."""
    results = {}
    for name, by_seed in rows.items():
        print(f"probe: {name}")
        found = [
            evaluate([[subset(problem, given, seed)]], probe(problem, by_seed[seed % len(by_seed)]))
            for seed in range(SEEDS)
        ]
        results[name] = stacked(found)
    return results


def describe(shards: Path, index: pd.DataFrame, examples: pd.DataFrame, config: RunConfig) -> dict[str, np.ndarray]:
    """Everything that a row of the table is computed from, in the order of the examples; each clip is decoded once."""
    wanted = parts_of(examples)
    parts = np.array_split(np.arange(len(index)), PROCESSES)
    work = [(shards, index.iloc[part], [wanted[clip] for clip in part], config) for part in parts]
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        tables = list(pool.map(describe_part, work))
    table = {name: np.concatenate([one[name] for one in tables]) for name in tables[0]}
    table["clip"] = np.concatenate([one["clip"] + part[0] for one, part in zip(tables, parts, strict=True)])
    return of_examples(table, examples)


def of_examples(table: dict[str, np.ndarray], examples: pd.DataFrame) -> dict[str, np.ndarray]:
    """What ``map_clips`` gave, in the order of the examples."""
    row_of = {pair: row for row, pair in enumerate(zip(table["clip"], table["person"], strict=True))}
    rows = [row_of[pair] for pair in zip(examples["row"], examples["person"], strict=True)]
    return {name: values[rows] for name, values in table.items()}


def describe_part(work: tuple[Path, pd.DataFrame, list[list[Part]], RunConfig]) -> dict[str, np.ndarray]:
    """``describe`` for some of the clips, with one thread: two processes are faster so than one with two threads."""
    shards, index, parts, config = work
    torch.set_num_threads(1)
    encoder = open_encoder(config.encoder, config.device).requires_grad_(False)
    streams = chosen_streams(encoder, None)
    read = [(encoder, streams, "pretrained "), (encoder, ("video",), "alone ")]
    read += [(untrained(encoder, seed), streams, f"untrained {seed} ") for seed in range(SEEDS)]
    # bfloat16 for all rows alike: most of the benchmark's time is spent here
    functions = [baselines.describe, *(encoding(*which, bf16=True) for which in read)]
    return map_clips(
        shards,
        index,
        functions,
        {*streams, *baselines.MODALITIES},
        parts=parts,
        batch_size=config.batch_size,
        workers=0,
        title=f"{len(index)} clips, {SEEDS + 1} encoders",
    )


def untrained(encoder: Encoder, seed: int) -> Encoder:
    """An encoder of the same sizes with fresh weights; what was measured about the streams (buffers) is kept."""
    with torch.random.fork_rng():
        torch.manual_seed(1000 + seed)
        fresh = Encoder(encoder.config)
    measured = dict(encoder.named_buffers())
    for name, buffer in fresh.named_buffers():
        buffer.copy_(measured[name])
    return fresh.to(encoder.device).eval().requires_grad_(False)


def subset(problem: Problem, given: Split, seed: int) -> Split:
    """The given split with 80 % of its training recordings."""
    recordings = problem.groups[given.train]
    distinct = np.random.default_rng(seed).permutation(np.unique(recordings))
    kept = distinct[: max(round(SHARE * len(distinct)), 2)]
    return replace(given, train=given.train[np.isin(recordings, kept)])


def fewer(problem: Problem, split: Split, clips: int) -> Split:
    """About so many training clips, in whole recordings."""
    recordings = list(dict.fromkeys(problem.groups[split.train].tolist()))
    kept = recordings[: max(round(len(recordings) * clips / len(split.train)), 3)]
    return replace(split, train=split.train[np.isin(problem.groups[split.train], kept)])


def matrices(table: dict[str, np.ndarray], streams: tuple[str, ...]) -> dict[str, list[Features]]:
    """Row -> features of the examples, one for each seed where the seeds differ."""
    video = [streams.index("video")]

    def encoded(prefix: str, columns: list[int]) -> Features:
        return as_features(table[f"{prefix} values"][:, columns], table[f"{prefix} present"][:, columns])

    everything = list(range(len(streams)))
    fresh = [f"untrained {seed}" for seed in range(SEEDS)]
    return {
        "majority": [of_one(np.zeros((len(table["raw"]), 1), np.float32))],
        "whole-clip mean picture": [of_one(table["picture"])],
        "motion only": [of_one(table["motion"])],
        "untrained, video alone": [encoded(name, video) for name in fresh],
        "pretrained, video alone": [encoded("alone", [0])],
        "raw streams": [baselines.raw_streams(table["raw"])],
        "untrained, all streams": [encoded(name, everything) for name in fresh],
        "pretrained, all streams": [encoded("pretrained", everything)],
    }


def stacked(found: list[dict[str, Predictions]]) -> dict[str, Predictions]:
    """Single seeds put together."""
    return {
        test: Predictions(first.examples, np.concatenate([f[test].values for f in found]), [])
        for test, first in found[0].items()
    }


def adapter(encoder: Encoder, problem: Problem, config: RunConfig) -> FitPredict:
    """The adapter, reading what ``problem`` reads."""

    def fit_predict(split: Split, seed: int, asked: np.ndarray) -> np.ndarray:
        head = training.train(encoder, problem, split, config, seed)
        predicted = training.predict(encoder, head, problem, asked, config)
        methods.remove(encoder)
        return predicted

    return fit_predict


def difference(problem: Problem, a: Predictions, b: Predictions) -> dict[str, Any]:
    """Accuracy of a less that of b: mean over seeds, each seed, 95 % interval by resampling recordings (both at once)."""
    targets, recording = problem.targets[a.examples], problem.groups[a.examples]
    both = [(p.values, np.broadcast_to(p.thresholds, p.values.shape[:2])) for p in (a, b)]
    mean, interval = problem.task.ahead(targets, recording, *both)
    right = [problem.task.decide(*of) == targets for of in both]  # [seed, example]
    return {"mean": mean, "seeds": (right[0].mean(1) - right[1].mean(1)).tolist(), "interval": interval}


def write(out: Path, config: RunConfig, problem: Problem, table: Table, differences: Table, small_print: str) -> None:
    """table.json, table.md, shortcut.png, and the table on the screen."""
    from rich.console import Console
    from rich.markdown import Markdown

    out.mkdir(parents=True, exist_ok=True)
    first = next(iter(table.values()))
    tests = list(first)
    sizes = ", ".join(f"{t}: {first[t]['examples']} clips of {first[t]['recordings']} recordings" for t in tests)
    lines = [f"Accuracy of `{config.target}`, mean ± deviation over {SEEDS} seeds ({sizes}).", ""]
    lines += [f"| | {' | '.join(tests)} |", "|---" * (len(tests) + 1) + "|"]
    for name, row in table.items():
        shown = [f"{row[t]['accuracy']['mean']:.3f} ± {row[t]['accuracy']['std']:.3f}" for t in tests]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    lines += ["", "Differences, paired by recording, with 95 % intervals (recordings resampled).", ""]
    lines += [f"| | {' | '.join(tests)} |", "|---" * (len(tests) + 1) + "|"]
    for title, row in differences.items():
        shown = ["{:+.3f} ({:+.3f} to {:+.3f})".format(row[t]["mean"], *row[t]["interval"]) for t in tests]
        lines.append(f"| {title} | {' | '.join(shown)} |")
    lines += ["", f"{small_print}.", ""]
    text = "\n".join(lines)
    record = {"rows": table, "differences": differences, "note": small_print, "classes": problem.task.classes}
    (out / "table.md").write_text(text, encoding="utf-8")
    (out / "table.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    draw(out / "shortcut.png", table, tests, len(problem.task.classes))
    Console().print(Markdown(text))
    print(f"{out / 'table.md'}   {out / 'shortcut.png'}")


def draw(path: Path, table: Table, tests: list[str], classes: int) -> None:
    """Bars: accuracy of every row in every test split, with the interval, and chance."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [name for name in table if name != "majority"]
    figure, axes = plt.subplots(figsize=(8, max(4, 0.35 * len(names))), layout="constrained")
    height = 0.8 / len(tests)
    colours = {"test": "#2b6ca3", "test_reversed": "#d9822b"}
    labels = {
        "test": "colours as in training",
        "test_reversed": "colours reversed",
        "test_independent": "colours at random",
    }
    for number, test in enumerate(tests):
        at = np.arange(len(names)) + (number - (len(tests) - 1) / 2) * height
        means = np.array([table[name][test]["accuracy"]["mean"] for name in names])
        ends = np.array([table[name][test]["interval"] or (m, m) for name, m in zip(names, means, strict=True)])
        whiskers = np.clip([means - ends[:, 0], ends[:, 1] - means], 0, None)
        bars = {"xerr": whiskers, "color": colours.get(test), "label": labels.get(test, test)}
        axes.barh(at, means, height, error_kw={"elinewidth": 1}, **bars)
    axes.axvline(1 / classes, color="grey", linestyle=":", linewidth=1)
    axes.set_yticks(np.arange(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="accuracy (dotted: chance)")
    figure.legend(loc="outside upper right", ncols=len(tests))
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
