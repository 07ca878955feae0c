"""Which target, rate and attention does pretraining learn most with, in the same time?

    OMP_NUM_THREADS=1 python -m benchmarks.targets --shards OUT --labels labels.csv --teacher RELEASE --out FOLDER

Generated scenes. Runs of one recipe that differ in one setting (``variants``), three seeds each. Time is CPU time of a process
with one thread. It is measured once, the variants taking turns (calibration.json): ``pixels`` gets ``--steps``, every other
variant as many as fit into the same time; a teacher's reading of every clip is part of it, its own training is not.

Measured: linear probes from video alone and from all streams, on the tokens as they leave the trunk (``tokens alone``) and on
all that is pooled (``everything``: what they hold before it as well, which training cannot lose); the nuisance gap, test less
test_reversed; the effective rank of what the probe reads. Raw streams and untrained encoders stand beside. Differences are
paired by recording. Writes table.md, table.json and targets.png; what is done is not done again, so that a folder is for one
set of arguments.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange

from benchmarks import runs
from benchmarks.joint import joint_attention
from benchmarks.shortcut import SEEDS, difference, draw, probed, read_problem
from finetune import baselines
from finetune.config import RunConfig as FinetuneConfig
from finetune.evaluation import Predictions, summary
from finetune.problem import Problem
from finetune.splits import Split
from pretrain.config import RunConfig
from pretrain.engine import start_engine, train_step
from pretrain.objective import Batch, MaskedAutoencoder
from pretrain.processes import Processes, StopRequest, start_processes
from pretrain.release import load_encoder
from pretrain.stream import Clips, batches
from pretrain.teacher import Teacher
from pretrain.tracking import read_metrics

PIXELS, JOINT = "pixels", "joint attention"
WARM, TIMED = 2, 16  # steps of each variant before it is timed, and while it is
WIDE = 0.1  # rate of the gates, twice that of the recipe `demo`
READINGS = ("video alone", "all streams")
TOKENS, EVERYTHING = "tokens alone", "everything"
RAW = "raw streams"
TESTS = ("test", "test_reversed")

Table = dict[str, np.ndarray]  # of runs.features or runs.references


def main() -> None:
    """Reads the arguments, times, trains, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True, help="shards with splits pretrain, train, test, ...")
    parser.add_argument("--labels", type=Path, required=True, help="labels.csv of the scenes")
    parser.add_argument("--teacher", type=Path, required=True, help="release of a trunk of the recipe's size")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the runs, table.md, table.json, targets.png"
    )
    parser.add_argument("--recipe", default="demo", help="of `pretrain run` (default: demo)")
    parser.add_argument("--target", default="gesture", help="column of the labels (default: gesture)")
    parser.add_argument("--steps", type=int, default=300, help="of the recipe as it is (default: 300)")
    parser.add_argument("--clips", type=int, default=6, help="of a recording, for the probes (default: 6)")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each (default: 2)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    words = variants(args)
    times = calibration(args, words)
    steps = equal_time({name: Cost(**cost) for name, cost in times.items()}, args.steps)
    config = FinetuneConfig(args.teacher, args.shards, args.labels, args.target, args.out)
    problem, given = read_problem(config, load_encoder(args.teacher), args.clips)
    work = [
        (name, seed, args.recipe, args.shards, folder_of(args.out, name, seed), steps[name], words[name], problem)
        for seed in range(SEEDS)
        for name in words
    ]
    tables: dict[str, list[Table]] = {}
    beside: list[Table] = []
    for (name, *_), found in zip(work, runs.in_pool(train_and_read, work, args.processes), strict=True):
        tables.setdefault(name, []).append(found[0])
        beside += found[1:]
    record = {
        "variants": {name: about(args.out, name, steps[name], Cost(**cost)) for name, cost in times.items()},
        "teacher": about_teacher(args.teacher),
        "halves": {half: measure(problem, given, tables, beside, half) for half in (TOKENS, EVERYTHING)},
        "minutes": (time.perf_counter() - began) / 60,
    }
    text = as_text(record, args)
    (args.out / "table.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    (args.out / "table.md").write_text(text, encoding="utf-8")
    draw(args.out / "targets.png", record["halves"][TOKENS]["rows"], list(TESTS), len(problem.task.classes))
    print(text)


def variants(args: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """What is typed after the recipe for each variant; joint attention is no setting."""
    half = str(runs.settings(args.recipe, args.shards, args.out, args.steps).model.layers // 2)
    return {
        PIXELS: (),
        "motion": ("--mask.target", "motion"),
        "teacher": ("--mask.target", "teacher", "--mask.teacher", str(args.teacher)),
        "rate 2": ("--model.upper_layers", half, "--model.upper_rate", "2"),
        "rate 4": ("--model.upper_layers", half, "--model.upper_rate", "4"),
        "gates wide open": ("--optimizer.gate_lr", str(WIDE)),
        JOINT: (),
    }


def attention(name: str) -> AbstractContextManager[None]:
    """What a variant trains and encodes in."""
    return joint_attention() if name == JOINT else contextlib.nullcontext()


def folder_of(out: Path, name: str, seed: int) -> Path:
    """The folder of a run."""
    return out / f"{name.replace(' ', '-')}-{seed}"


@dataclass(frozen=True)
class Cost:
    """CPU seconds of a step, and once before it all: a teacher's reading of every clip."""

    step: float
    once: float


def equal_time(costs: Mapping[str, Cost], steps: int) -> dict[str, int]:
    """How many steps of each variant fit into the time of so many of ``PIXELS``; one at least."""
    time = costs[PIXELS].once + steps * costs[PIXELS].step
    # a thousandth of a step is rounding
    return {name: max(int((time - cost.once) / cost.step + 1e-3), 1) for name, cost in costs.items()}


def calibration(args: argparse.Namespace, words: Mapping[str, tuple[str, ...]]) -> dict[str, dict[str, float]]:
    """What the variants cost (``Cost``), as it was measured the first time in this folder."""
    file = args.out / "calibration.json"
    if not file.is_file():
        with tempfile.TemporaryDirectory() as scratch:
            found = measure_costs(
                {
                    name: runs.settings(args.recipe, args.shards, Path(scratch) / name, args.steps, *some)
                    for name, some in words.items()
                }
            )
        args.out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1))
    return json.loads(file.read_text())


def measure_costs(settings: Mapping[str, RunConfig]) -> dict[str, dict[str, float]]:
    """CPU seconds of whole training steps on decoded clips, the variants taking turns on the same batches.

    What others do on the machine changes them by the minute: a variant's are a median of ratios to the step of ``PIXELS`` in its
    turn. Decoding is left out: every run decodes the same clips once.
    """
    processes = start_processes()
    first = settings[PIXELS]
    clips = Clips(first.data, first.model.modalities)
    decoded = batches(first, clips, lambda some, seeds: len(some), 0, 1, 0)  # pyrefly: ignore[bad-argument-type]
    for _ in range(WARM + TIMED):
        next(decoded)
    sides = {}
    for name, config in settings.items():
        with attention(name):
            model = model_of(config)
            model.fit_statistics(clips.spread(WARM))  # any will do
            engine = start_engine(config, model, processes)
            sides[name] = Side(config, engine, *(batches(config, clips, model.collate, 0, 1, 0) for _ in range(2)))
    taken: dict[str, list[Cost]] = {name: [] for name in settings}
    with StopRequest() as stop:
        for _ in range(WARM + TIMED):
            for name, side in sides.items():
                with attention(name):
                    taken[name].append(side.step(processes, stop))
    unit = np.array([cost.step for cost in taken[PIXELS]])
    found = {}
    for name, costs in taken.items():
        ratios = np.array([[cost.step, cost.once] for cost in costs]) / unit[:, None]
        step, once = np.median(unit[WARM:]) * np.median(ratios[WARM:], axis=0)
        found[name] = {"step": float(step), "once": float(once) * len(clips)}
    return found


@dataclass
class Side:
    """A variant while it is timed: its engine, and two streams of the same batches: for its teacher, who reads them first, and
    for its steps."""

    config: RunConfig
    engine: Any
    ahead: Iterator[Batch]
    stream: Iterator[Batch]

    def step(self, processes: Processes, stop: StopRequest) -> Cost:
        """One training step: what it costs, and what it costs the teacher to read one of its clips and keep what it said."""
        once = 0.0
        if self.engine.module.teacher is not None:
            lessons = next(self.ahead).lessons
            began = time.process_time()
            self.engine.module.teacher.targets(lessons, processes.device)
            once = (time.process_time() - began) / max(sum(lesson.features is None for lesson in lessons), 1)
        began = time.process_time()
        train_step(self.config, processes, self.engine, self.stream, stop)
        return Cost(time.process_time() - began, once)


def model_of(config: RunConfig) -> MaskedAutoencoder:
    """The model of a run, as it begins."""
    path, teacher = config.mask.teacher, None
    if path is not None:
        teacher = Teacher(load_encoder(path), config.model, config.out / "teacher", path)
    torch.manual_seed(config.seed)
    return MaskedAutoencoder(config.model, config.mask, teacher)


def train_and_read(
    name: str, seed: int, recipe: str, shards: Path, folder: Path, steps: int, words: tuple[str, ...], problem: Problem
) -> list[Table]:
    """Trains a run and reads the problem with it; beside the recipe as it is, what ``runs.references`` gives."""
    with attention(name):
        began = time.process_time()
        runs.train(recipe, shards, folder, steps, "--seed", str(seed), *words)
        if not (folder / "cpu.json").is_file():
            (folder / "cpu.json").write_text(json.dumps(time.process_time() - began))
        found = [runs.features(problem, folder / "release")]
    return found + ([runs.references(problem, folder / "release", seed)] if name == PIXELS else [])


def about(out: Path, name: str, steps: int, cost: Cost) -> dict[str, Any]:
    """What a variant's runs took, and how far their gates are open: the mean absolute gate at the end of each run.

    "CPU minutes": of each whole run, decoding, pictures and checkpoints included; of one that was stopped, its last part.
    """
    folders = [folder_of(out, name, seed) for seed in range(SEEDS)]
    return {
        "steps": steps,
        "seconds a step": cost.step,
        "seconds once": cost.once,
        "training minutes": (cost.once + steps * cost.step) / 60,
        "CPU minutes": [json.loads((folder / "cpu.json").read_text()) / 60 for folder in folders],
        "gates": [float(read_metrics(folder / "metrics.csv")[-1]["gates"]) for folder in folders],
    }


def about_teacher(release: Path) -> dict[str, Any]:
    """Steps of a teacher's own training and, where the release lies in its run, the minutes that these took."""
    steps = json.loads((release / "config.json").read_text())["training"]["step"]
    known = (release.parent / "metrics.csv").is_file()
    return {"steps": steps, "minutes": float(runs.seconds(release.parent).sum()) / 60 if known else None}


def measure(
    problem: Problem, given: Split, tables: Mapping[str, list[Table]], beside: list[Table], half: str
) -> dict[str, Any]:
    """ "rows": summary of the probe by row and test, with "gap" and "rank", one a seed; "differences" of rows, paired."""
    chosen = tokens_alone if half == TOKENS else dict
    rows = {RAW: [baselines.raw_streams(beside[0]["raw"])]}
    for name, some in {"untrained": beside, **tables}.items():
        of_name = runs.both_readings([chosen(table) for table in some])
        rows |= {f"{name}, {reading}": found for reading, found in of_name.items()}
    results = probed(problem, given, rows)
    found: dict[str, dict[str, Any]] = {}
    for name, row in results.items():
        found[name] = dict(summary(problem, row))
        test, reversed_ = (np.array(found[name][test]["accuracy"]["seeds"]) for test in TESTS)
        found[name]["gap"] = (test - reversed_).tolist()
        found[name]["rank"] = [effective_rank(features.values) for features in rows[name]]
    return {"rows": found, "differences": differences(problem, results, list(tables))}


def tokens_alone(table: Table) -> Table:
    """A table of features without what the tokens hold before the trunk (finetune.features.pool has the layout)."""
    layout = "row stream (moment half dim) -> half row stream (moment dim)"
    values = {n: rearrange(table[n], layout, moment=3, half=2)[1] for n in ("values", "alone values")}
    return table | values


def effective_rank(matrix: np.ndarray) -> float:
    """exp of the entropy of the normalised singular values of centred features [example, feature] (RankMe, arXiv 2210.02885)."""
    singular = torch.linalg.svdvals(torch.from_numpy(matrix - matrix.mean(0))).double()
    share = singular / singular.sum()
    return float(torch.special.entr(share).sum().exp())


def differences(
    problem: Problem, results: Mapping[str, dict[str, Predictions]], names: list[str]
) -> dict[str, dict[str, Any]]:
    """To the recipe as it is, to the raw streams, and of all streams to video alone; title -> test -> difference."""
    others = [name for name in names if name != PIXELS]
    pairs = {
        f"{name} - {PIXELS}, {which}": (f"{name}, {which}", f"{PIXELS}, {which}")
        for name in others
        for which in READINGS
    }
    pairs |= {f"{name}, all streams - {RAW}": (f"{name}, all streams", RAW) for name in names}
    pairs |= {f"{name}, all streams - video alone": (f"{name}, all streams", f"{name}, video alone") for name in names}
    return {
        title: {test: difference(problem, results[a][test], results[b][test]) for test in TESTS}
        for title, (a, b) in pairs.items()
    }


def as_text(record: dict[str, Any], args: argparse.Namespace) -> str:
    """The tables in Markdown."""
    teacher = record["teacher"]
    minutes = "an unknown time" if teacher["minutes"] is None else f"{teacher['minutes']:.1f} minutes"
    columns = ("steps", "s a step", "s once", "training, CPU min", "whole run, CPU min", "mean gate")
    lines = [f"Equal time, {SEEDS} seeds; mean ± deviation. The teacher's own training took {minutes} more "]
    lines[0] += f"({teacher['steps']} steps)."
    lines += ["", *runs.header(columns)]
    for name, row in record["variants"].items():
        cells = [str(row["steps"]), f"{row['seconds a step']:.3f}", f"{row['seconds once']:.1f}"]
        cells += [f"{row['training minutes']:.2f}", runs.spread(row["CPU minutes"], 2), runs.spread(row["gates"])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for half, found in record["halves"].items():
        first = found["rows"][RAW]
        sizes = ", ".join(f"{t}: {first[t]['examples']} clips of {first[t]['recordings']} recordings" for t in TESTS)
        lines += ["", f"Probe of `{args.target}` on {half} ({sizes}):", ""]
        lines += runs.header([*TESTS, "gap", "effective rank"])
        for name, row in found["rows"].items():
            cells = [runs.spread(row[test]["accuracy"]["seeds"]) for test in TESTS]
            cells += [runs.spread(row["gap"]), runs.spread(row["rank"], 1)]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines += ["", f"Differences on {half}, paired by recording, with 95 % intervals:", "", *runs.header(TESTS)]
        for name, row in found["differences"].items():
            lines.append(f"| {name} | {' | '.join(runs.with_interval(row[test]) for test in TESTS)} |")
    lines += ["", f"{record['minutes']:.0f} minutes in all.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
