"""How good predictions are, and how sure that is.

Figures are scikit-learn's and scipy's, and the concordance correlation of Lin (1989). The intervals resample recordings or
participants, never clips or frames: there a figure is a function of how often each example was drawn, for all draws at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

RESAMPLES = 1000  # of the bootstrap
BINS = 10  # of predicted probability, in calibration
Weighted = Callable[[np.ndarray], np.ndarray]  # how often each example counts [..., example] -> a figure [...]


def ccc(targets: np.ndarray, predictions: np.ndarray) -> float:
    """Concordance correlation with population variances; 0 where both are constant."""
    return float(weighted_ccc(targets, predictions)(np.ones(len(targets))))


def classification(targets: np.ndarray, probabilities: np.ndarray, decided: np.ndarray) -> dict[str, float]:
    """targets, decided: class numbers [example]; probabilities [example, class]. Of two classes the second is the positive one.

    A class that no example of the test set has takes no part in the averages; without both classes there is no auroc (nan).
    """
    from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, recall_score

    seen = np.unique(targets)
    found = {
        "accuracy": accuracy_score(targets, decided),
        "balanced_accuracy": recall_score(targets, decided, labels=seen, average="macro", zero_division=0),
    }
    if probabilities.shape[1] == 2:
        found |= two_classes(targets == 1, probabilities[:, 1], decided == 1)
    found["macro_f1"] = f1_score(targets, decided, labels=seen, average="macro", zero_division=0)
    found["kappa"] = cohen_kappa_score(targets, decided) if len(np.union1d(targets, decided)) > 1 else np.nan
    return {name: float(value) for name, value in found.items()}


def two_classes(targets: np.ndarray, probability: np.ndarray, decided: np.ndarray) -> dict[str, float]:
    """bool [example], probability of the positive class [example], bool [example]."""
    from sklearn.metrics import brier_score_loss, recall_score, roc_auc_score

    positive, negative = targets.any(), not targets.all()
    return {
        "auroc": float(roc_auc_score(targets, probability)) if positive and negative else np.nan,
        "sensitivity": float(recall_score(targets, decided)) if positive else np.nan,
        "specificity": float(recall_score(~targets, ~decided)) if negative else np.nan,
        "brier": float(brier_score_loss(targets, probability, pos_label=True)),
        "calibration_error": calibration_error(calibration(targets, probability)),
    }


def calibration(targets: np.ndarray, probability: np.ndarray) -> dict[str, list[float]]:
    """The reliability curve of two classes, for every one of BINS equal stretches of probability that is not empty: how many
    examples lie there, their mean predicted probability, and the share that is positive."""
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    full = count > 0
    means = [np.bincount(bins, values, BINS)[full] / count[full] for values in (probability, targets)]
    return {"count": count[full].tolist(), "predicted": means[0].tolist(), "observed": means[1].tolist()}


def calibration_error(curve: dict[str, list[float]]) -> float:
    """Expected calibration error (Naeini et al. 2015): |predicted - observed| of ``calibration``, weighted by count."""
    gaps = np.abs(np.subtract(curve["predicted"], curve["observed"]))
    return float(np.average(gaps, weights=curve["count"]))


def multi_label(targets: np.ndarray, probabilities: np.ndarray, decided: np.ndarray) -> dict[str, float]:
    """targets, decided: 0 or 1 [example, label]; probabilities [example, label]. Means over the labels that occur in the test
    set; ``pooled_recall`` is the mean recall of 0 and 1 over all examples and labels (MultiMediate's next speaker)."""
    from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score

    occurs = np.flatnonzero(targets.any(0))
    varies = np.flatnonzero(targets.any(0) & ~targets.all(0))

    def mean(metric: Callable[..., Any], labels: np.ndarray, values: np.ndarray) -> float:
        return float(np.mean([metric(targets[:, k], values[:, k]) for k in labels])) if len(labels) else np.nan

    both = len(np.unique(targets)) == 2
    return {
        "mean_ap": mean(average_precision_score, occurs, probabilities) if len(occurs) else 0.0,
        "macro_auroc": mean(roc_auc_score, varies, probabilities),
        "macro_f1": mean(lambda t, d: f1_score(t, d, zero_division=0), occurs, decided),
        "pooled_recall": float(balanced_accuracy_score(targets.ravel(), decided.ravel())) if both else np.nan,
    }


def ordinal(targets: np.ndarray, decided: np.ndarray) -> dict[str, float]:
    """targets, decided: numbers of levels [example]. The quadratic weighted kappa is 0 where both never change."""
    from sklearn.metrics import accuracy_score, cohen_kappa_score, mean_absolute_error

    several = len(np.union1d(targets, decided)) > 1
    return {
        "quadratic_kappa": float(cohen_kappa_score(targets, decided, weights="quadratic")) if several else 0.0,
        "mae_levels": float(mean_absolute_error(targets, decided)),
        "accuracy": float(accuracy_score(targets, decided)),
    }


def regression(targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """targets, predictions: [example]."""
    from scipy.stats import pearsonr
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

    varies = len(targets) > 1 and np.ptp(targets) > 0
    moves = varies and np.ptp(predictions) > 0
    return {
        "mae": float(mean_absolute_error(targets, predictions)),
        "mse": float(mean_squared_error(targets, predictions)),
        "r2": float(r2_score(targets, predictions)) if varies else float("nan"),
        "pearson": float(pearsonr(targets, predictions).statistic) if moves else float("nan"),
        "ccc": ccc(targets, predictions),
    }


def weighted_mean(values: np.ndarray, among: np.ndarray | None = None) -> Weighted:
    """Mean of values [example], among all or bool [example] of them; nan where none of these is drawn."""
    among = np.ones(len(values)) if among is None else among.astype(float)

    def of(weights: np.ndarray) -> np.ndarray:
        return _ratio(weights @ (values * among), weights @ among)

    return of


def weighted_ccc(targets: np.ndarray, predictions: np.ndarray) -> Weighted:
    """The concordance correlation. Of numbers of levels it is the quadratic weighted kappa (both are 1 - E(t-p)^2 over what
    that would be if t and p were independent)."""
    x, y = targets - targets.mean(), predictions - targets.mean()  # squares of small numbers lose less
    nothing = (
        1e-12 * max(np.abs(x).max(initial=0), np.abs(y).max(initial=0)) ** 2
    )  # what rounding leaves of a constant, in any unit

    def of(weights: np.ndarray) -> np.ndarray:
        total = weights.sum(-1)
        mean_x, mean_y = weights @ x / total, weights @ y / total
        covariance = weights @ (x * y) / total - mean_x * mean_y
        variances = weights @ (x * x + y * y) / total - mean_x**2 - mean_y**2
        spread = variances + (mean_x - mean_y) ** 2
        return np.divide(2 * covariance, spread, out=np.zeros_like(spread), where=spread > nothing)

    return of


def weighted_auroc(targets: np.ndarray, probability: np.ndarray) -> Weighted:
    """Area under the ROC curve of targets bool [example]; equal probabilities count half."""

    def of(weights: np.ndarray) -> np.ndarray:
        positive, negative = _by_value(weights, targets, probability)
        below = np.cumsum(negative, -1) - negative / 2
        return _ratio((positive * below).sum(-1), positive.sum(-1) * negative.sum(-1))

    return of


def weighted_average_precision(targets: np.ndarray, probability: np.ndarray) -> Weighted:
    """Average precision of targets bool [example], without interpolation, as scikit-learn's."""

    def of(weights: np.ndarray) -> np.ndarray:
        positive, negative = (part[..., ::-1] for part in _by_value(weights, targets, probability))
        found, asked = np.cumsum(positive, -1), np.cumsum(positive + negative, -1)
        precision = np.divide(found, asked, out=np.zeros_like(found), where=asked > 0)
        return _ratio((positive * precision).sum(-1), positive.sum(-1))

    return of


def _by_value(weights: np.ndarray, targets: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    """Weights of the positive and of the negative examples, [..., different value] each, values growing."""
    order = np.argsort(values, kind="stable")
    first = np.unique(values[order], return_index=True)[1]
    return [np.add.reduceat((weights * which)[..., order], first, -1) for which in (targets, ~targets)]


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.full(np.shape(over), np.nan), where=under > 0)


def bootstrap_recordings(sums: np.ndarray, statistic) -> tuple[float, float]:
    """95 % percentile interval of the seeds' mean of ``statistic``.

    sums [seed, recording, sum]; statistic: [..., sum] -> [...]. Recordings are drawn with replacement, the same ones for
    every seed and, where ``sums`` holds two methods, for both (paired). One recording has no interval: nan.
    """
    return _bootstrap(sums.shape[1], lambda drawn: statistic(np.einsum("du,sun->sdn", drawn, sums)).mean(0))


def interval(statistics: list[Weighted], units: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of the mean of some figures (one a seed), by drawing whole units with replacement, the same
    ones for all; units: what each example belongs to (its recording or participant), int [example]. nan for one unit."""
    distinct, which = np.unique(units, return_inverse=True)
    return _bootstrap(len(distinct), lambda drawn: np.mean([s(drawn[:, which]) for s in statistics], 0))


def _bootstrap(units: int, statistic: Weighted) -> tuple[float, float]:
    """statistic: how often each unit was drawn, float [draw, unit] -> [draw]; draws in which it is nan do not count."""
    from scipy.stats import DegenerateDataWarning, bootstrap

    if units < 2:
        return float("nan"), float("nan")

    def of_draw(drawn: np.ndarray, axis: int) -> np.ndarray:
        del axis  # the last one: drawn is int [..., unit]
        flat = drawn.reshape(-1, units)
        counts = np.zeros(flat.shape)
        np.add.at(counts, (np.arange(len(flat))[:, None], flat), 1)
        return statistic(counts).reshape(drawn.shape[:-1])

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DegenerateDataWarning
        )  # a figure that no draw changes has an interval of no width
        result = bootstrap(
            (np.arange(units),),
            of_draw,
            n_resamples=RESAMPLES,
            batch=100,
            method="percentile",
            vectorized=True,
            rng=np.random.default_rng(0),
        )
    drawn = result.bootstrap_distribution[np.isfinite(result.bootstrap_distribution)]
    if not len(drawn):
        return float("nan"), float("nan")
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)
