"""Thresholds are chosen on training parts alone, folds are put together, and participants count as wholes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from finetune.config import RunConfig
from finetune.evaluation import Predictions, evaluate, metrics_of, probe, summary, youden
from finetune.features import of_one
from finetune.problem import Problem
from finetune.run import simpler
from finetune.splits import Split, folds
from finetune.tasks import Task

NOTHING = np.empty(0, np.int64)


def problem_of(targets: np.ndarray, task: Task, clips: int, unit: str = "participants") -> Problem:
    """``clips`` examples each of p0, p1, ..., everybody in a recording of their own."""
    who = np.arange(len(targets)) // clips
    examples = pd.DataFrame({"recording": [f"r{k}" for k in who], "participant": [f"p{k}" for k in who]})
    examples["value"] = task.said(targets)
    return Problem(
        Path(), pd.DataFrame(), examples, task, ("video",), targets, who, of_one(np.zeros((len(who), 1))), unit=unit
    )


TWO = Task("classification", ("no", "yes"))


def test_a_threshold_sees_held_out_thirds_of_the_training_part_and_nothing_else() -> None:
    targets = np.tile([0, 0, 1, 1], 12)
    problem = problem_of(targets, TWO, clips=2)
    (split, *_) = folds(problem.examples, problem.groups, 4, 0, stratify=False)
    scores = np.random.default_rng(0).uniform(0, 0.3, 48) + 0.15 * targets  # the best threshold is far from a half
    seen = []

    def fit_predict(inner: Split, seed: int, asked: np.ndarray) -> np.ndarray:
        assert seed == 7
        assert inner.name not in {"given", "all"}  # what is kept on disk is never one of these
        assert not set(problem.groups[inner.train]) & set(problem.groups[asked])
        assert not inner.tests
        seen.extend([*inner.train, *asked])
        return np.stack([1 - scores[asked], scores[asked]], 1)

    threshold = youden(problem, split, 7, fit_predict)
    assert set(seen) == set(split.train)
    assert not set(seen) & set(split.tests["folds"])
    train = split.train

    def both(limit: float) -> float:
        said = scores[train] >= limit
        return said[targets[train] == 1].mean() + (~said)[targets[train] == 0].mean()

    assert both(threshold) == pytest.approx(max(both(limit) for limit in np.linspace(0, 0.5, 500)))
    assert threshold < 0.4


def test_the_mean_predictor_is_no_worse_than_chance_where_everybody_is_left_out_in_turn(tmp_path: Path) -> None:
    """Whoever is left out is missing from the mean: fold by fold, it ranks every patient below every control."""
    targets = np.repeat([0, 1], 10)
    problem = problem_of(targets, TWO, clips=2)
    splits = [folds(problem.examples, problem.groups, "each", 0, stratify=False)]
    config = RunConfig(Path(), Path(), Path(), "ill", tmp_path)
    by_fold = evaluate(splits, probe(problem, problem.features))["folds"].values[0, :, 1]
    assert by_fold[targets == 1].max() < by_fold[targets == 0].min()
    results, _ = simpler(problem, splits, config)
    row = summary(problem, results["majority"])["folds"]
    assert row["auroc"]["mean"] == 0.5
    assert row["participants"]["auroc"]["mean"] == 0.5


def test_what_is_fitted_for_a_test_knows_its_threshold() -> None:
    """It is saved with it: a kill before the end must not leave a model that decides at a half."""
    targets = np.tile([0, 0, 1, 1], 12)
    problem = problem_of(targets, TWO, clips=2)
    (split, *_) = folds(problem.examples, problem.groups, 4, 0, stratify=False)
    scores = 0.2 + 0.05 * targets
    known = []

    def fit_predict(fitted: Split, seed: int, asked: np.ndarray) -> np.ndarray:
        if fitted.tests:
            known.append(fitted.threshold)
        return np.stack([1 - scores[asked], scores[asked]], 1)

    (found,) = evaluate([[split]], fit_predict, problem).values()
    assert known == [pytest.approx(0.225)]
    assert (found.thresholds == known[0]).all()
    assert split.threshold == 0.5


def test_a_training_part_of_one_class_keeps_the_half() -> None:
    problem = problem_of(np.zeros(8, int), TWO, clips=2)
    split = Split("fold 0", np.arange(6), NOTHING, {"folds": np.arange(6, 8)})
    assert youden(problem, split, 0, lambda inner, seed, asked: np.full((len(asked), 2), 0.5)) == 0.5


def test_thresholds_follow_their_folds() -> None:
    """Two folds, two thresholds: each decides about the examples of its own fold."""
    targets = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    problem = problem_of(targets, TWO, clips=1)
    splits = [
        Split("fold 0", np.arange(4), NOTHING, {"folds": np.array([7, 5])}),
        Split("fold 1", np.arange(4, 8), NOTHING, {"folds": np.array([0, 2])}),
    ]
    level = {0: 0.1, 1: 0.8}  # the second fold's model says everything higher

    def fit_predict(split: Split, seed: int, asked: np.ndarray) -> np.ndarray:
        p = level[int(split.name[5])] + 0.1 * targets[asked]
        return np.stack([1 - p, p], 1)

    found = evaluate([splits], fit_predict, problem)["folds"]
    assert found.examples.tolist() == [0, 2, 5, 7]
    assert found.splits == [["fold 1", "fold 1", "fold 0", "fold 0"]]
    assert np.asarray(found.thresholds) == pytest.approx(np.array([[0.85, 0.85, 0.15, 0.15]]))
    assert summary(problem, {"folds": found})["folds"]["accuracy"]["mean"] == 1
    half = evaluate([splits], fit_predict)["folds"]
    assert summary(problem, {"folds": half})["folds"]["accuracy"]["mean"] == 0.5


def test_a_participant_is_the_mean_of_the_own_clips() -> None:
    """p0: said 0.9 0.4 0.4 (mean above a half), p1: 0.6 0.1 0.1 (below): three of six clips right, both people."""
    problem = problem_of(np.array([1, 1, 1, 0, 0, 0]), TWO, clips=3)
    said = np.array([0.9, 0.4, 0.4, 0.6, 0.1, 0.1])
    predictions = Predictions(np.arange(6), np.stack([1 - said, said], 1)[None], [["test"] * 6])
    row = summary(problem, {"test": predictions})["test"]
    assert row["accuracy"]["mean"] == pytest.approx(3 / 6)
    assert row["recordings"] == 2
    of_people = row["participants"]
    assert of_people["examples"] == 2
    assert of_people["accuracy"]["mean"] == 1
    assert of_people["brier"]["mean"] == pytest.approx(((1 - 1.7 / 3) ** 2 + (0.8 / 3) ** 2) / 2)
    assert metrics_of(row) == metrics_of(of_people)
    assert "participants" not in metrics_of(row)


@pytest.mark.parametrize("task", [TWO, Task("regression")], ids=["two classes", "regression"])
def test_what_a_method_is_ahead_is_paired(task: Task) -> None:
    """Two methods that err alike: who is drawn moves both figures together, and hardly their difference."""
    rng = np.random.default_rng(0)
    targets = np.repeat(rng.permutation(40) % 2, 3)
    problem = problem_of(targets if task.classes else targets.astype(float), task, clips=3)
    theirs = (targets + np.repeat(rng.normal(0, 0.6, 40), 3)).clip(0, 1)
    ours = theirs + 0.2 * (targets - theirs) * np.repeat(rng.integers(0, 2, 40), 3)

    def said(value: np.ndarray) -> dict[str, Predictions]:
        values = np.stack([1 - value, value], 1) if task.classes else value[:, None]
        return {"t": Predictions(np.arange(120), np.stack([values, values]), [["t"] * 120] * 2)}

    row, best = summary(problem, said(theirs), said(ours))["t"], summary(problem, said(ours))["t"]
    for part, whole in ((row, best), (row["participants"], best["participants"])):
        gain = whole[task.main_metric]["mean"] - part[task.main_metric]["mean"]
        assert part["ahead"]["mean"] == pytest.approx(gain)
        low, high = part["ahead"]["interval"]
        assert 0 <= low <= gain <= high
        assert high - low < 0.7 * (part["interval"][1] - part["interval"][0])
    assert "ahead" not in best
    same = summary(problem, said(ours), said(ours))["t"]["ahead"]
    assert (same["mean"], *same["interval"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("targets", "clips", "names"),
    [([1, 0, 1, 0], 2, True), ([1, 0, 1, 0], 1, True), ([1, 1, 0, 0], 2, False)],
    ids=["several targets", "one clip each", "nobody is named"],
)
def test_without_several_clips_of_one_target_there_are_no_participants(targets, clips: int, names: bool) -> None:
    problem = problem_of(np.array(targets), TWO, clips)
    problem.examples["participant"] = problem.examples["participant"] if names else ""
    predictions = Predictions(np.arange(4), np.full((1, 4, 2), 0.5), [["test"] * 4])
    assert summary(problem, {"test": predictions})["test"]["participants"] is None


def test_what_is_resampled_is_what_stays_together() -> None:
    """Twenty people of three clips each: an interval over people is wider than one that took their recordings apart."""
    rng = np.random.default_rng(0)
    task = Task("regression")
    targets = np.repeat(rng.normal(size=20), 3)
    predictions = Predictions(np.arange(60), (targets + np.repeat(rng.normal(size=20), 3))[None, :, None], [["t"] * 60])
    problem = problem_of(targets, task, clips=3)
    problem.examples["recording"] = [f"r{k}" for k in range(60)]
    people = summary(problem, {"t": predictions})["t"]["interval"]
    problem.unit = "recordings"
    recordings = summary(problem, {"t": predictions})["t"]["interval"]
    assert people[1] - people[0] > 1.3 * (recordings[1] - recordings[0])
