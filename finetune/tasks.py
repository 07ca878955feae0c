"""What is predicted: the loss, the metrics and the columns of a prediction.

Classification: cross entropy; accuracy, balanced accuracy, macro F1. Regression: squared error on the standardised
target; MAE, R2, Pearson's r and the concordance correlation of Lin (1989). Intervals resample recordings, never clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

RESAMPLES = 1000  # of the bootstrap


@dataclass(frozen=True)
class Task:
    """A classification (``classes`` in a fixed order) or a regression (no classes)."""

    name: Literal["classification", "regression"]
    classes: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """Numbers that a head gives for one example."""
        return len(self.classes) or 1

    @property
    def main_metric(self) -> str:
        """The metric that is compared and drawn."""
        return "accuracy" if self.classes else "ccc"

    def targets(self, values: Sequence[object] | np.ndarray) -> np.ndarray:
        """Values of the label table -> class numbers int64 [example], or float64 [example]."""
        if not self.classes:
            return np.asarray(values, dtype=np.float64)
        number = {name: k for k, name in enumerate(self.classes)}
        return np.array([number[str(value)] for value in values], dtype=np.int64)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """outputs [example, output]; targets [example], for a regression already standardised -> mean loss."""
        if self.classes:
            return torch.nn.functional.cross_entropy(outputs, targets)
        return torch.nn.functional.mse_loss(outputs[:, 0], targets.to(outputs.dtype))

    def metrics(self, targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        """targets [example]; predictions: probabilities [example, class], or values [example, 1]."""
        return _classification(targets, predictions) if self.classes else _regression(targets, predictions[:, 0])

    def interval(self, targets: np.ndarray, predictions: np.ndarray, recordings: np.ndarray) -> tuple[float, float]:
        """95 % interval of the main metric, averaged over seeds, by resampling recordings. predictions [seed, example, ...]."""
        sums = np.stack([self._sums(targets, p, recordings) for p in predictions])  # seed recording sum
        return bootstrap_recordings(sums, self._from_sums)

    def _sums(self, targets: np.ndarray, predictions: np.ndarray, recordings: np.ndarray) -> np.ndarray:
        """What the main metric is computed from, summed within each recording: [recording, sum]."""
        if self.classes:
            columns = [predictions.argmax(1) == targets]
        else:
            x, y = targets, predictions[:, 0]
            columns = [x, y, x * x, y * y, x * y]
        which = np.unique(recordings, return_inverse=True)[1]
        return np.stack([np.bincount(which, weights=c) for c in (np.ones(len(targets)), *columns)], axis=1)

    def _from_sums(self, sums: np.ndarray) -> np.ndarray:
        """[..., sum] over some recordings -> main metric [...]."""
        n = sums[..., 0]
        if self.classes:
            return sums[..., 1] / n
        x, y, xx, yy, xy = np.moveaxis(sums[..., 1:] / n[..., None], -1, 0)
        spread = (xx - x * x) + (yy - y * y) + (x - y) ** 2
        return np.divide(2 * (xy - x * y), spread, out=np.zeros_like(n), where=spread > 0)


def bootstrap_recordings(sums: np.ndarray, statistic) -> tuple[float, float]:
    """95 % percentile interval of the seeds' mean of ``statistic``.

    sums [seed, recording, sum]; statistic: [..., sum] -> [...]. Recordings are drawn with replacement, the same ones for
    every seed and, where ``sums`` holds two methods, for both (paired). One recording has no interval: nan.
    """
    from scipy.stats import bootstrap

    recordings = sums.shape[1]
    if recordings < 2:
        return float("nan"), float("nan")

    def of_draw(drawn: np.ndarray, axis: int) -> np.ndarray:
        del axis  # the last one: drawn is int [..., recording]
        return statistic(np.take(sums, drawn, axis=1).sum(-2)).mean(0)

    result = bootstrap(
        (np.arange(recordings),),
        of_draw,
        n_resamples=RESAMPLES,
        batch=100,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def ccc(targets: np.ndarray, predictions: np.ndarray) -> float:
    """Concordance correlation with population variances; 0 where both are constant."""
    covariance = np.mean((targets - targets.mean()) * (predictions - predictions.mean()))
    spread = targets.var() + predictions.var() + (targets.mean() - predictions.mean()) ** 2
    return float(2 * covariance / spread) if spread > 0 else 0.0


def _classification(targets: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score, recall_score

    predicted = probabilities.argmax(1)
    seen = np.unique(targets)  # a class that no example of the test set has takes no part in the averages
    return {
        "accuracy": float(accuracy_score(targets, predicted)),
        "balanced_accuracy": float(recall_score(targets, predicted, labels=seen, average="macro", zero_division=0)),
        "macro_f1": float(f1_score(targets, predicted, labels=seen, average="macro", zero_division=0)),
    }


def _regression(targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    from scipy.stats import pearsonr
    from sklearn.metrics import mean_absolute_error, r2_score

    varies = len(targets) > 1 and np.ptp(targets) > 0
    moves = varies and np.ptp(predictions) > 0
    return {
        "mae": float(mean_absolute_error(targets, predictions)),
        "r2": float(r2_score(targets, predictions)) if varies else float("nan"),
        "pearson": float(pearsonr(targets, predictions).statistic) if moves else float("nan"),
        "ccc": ccc(targets, predictions),
    }
