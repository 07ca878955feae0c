"""Pretraining runs beside one another: what benchmarks/extend.py and benchmarks/targets.py share.

A run is ``kinesic pretrain run`` with a recipe and what is typed after it. What is done is not done again: runs, releases
and features stay in the benchmark's folder. Probes are those of benchmarks/shortcut.py, on fewer clips. A run keeps its own
MLflow store, so that several may write at once.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import configs
from benchmarks.shortcut import of_examples, untrained
from finetune import baselines
from finetune.features import Features, as_features, cached, data_digest, digest_of, encoding, map_clips, weights_digest
from finetune.problem import Problem, parts_of
from pretrain.__main__ import COMMANDS
from pretrain.config import ReleaseConfig, RunConfig
from pretrain.engine import run
from pretrain.release import load_encoder, release
from pretrain.tracking import read_metrics

WARMUP = 7  # one step of so many, as in configs/pretrain/demo.yaml


def in_pool(function: Callable[..., Any], work: Sequence[tuple], processes: int) -> list[Any]:
    """``function(*one)`` for each piece of work, in that order: a fresh process of one thread for each, so many at once.

    1: here, one after the other.
    """
    if processes == 1:
        return [function(*one) for one in work]
    os.environ["OMP_NUM_THREADS"] = "1"  # new processes read it when they start
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        futures = [pool.submit(function, *one) for one in work]
        return [future.result() for future in futures]


def settings(recipe: str, shards: Path, out: Path, steps: int, *words: str) -> RunConfig:
    """The config of ``pretrain run`` into ``out``; words: what else is typed."""
    typed = ["--config", recipe, "--data.shards", str(shards), "--out", str(out), "--steps", str(steps)]
    typed += ["--optimizer.warmup_steps", str(max(steps // WARMUP, 1)), *words]
    return configs.parse("pretrain", "run", COMMANDS["run"], typed)


def train(recipe: str, shards: Path, out: Path, steps: int, *words: str) -> RunConfig:
    """``pretrain run`` into ``out``, unless it is done there, and its release, OUT/release."""
    config = settings(recipe, shards, out, steps, *words)
    if code := run(config):
        raise SystemExit(code)
    gc.collect()  # decoded clips: a run keeps all of its own
    if not (out / "release").is_dir():
        release(ReleaseConfig(out, out / "release"))
    return config


def losses(run: Path, modalities: Sequence[str]) -> np.ndarray:
    """The losses of a run's steps, [step, modality]; nan where a step had nothing of a modality."""
    rows = read_metrics(run / "metrics.csv")
    return np.array([[float(row[f"loss_{name}"] or "nan") for name in modalities] for row in rows])


def seconds(run: Path) -> np.ndarray:
    """What the steps of a run took, [step]: reading, decoding and training, without what comes before the first one."""
    return np.array([int(row["clips"]) / float(row["clips_per_second"]) for row in read_metrics(run / "metrics.csv")])


def features(problem: Problem, folder: Path, batch: int = 16) -> dict[str, np.ndarray]:
    """Features of a release's encoder in the order of the examples: "values" and "present" of all its streams together,
    "alone values" and "alone present" of video read alone. In bfloat16, as benchmarks/shortcut.py has them."""
    encoder = load_encoder(folder).requires_grad_(False)
    parts = (weights_digest(encoder), data_digest(problem.shards), *problem.index["key"])

    def compute() -> dict[str, np.ndarray]:
        read = [(encoder.modalities, ""), (("video",), "alone ")]
        return map_clips(
            problem.shards,
            problem.index,
            [encoding(encoder, *which, bf16=True) for which in read],
            encoder.modalities,
            parts=parts_of(problem.examples),
            batch_size=batch,
            workers=0,
            title=f"{folder.parent.name}: {len(problem.index)} clips",
        )

    return of_examples(cached(folder.parent / f"features-{digest_of(*parts)}.npz", compute), problem.examples)


def references(problem: Problem, folder: Path, seed: int, batch: int = 16) -> dict[str, np.ndarray]:
    """What stands beside a release: "raw", the raw streams, and what ``features`` gives of an untrained encoder of its sizes.

    Its gates are closed: its video tokens are the same with other streams beside them.
    """
    encoder = untrained(load_encoder(folder), seed)
    parts = (weights_digest(encoder), data_digest(problem.shards), *problem.index["key"])

    def compute() -> dict[str, np.ndarray]:
        table = map_clips(
            problem.shards,
            problem.index,
            [baselines.describe, encoding(encoder, encoder.modalities, bf16=True)],
            {*encoder.modalities, *baselines.MODALITIES},
            parts=parts_of(problem.examples),
            batch_size=batch,
            workers=0,
            title=f"untrained: {len(problem.index)} clips",
        )
        return table | {f"alone {name}": table[name][:, :1] for name in ("values", "present")}

    return of_examples(cached(folder.parent / f"untrained-{digest_of(*parts)}.npz", compute), problem.examples)


def both_readings(tables: Sequence[dict[str, np.ndarray]]) -> dict[str, list[Features]]:
    """What a probe reads, from ``features`` of one or more encoders: of video alone, and of all streams."""
    prefixes = {"video alone": "alone ", "all streams": ""}
    return {
        name: [as_features(table[f"{prefix}values"], table[f"{prefix}present"]) for table in tables]
        for name, prefix in prefixes.items()
    }


def spread(values: Sequence[float] | np.ndarray, digits: int = 3) -> str:
    """Mean and standard deviation over seeds, as of a sample."""
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=len(values) > 1):.{digits}f}"


def with_interval(found: dict[str, Any]) -> str:
    """A difference of benchmarks/shortcut.py and its interval."""
    return "{:+.3f} ({:+.3f} to {:+.3f})".format(found["mean"], *found["interval"])


def header(columns: Sequence[str]) -> list[str]:
    """The first two lines of a table in Markdown whose first column has no name."""
    return [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
