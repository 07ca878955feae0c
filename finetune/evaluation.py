"""Fits a method on every split and seed, and gathers what it predicts for examples that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.features import Features
from finetune.methods import linear
from finetune.problem import Problem
from finetune.splits import Split

# Fits on a split with a seed, then predicts some examples (positions int [example]) -> [example, output].
FitPredict = Callable[[Split, int, np.ndarray], np.ndarray]


@dataclass
class Predictions:
    """What one method says about one test set.

    examples: positions int [example]. values: probabilities or values float64 [seed, example, output]. splits: the name
    of the split that each was predicted in, [seed][example].
    """

    examples: np.ndarray
    values: np.ndarray
    splits: list[list[str]]


def evaluate(splits: Sequence[Sequence[Split]], fit_predict: FitPredict) -> dict[str, Predictions]:
    """Test set -> predictions, over seeds (outer) and splits (inner); folds are put together to one test set a seed."""
    found: dict[str, list[tuple[np.ndarray, np.ndarray, list[str]]]] = {}
    for seed, of_seed in enumerate(splits):
        parts: dict[str, list[tuple[np.ndarray, np.ndarray, list[str]]]] = {}
        for split in of_seed:
            predicted = fit_predict(split, seed, np.concatenate(list(split.tests.values())))
            done = 0
            for name, rows in split.tests.items():
                values = predicted[done : done + len(rows)]
                parts.setdefault(name, []).append((rows, values, [split.name] * len(rows)))
                done += len(rows)
        for name, of_test in parts.items():
            rows = np.concatenate([r for r, _, _ in of_test])
            order = np.argsort(rows, kind="stable")
            names = np.array([n for _, _, many in of_test for n in many])
            values = np.concatenate([v for _, v, _ in of_test])
            found.setdefault(name, []).append((rows[order], values[order], names[order].tolist()))
    return {
        name: Predictions(seeds[0][0], np.stack([values for _, values, _ in seeds]), [names for _, _, names in seeds])
        for name, seeds in found.items()
    }


def probe(problem: Problem, features: Features) -> FitPredict:
    """The linear method on features of the examples."""

    def fit_predict(split: Split, seed: int, asked: np.ndarray) -> np.ndarray:
        train = split.train
        head = linear.fit(features[train], problem.targets[train], problem.groups[train], problem.task, seed)
        return head.predict(features.values[asked], problem.task)

    return fit_predict


def summary(problem: Problem, results: dict[str, Predictions]) -> dict[str, dict[str, Any]]:
    """Test set -> examples, recordings, every metric (mean, std over seeds, each seed) and the main metric's interval."""
    table: dict[str, dict[str, Any]] = {}
    for test, predictions in results.items():
        targets = problem.targets[predictions.examples]
        recordings = problem.examples["recording"].to_numpy()[predictions.examples]
        by_seed = [problem.task.metrics(targets, values) for values in predictions.values]
        table[test] = {"examples": len(targets), "recordings": len(np.unique(recordings))}
        for metric in by_seed[0]:
            values = [seed[metric] for seed in by_seed]
            known = bool(np.isfinite(values).all())  # a constant has no correlation: null, for JSON has no nan
            spread = {"mean": float(np.mean(values)), "std": float(np.std(values)), "seeds": values}
            table[test][metric] = spread if known else None
        interval = problem.task.interval(targets, predictions.values, recordings)
        table[test]["interval"] = None if np.isnan(interval).any() else interval
    return table
