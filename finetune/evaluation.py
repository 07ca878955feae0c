"""Fits a method on every split and seed, and gathers what it predicts for examples that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from finetune.features import Features
from finetune.methods import linear
from finetune.problem import Problem
from finetune.splits import Split, group_folds
from finetune.tasks import HALF, Task

THIRDS = 3  # of a training part, held out in turn to choose a threshold

# Fits on a split with a seed, then predicts some examples (positions int [example]) -> [example, output].
FitPredict = Callable[[Split, int, np.ndarray], np.ndarray]


@dataclass
class Predictions:
    """What one method says about one test set.

    examples: positions int [example]. values: probabilities or values float64 [seed, example, predicted]. splits: the name
    of the split that each was predicted in, [seed][example]. thresholds: of two classes, the probability from which the second
    is said, [seed, example].
    """

    examples: np.ndarray
    values: np.ndarray
    splits: list[list[str]]
    thresholds: np.ndarray | float = HALF


def evaluate(
    splits: Sequence[Sequence[Split]], fit_predict: FitPredict, of_training: Problem | None = None
) -> dict[str, Predictions]:
    """Test set -> predictions, over seeds (outer) and splits (inner); folds are put together to one test set a seed.

    of_training: the problem, where thresholds are to be chosen on the training parts.
    """
    found: dict[str, list[tuple[np.ndarray, np.ndarray, list[str], np.ndarray]]] = {}
    for seed, of_seed in enumerate(splits):
        parts: dict[str, list[tuple[np.ndarray, np.ndarray, list[str], float]]] = {}
        for split in of_seed:
            if of_training is not None:
                split = replace(split, threshold=youden(of_training, split, seed, fit_predict))
            predicted = fit_predict(split, seed, np.concatenate(list(split.tests.values())))
            done = 0
            for name, rows in split.tests.items():
                values = predicted[done : done + len(rows)]
                parts.setdefault(name, []).append((rows, values, [split.name] * len(rows), split.threshold))
                done += len(rows)
        for name, of_test in parts.items():
            rows = np.concatenate([r for r, _, _, _ in of_test])
            order = np.argsort(rows, kind="stable")
            names = np.array([n for _, _, many, _ in of_test for n in many])
            values = np.concatenate([v for _, v, _, _ in of_test])
            limits = np.concatenate([np.full(len(r), threshold) for r, _, _, threshold in of_test])
            found.setdefault(name, []).append((rows[order], values[order], names[order].tolist(), limits[order]))
    return {
        name: Predictions(
            seeds[0][0],
            np.stack([values for _, values, _, _ in seeds]),
            [names for _, _, names, _ in seeds],
            np.stack([limits for _, _, _, limits in seeds]),
        )
        for name, seeds in found.items()
    }


def for_all(found: Predictions) -> Predictions:
    """One prediction of a constant for all examples of a seed, the mean over folds. Its folds differ by whom each leaves out of
    its training part, against the truth: with one participant a fold it would rank all pairs wrongly (AUROC 0), and be an easy
    rival (Airola et al. 2011, Computational Statistics & Data Analysis 55(4), on folds put together). The mean over folds knows the
    tested ones as well: the errors of this row are a little smaller than those of what never saw them."""
    limits = np.broadcast_to(found.thresholds, found.values.shape[:2])
    values, thresholds = (np.broadcast_to(x.mean(1, keepdims=True), x.shape) for x in (found.values, limits))
    return replace(found, values=values, thresholds=thresholds)


def youden(problem: Problem, split: Split, seed: int, fit_predict: FitPredict) -> float:
    """The probability of the second of two classes from which on sensitivity + specificity is highest (Youden 1950), in
    predictions for thirds of the training part by what was fitted to the rest of it; nobody of the test set is seen."""
    from sklearn.metrics import roc_curve

    train = split.train
    groups = problem.groups[train]
    said = np.full(len(train), np.nan)
    for number, (rest, held_out) in enumerate(group_folds(groups, min(THIRDS, len(np.unique(groups))), seed)):
        inner = Split(f"{split.name}, threshold {number}", train[rest], split.validation, {})
        if len(held_out) and len(rest):
            said[held_out] = fit_predict(inner, seed, train[held_out])[:, 1]
    targets, known = problem.targets[train], np.isfinite(said)
    if len(np.unique(targets[known])) < 2:
        return HALF
    false_positive, true_positive, thresholds = roc_curve(targets[known], said[known], drop_intermediate=False)
    best = int(np.argmax(true_positive - false_positive))
    if best + 1 == len(thresholds):
        return float(thresholds[best])
    return float(thresholds[best] + thresholds[best + 1]) / 2 if best else 1.0  # between two predictions


def probe(problem: Problem, features: Features) -> FitPredict:
    """The linear method on features of the examples."""

    def fit_predict(split: Split, seed: int, asked: np.ndarray) -> np.ndarray:
        train = split.train
        head = linear.fit(features[train], problem.targets[train], problem.groups[train], problem.task, seed)
        return head.predict(features.values[asked], problem.task)

    return fit_predict


def summary(
    problem: Problem, results: dict[str, Predictions], ours: dict[str, Predictions] | None = None
) -> dict[str, dict[str, Any]]:
    """Test set -> ``figures`` of it, its recordings, and under "participants" the figures of whole participants, where somebody
    has several examples and everybody one target: what is said of all of one's examples is averaged.

    ours: predictions of the same examples; "ahead" then tells how much better they are in the main metric, "mean" and "interval".
    """
    table: dict[str, dict[str, Any]] = {}
    for test, found in results.items():
        parts = _parts(problem, found)
        told = [figures(problem.task, *part) for part in parts]
        best = _parts(problem, ours[test]) if ours else []
        for row, (targets, values, limits, units), of_ours in zip(told, parts, best, strict=False):
            mean, ends = problem.task.ahead(targets, units, of_ours[1:3], (values, limits))
            row["ahead"] = {"mean": mean, "interval": None if np.isnan(ends).any() else ends}
        table[test] = told[0] | {
            "recordings": problem.examples["recording"].iloc[found.examples].nunique(),
            "participants": told[1] if len(told) > 1 else None,
        }
    return table


def _parts(problem: Problem, found: Predictions) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """What ``figures`` takes, of the examples and, where ``summary`` tells of them, of whole participants."""
    examples = problem.examples.iloc[found.examples]
    limits = np.broadcast_to(found.thresholds, found.values.shape[:2])
    targets, values, units = problem.targets[found.examples], found.values, problem.units[found.examples]
    parts = [(targets, values, limits, units)]
    rows = [of for name, of in examples.groupby("participant", sort=False).indices.items() if name]
    same = all((targets[of] == targets[of[0]]).all() for of in rows)
    if same and len(rows) > 1 and sum(map(len, rows)) == len(examples) > len(rows):
        first = [of[0] for of in rows]
        said, limit = (np.stack([part[:, of].mean(1) for of in rows], 1) for part in (values, limits))
        parts.append((targets[first], said, limit, units[first]))
    return parts


def figures(
    task: Task, targets: np.ndarray, values: np.ndarray, thresholds: np.ndarray, units: np.ndarray
) -> dict[str, Any]:
    """How many examples, every metric (mean, std over seeds, each seed, and of some the 95 % interval), the main metric's
    interval, and Task.details. values [seed, example, predicted]; thresholds [seed, example]; units: what is resampled [example].
    What cannot be told (a constant has no correlation) is None, for JSON has no nan."""
    by_seed = [task.metrics(targets, *of) for of in zip(values, thresholds, strict=True)]
    intervals = {
        name: None if np.isnan(ends).any() else ends
        for name, ends in task.intervals(targets, values, units, thresholds).items()
    }
    table: dict[str, Any] = {"examples": len(targets)}
    for metric in by_seed[0]:
        of_seeds = [seed[metric] for seed in by_seed]
        spread = {
            "mean": float(np.mean(of_seeds)),
            "std": float(np.std(of_seeds, ddof=len(of_seeds) > 1)),
            "seeds": of_seeds,
        }
        spread |= {"interval": intervals[metric]} if metric in intervals else {}
        table[metric] = spread if np.isfinite(of_seeds).all() else None
    return table | {"interval": intervals[task.main_metric]} | task.details(targets, values)


def metrics_of(row: dict[str, Any]) -> list[str]:
    """The names of the metrics among what ``figures`` gives."""
    about = {"examples", "recordings", "participants", "interval", "ahead", "calibration", "average_precision"}
    return [name for name in row if name not in about]
