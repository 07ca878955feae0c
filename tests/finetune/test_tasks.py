"""Losses, decisions and predictions of every task, and the linear head."""

import numpy as np
import pytest
import torch

from finetune.features import Features, of_one
from finetune.methods import linear
from finetune.tasks import Task

THREE = Task("classification", ("a", "b", "c"))
NUMBER = Task("regression")
LABELS = Task("multi-label", ("nod", "smile", "wave"))
LEVELS = Task("ordinal", ("1", "2", "3", "4"))


def test_losses_are_those_of_the_field() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0]])
    expected = -2 + np.log(np.exp(2) + 2)
    assert THREE.loss(logits, torch.tensor([0])).item() == pytest.approx(expected, rel=1e-6)
    assert NUMBER.loss(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 1.0])).item() == pytest.approx(2.5)


def test_a_set_of_labels_and_back() -> None:
    targets = LABELS.targets(["smile", "", "nod;wave"])
    assert targets.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 1]]
    assert LABELS.said(targets) == ["smile", "", "nod;wave"]
    assert LABELS.decide(np.array([[0.5, 0.4, 0.9]])).tolist() == [[1, 0, 1]]
    logits = torch.tensor([[0.0, 2.0, -1.0]])
    expected = (np.log(2) + np.log1p(np.exp(-2.0)) + np.log1p(np.exp(1.0))) / 3  # binary cross entropy, label by label
    assert LABELS.loss(logits, torch.tensor([[1, 1, 1]])).item() == pytest.approx(expected, rel=1e-6)


def test_levels_are_steps_that_are_surpassed() -> None:
    """Level 3 of 4 is above 1 and 2, not above 3; a step is never surpassed more often than the one below it."""
    assert LEVELS.outputs == 3
    assert LEVELS.predicted == 4
    assert LEVELS.indicators(np.array([2, 0])).tolist() == [[1, 1, 0], [0, 0, 0]]
    logits = torch.tensor([[2.0, 1.0, -1.0]])
    expected = (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(-1.0)) + np.log1p(np.exp(-1.0))) / 3
    assert LEVELS.loss(logits, torch.tensor([2])).item() == pytest.approx(expected, rel=1e-6)
    out_of_order = LEVELS.probabilities(torch.tensor([[-1.0, 3.0, 0.0]]))[0]
    low = 1 / (1 + np.exp(1.0))
    assert out_of_order.tolist() == pytest.approx([1 - low, 0, 0, low])
    middle = np.array([[0.45, 0.1, 0.0, 0.45], [0.51, 0.0, 0.0, 0.49]])
    assert LEVELS.said(LEVELS.decide(middle)) == ["2", "1"]  # not the most probable one, the middle one


def test_a_threshold_moves_the_decision_between_two_classes() -> None:
    two = Task("classification", ("no", "yes"))
    predictions = np.array([[0.7, 0.3], [0.4, 0.6]])
    assert two.decide(predictions).tolist() == [0, 1]
    assert two.decide(predictions, np.array([0.2, 0.7])).tolist() == [1, 0]
    assert two.metrics(np.array([1, 0]), predictions, np.array([0.2, 0.7]))["accuracy"] == 1


@pytest.mark.parametrize("name", ["classification", "ordinal", "multi-label"])
def test_balanced_classes_count_the_same(name: str) -> None:
    """Three of one, one of the other: weights are scikit-learn's, and the sums over the two are equal."""
    from sklearn.utils.class_weight import compute_sample_weight

    classes = ("a", "b", "c")
    targets = np.array([0, 0, 0, 1])
    expected = compute_sample_weight("balanced", targets)
    if name == "multi-label":
        targets = np.stack([targets, 1 - targets, targets], 1)
        expected = np.stack([expected] * 3, 1)
    balanced = Task(name, classes, balanced=True)  # pyrefly: ignore[bad-argument-type]
    np.testing.assert_allclose(balanced.weights(targets, targets), expected)
    np.testing.assert_allclose(Task(name, classes).weights(targets, targets), 1)  # pyrefly: ignore[bad-argument-type]
    outputs = torch.randn(4, balanced.outputs, generator=torch.Generator().manual_seed(0))
    weights = torch.from_numpy(balanced.weights(targets, targets))
    parts = [balanced.loss(outputs[k : k + 1], torch.from_numpy(targets[k : k + 1])) for k in range(4)]
    if name != "multi-label":
        whole = balanced.loss(outputs, torch.from_numpy(targets), weights)
        assert whole.item() == pytest.approx((sum(parts[:3]) / 3 + parts[3]).item() / 2, rel=1e-5)


def test_a_rare_class_is_found_when_classes_are_balanced() -> None:
    rng = np.random.default_rng(0)
    targets = (np.arange(400) % 10 == 0).astype(np.int64)
    features = of_one((rng.normal(size=(400, 3)) + 0.9 * targets[:, None]).astype(np.float32))
    found = {}
    for balanced in (False, True):
        task = Task("classification", ("no", "yes"), balanced)
        head = linear.fit(features, targets, np.arange(400) % 20, task, 0)
        found[balanced] = task.metrics(targets, head.predict(features.values, task))["sensitivity"]
    assert found[False] < 0.5
    assert found[True] > 0.7


def test_the_linear_head_of_every_label_is_scikit_learns() -> None:
    """Also for a label that never or always holds in the training part."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 4)).astype(np.float32)
    features = (features - features.mean(0)) / features.std(0)
    holds = features[:, 0] + rng.normal(0, 0.5, 200) > 0
    targets = np.stack([holds, np.zeros(200), np.ones(200)], 1).astype(np.int64)
    head = linear.fit(of_one(features), targets, np.arange(200) % 20, LABELS, 0)
    said = head.predict(features, LABELS)
    models = [LogisticRegression(C=1 / penalty).fit(features, holds) for penalty in linear.PENALTIES]
    assert min(np.abs(m.predict_proba(features)[:, 1] - said[:, 0]).max() for m in models) < 5e-3
    assert said[:, 1].max() < 1e-9
    assert said[:, 2].min() > 1 - 1e-9


def test_the_linear_head_of_levels_shares_one_direction() -> None:
    """It finds the order behind four levels, tells all steps along one direction, and leaves a level that it never saw."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 5)).astype(np.float32)
    hidden = features[:, 0] + 0.3 * rng.normal(size=300)
    targets = np.digitize(hidden, [-1, 0.2])  # levels 0 to 2 of 4
    head = linear.fit(of_one(features), targets, np.arange(300) % 20, LEVELS, 0)
    weight = head.linear.weight.detach().numpy()
    np.testing.assert_allclose(weight[1], weight[0])
    assert not weight[2].any()
    assert np.abs(weight[0, 0]) > 5 * np.abs(weight[0, 1:]).max()
    said = head.predict(features, LEVELS)
    np.testing.assert_allclose(said.sum(1), 1, rtol=1e-6)
    assert said[:, 3].max() < 1e-9
    assert LEVELS.metrics(targets, said)["quadratic_kappa"] > 0.8


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
    hours = np.repeat(
        [0, 1], 7200
    )  # windows of a second of two recordings: their products would fill a gigabyte a stream
    some = linear._whole_groups(hours, 1000, 0)
    assert np.bincount(hours[some]).tolist() == [500, 500]
    assert len(np.unique(some)) == 1000
