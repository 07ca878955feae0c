"""Metrics against values worked out by hand, intervals, and the linear head."""

import numpy as np
import pytest
import torch

from finetune.features import Features, of_one
from finetune.methods import linear
from finetune.tasks import Task, bootstrap_recordings, ccc

THREE = Task("classification", ("a", "b", "c"))
NUMBER = Task("regression")


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


def test_constant_predictions_have_no_correlation() -> None:
    found = NUMBER.metrics(np.array([1.0, 2, 3]), np.full((3, 1), 2.0))
    assert np.isnan(found["pearson"])
    assert found["ccc"] == 0


def test_losses_are_those_of_the_field() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0]])
    expected = -2 + np.log(np.exp(2) + 2)
    assert THREE.loss(logits, torch.tensor([0])).item() == pytest.approx(expected, rel=1e-6)
    assert NUMBER.loss(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 1.0])).item() == pytest.approx(2.5)


@pytest.mark.parametrize("task", [THREE, NUMBER])
def test_the_interval_is_about_the_metric_that_is_reported(task: Task) -> None:
    """From sums within recordings the main metric is what ``metrics`` says, and the interval surrounds it."""
    rng = np.random.default_rng(0)
    recordings = np.repeat([f"r{k}" for k in range(30)], 5)
    if task.classes:
        targets = rng.integers(0, 3, 150)
        predictions = np.eye(3)[np.where(rng.random(150) < 0.6, targets, rng.integers(0, 3, 150))]
    else:
        targets = rng.normal(5, 1, 150)
        predictions = (targets + rng.normal(0, 1, 150))[:, None]
    value = task.metrics(targets, predictions)[task.main_metric]
    assert task._from_sums(task._sums(targets, predictions, recordings).sum(0)) == pytest.approx(value)
    low, high = task.interval(targets, predictions[None], recordings)
    assert low < value < high
    assert high - low < 0.4


def test_recordings_are_resampled_and_not_clips() -> None:
    """A thousand copies of each recording's clip make an interval no narrower."""
    rng = np.random.default_rng(1)
    right = (rng.random(20) < 0.5).astype(float)
    few = np.stack([np.ones(20), right], 1)[None]
    narrow = bootstrap_recordings(few, lambda s: s[..., 1] / s[..., 0])
    assert bootstrap_recordings(few * 1000, lambda s: s[..., 1] / s[..., 0]) == narrow
    assert narrow[1] - narrow[0] > 0.3


@pytest.mark.parametrize("classes", [("a", "b"), ("a", "b", "c")])
def test_the_linear_head_is_scikit_learns(classes: tuple[str, ...]) -> None:
    """Same probabilities as LogisticRegression on the standardised features, for two classes and for three."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    targets = rng.integers(0, len(classes), 120)
    features = (rng.normal(3, 2, (120, 6)) + 2 * np.eye(len(classes), 6)[targets]).astype(np.float32)
    features[:, 5] = 7  # says nothing
    task = Task("classification", classes)
    head = linear.fit(of_one(features), targets, np.arange(120) % 12, task, 0)
    standardised = StandardScaler().fit_transform(features.astype(np.float64))
    gaps = []
    for penalty in linear.PENALTIES:
        model = LogisticRegression(C=1 / penalty, max_iter=500).fit(standardised, targets)
        gaps.append(np.abs(model.predict_proba(standardised) - head.predict(features, task)).max())
    assert min(gaps) < 5e-3
    assert (head.predict(features, task).argmax(1) == targets).mean() > 0.6


def test_a_class_that_the_fold_lacks_is_never_predicted() -> None:
    features = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    for targets in (np.zeros(20, int), np.arange(20) % 2 * 2):
        head = linear.fit(of_one(features), targets, np.arange(20), THREE, 0)
        assert (head.predict(features, THREE)[:, 1] < 1e-9).all()


def test_ridge_predicts_in_the_targets_unit() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 4)).astype(np.float32)
    targets = 100 + 20 * features[:, 0].astype(np.float64)
    head = linear.fit(of_one(features), targets, np.arange(200) % 20, NUMBER, 0)
    assert np.abs(head.predict(features, NUMBER)[:, 0] - targets).max() < 1


def test_noise_is_held_back() -> None:
    """More features than examples and nothing to find: the chosen penalty is a strong one, and guesses stay near chance."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 300)).astype(np.float32)
    targets = rng.integers(0, 3, 60)
    head = linear.fit(of_one(features), targets, np.arange(60) % 10, THREE, 0)
    assert head.linear.weight.abs().max() < 0.05


def streams(*columns: np.ndarray) -> Features:
    """Standardised features of streams, each [example, feature]."""
    values = np.concatenate(columns, 1)
    stream = np.repeat(np.arange(len(columns)), [c.shape[1] for c in columns])
    return Features(((values - values.mean(0)) / values.std(0)).astype(np.float32), stream)


@pytest.mark.parametrize("task", [THREE, NUMBER])
def test_a_stream_that_tells_nothing_costs_nothing(task: Task) -> None:
    """Beside 600 columns of noise a probe with one penalty for all of them is lost; with a share a stream it is not."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 180) if task.classes else rng.normal(size=180)
    groups = np.arange(180) % 30
    told = np.eye(3)[targets] if task.classes else targets[:, None]
    clear = np.concatenate([told + rng.normal(size=told.shape), rng.normal(size=(180, 4))], 1)
    both = streams(rng.normal(size=(180, 600)), clear)
    share = linear.shares(both, targets, groups, task, 0)
    assert share[0] < 0.2 * share[1]
    columns = np.bincount(both.stream)
    assert (share**2 * columns).sum() == pytest.approx(columns.sum())

    train, test = np.arange(120), np.arange(120, 180)

    def error(features: Features) -> float:
        head = linear.fit(features[train], targets[train], groups[train], task, 0)
        predicted = head.predict(features.values[test], task)
        if task.classes:
            return float((predicted.argmax(1) != targets[test]).mean())
        return float(np.abs(predicted[:, 0] - targets[test]).mean())

    apart, together = error(both), error(of_one(both.values))
    assert apart < 0.8 * together
    assert apart < error(of_one(clear.astype(np.float32))) + 0.1


def test_streams_that_tell_as_much_count_as_much() -> None:
    """No stream is silenced by chance; and where there is one stream only, the probe is the one with a single penalty."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 120)
    one, other = (np.eye(3, 5)[targets] + rng.normal(size=(120, 5)) for _ in range(2))
    groups = np.arange(120) % 12
    share = linear.shares(streams(one, other), targets, groups, THREE, 0)
    assert share.min() > 0.4 * share.max()
    absent = Features(np.concatenate([one, np.zeros((120, 3))], 1).astype(np.float32), np.repeat([0, 1], [5, 3]))
    np.testing.assert_array_equal(linear.shares(absent, targets, groups, THREE, 0), 1)


def test_shares_are_chosen_on_a_part_of_very_many_examples() -> None:
    """The cost of the choice grows with the cube of the examples: of whole groups about MOST are looked at."""
    groups = np.repeat(np.arange(40), 5)
    some = linear._whole_groups(groups, 50, 0)
    assert len(some) == 50
    assert len(np.unique(groups[some])) == 10
    assert len(linear._whole_groups(groups, 1000, 0)) == 200
    assert len(np.unique(groups[linear._whole_groups(groups, 3, 0)])) == 2
