"""Metrics against values worked out by hand and scikit-learn's, and intervals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, cohen_kappa_score, roc_auc_score

from finetune import metrics
from finetune.metrics import bootstrap_recordings, ccc
from finetune.tasks import Task

THREE = Task("classification", ("a", "b", "c"))
TWO = Task("classification", ("no", "yes"))
NUMBER = Task("regression")
LABELS = Task("multi-label", ("nod", "smile", "wave"))
LEVELS = Task("ordinal", ("1", "2", "3"))


def test_classification_metrics_by_hand() -> None:
    """a: 3 of 4 right, b: 1 of 1 right; c never occurs. Predicted a, a, a, b | b."""
    targets = np.array([0, 0, 0, 0, 1])
    probabilities = np.eye(3)[[0, 0, 0, 1, 1]]
    found = THREE.metrics(targets, probabilities)
    assert found["accuracy"] == pytest.approx(4 / 5)
    assert found["balanced_accuracy"] == pytest.approx((3 / 4 + 1) / 2)
    f1_a, f1_b = 2 * 1 * 0.75 / 1.75, 2 * 0.5 * 1 / 1.5
    assert found["macro_f1"] == pytest.approx((f1_a + f1_b) / 2)


def test_regression_metrics_by_hand() -> None:
    """Targets 1 2 3, predictions 2 3 4: perfect correlation, one too high throughout."""
    found = NUMBER.metrics(np.array([1.0, 2, 3]), np.array([[2.0], [3], [4]]))
    assert found["mae"] == pytest.approx(1)
    assert found["pearson"] == pytest.approx(1)
    assert found["r2"] == pytest.approx(1 - 3 / 2)
    assert found["ccc"] == pytest.approx(2 * (2 / 3) / (2 / 3 + 2 / 3 + 1))  # population variances: 2/3 each
    assert ccc(np.ones(3), np.ones(3)) == 0
    assert ccc(np.full(3, 0.1), np.full(3, 0.1)) == 0
    values = np.array([1.0, 2.0, 4.0])
    assert ccc(1e-7 * values, 1e-7 * values[::-1]) == pytest.approx(ccc(values, values[::-1]))  # in any unit


def test_constant_predictions_have_no_correlation() -> None:
    found = NUMBER.metrics(np.array([1.0, 2, 3]), np.full((3, 1), 2.0))
    assert np.isnan(found["pearson"])
    assert found["ccc"] == 0


def test_two_classes_by_hand() -> None:
    """Two positive at 0.9 and 0.4, three negative at 0.6, 0.3 and 0.1: one pair of six is in the wrong order."""
    targets, said = np.array([1, 1, 0, 0, 0]), np.array([0.9, 0.4, 0.6, 0.3, 0.1])
    predictions = np.stack([1 - said, said], 1)
    found = TWO.metrics(targets, predictions)
    assert found["auroc"] == pytest.approx(5 / 6)
    assert found["sensitivity"] == pytest.approx(1 / 2)
    assert found["specificity"] == pytest.approx(2 / 3)
    assert found["brier"] == pytest.approx((0.01 + 0.36 + 0.36 + 0.09 + 0.01) / 5)
    assert found["calibration_error"] == pytest.approx(
        (0.1 + 0.6 + 0.6 + 0.3 + 0.1) / 5
    )  # every one in a bin of its own
    alone = TWO.metrics(targets[2:], predictions[2:])
    assert np.isnan([alone["auroc"], alone["sensitivity"]]).all()
    assert alone["specificity"] == pytest.approx(2 / 3)


def test_the_reliability_curve_by_hand() -> None:
    curve = metrics.calibration(np.array([True, False, True, True]), np.array([0.12, 0.18, 0.55, 1.0]))
    assert curve == {
        "count": [2, 1, 1],
        "predicted": pytest.approx([0.15, 0.55, 1.0]),
        "observed": pytest.approx([0.5, 1.0, 1.0]),
    }
    assert metrics.calibration_error(curve) == pytest.approx((2 * 0.35 + 0.45 + 0) / 4)


def test_labels_by_hand() -> None:
    """wave never holds: it takes no part in the means. nod is ranked perfectly, smile second of two."""
    targets = np.array([[1, 0, 0], [0, 1, 0]])
    predictions = np.array([[0.9, 0.8, 0.6], [0.2, 0.4, 0.1]])
    found = LABELS.metrics(targets, predictions)
    assert found["mean_ap"] == pytest.approx((1 + 1 / 2) / 2)
    assert found["macro_auroc"] == pytest.approx((1 + 0) / 2)
    assert found["macro_f1"] == pytest.approx((1 + 0) / 2)
    assert found["pooled_recall"] == pytest.approx((1 / 2 + 2 / 4) / 2)  # of two 1 and four 0
    assert LABELS.details(targets, predictions[None])["average_precision"] == {"nod": 1.0, "smile": 0.5, "wave": None}


def test_levels_by_hand() -> None:
    """Levels 1 2 3, said 1 3 3."""
    found = LEVELS.metrics(np.array([0, 1, 2]), np.eye(3)[[0, 2, 2]])
    assert found["mae_levels"] == pytest.approx(1 / 3)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["quadratic_kappa"] == pytest.approx(1 - 1 / (3 * (2 / 3 + 8 / 9 + 1 / 9) / 1), abs=1e-9)
    assert LEVELS.metrics(np.zeros(3, int), np.eye(3)[[0, 0, 0]])["quadratic_kappa"] == 0


def some(task: Task, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, predictions that know something of them, and the recording of each of 150 examples."""
    recordings = np.repeat(np.arange(30), 5)
    if task.name == "regression":
        targets = rng.normal(5, 1, 150)
        return targets, (targets + rng.normal(0, 1, 150))[:, None], recordings
    if task.name == "multi-label":
        targets = rng.integers(0, 2, (150, 3))
        return targets, np.clip(0.4 * targets + 0.6 * rng.random((150, 3)), 0, 1).round(2), recordings
    classes = len(task.classes)
    targets = rng.integers(0, classes, 150)
    scores = rng.random((150, classes)) + 0.5 * np.eye(classes)[targets]
    return targets, (scores / scores.sum(1, keepdims=True)).round(2), recordings


@pytest.mark.parametrize("task", [THREE, TWO, NUMBER, LABELS, LEVELS], ids=lambda task: f"{task.name} {task.predicted}")
def test_the_intervals_are_about_what_is_reported(task: Task) -> None:
    """Counted once each, the figure that is resampled is the one that ``metrics`` gives; its interval surrounds it."""
    targets, predictions, recordings = some(task, np.random.default_rng(0))
    found = task.metrics(targets, predictions)
    weighted = task._weighted(targets, predictions, np.full(150, 0.5))
    intervals = task.intervals(targets, predictions[None], recordings)
    assert task.main_metric in weighted
    assert weighted.keys() == intervals.keys()
    for name, figure in weighted.items():
        assert figure(np.ones(150)) == pytest.approx(found[name]), name
        low, high = intervals[name]
        assert low < found[name] < high, name
        assert high - low < 0.4, name


def test_figures_of_drawn_examples_are_scikit_learns() -> None:
    """An example that was drawn twice counts twice; of several draws at once, each has its own figure."""
    rng = np.random.default_rng(3)
    targets, said = rng.random(80) < 0.4, rng.random(80).round(1)  # many ties
    levels, guessed = rng.integers(0, 4, 80), rng.integers(0, 4, 80)
    drawn = rng.integers(0, 4, (2, 80)).astype(float)
    for once in drawn:
        auroc = metrics.weighted_auroc(targets, said)(drawn)[drawn.tolist().index(once.tolist())]
        assert auroc == pytest.approx(roc_auc_score(targets, said, sample_weight=once))
        precision = metrics.weighted_average_precision(targets, said)(once)
        assert precision == pytest.approx(average_precision_score(targets, said, sample_weight=once))
        kappa = metrics.weighted_ccc(levels, guessed)(once)
        assert kappa == pytest.approx(cohen_kappa_score(levels, guessed, weights="quadratic", sample_weight=once))


def test_examples_of_one_unit_are_drawn_together() -> None:
    """Ten copies of every example in its unit make an interval no narrower; single examples as units do."""
    targets, predictions, recordings = some(TWO, np.random.default_rng(0))
    once = TWO.intervals(targets, predictions[None], recordings)
    again = TWO.intervals(np.tile(targets, 10), np.tile(predictions, (10, 1))[None], np.tile(recordings, 10))
    alone = TWO.intervals(np.tile(targets, 10), np.tile(predictions, (10, 1))[None], np.arange(1500))
    for name, (low, high) in once.items():
        assert again[name] == pytest.approx((low, high)), name
        assert alone[name][1] - alone[name][0] < 0.6 * (high - low), name


def test_recordings_are_resampled_and_not_clips() -> None:
    """A thousand copies of each recording's clip make an interval no narrower."""
    rng = np.random.default_rng(1)
    right = (rng.random(20) < 0.5).astype(float)
    few = np.stack([np.ones(20), right], 1)[None]
    narrow = bootstrap_recordings(few, lambda s: s[..., 1] / s[..., 0])
    assert bootstrap_recordings(few * 1000, lambda s: s[..., 1] / s[..., 0]) == narrow
    assert narrow[1] - narrow[0] > 0.3


def test_one_unit_has_no_interval() -> None:
    targets, predictions, _ = some(TWO, np.random.default_rng(0))
    assert all(np.isnan(ends).all() for ends in TWO.intervals(targets, predictions[None], np.zeros(150)).values())
