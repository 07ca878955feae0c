"""What is predicted: the loss, the decision, the columns of a prediction, and which figures judge it.

- classification: cross entropy;
- multi-label: binary cross entropy of every label;
- ordinal: levels in order, binary cross entropy of "above this level" for every level but the last (CORAL: Cao et al. 2020,
  arXiv 1901.07884, section 3; the linear probe shares one direction among them, as there);
- regression: squared error on the standardised target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, softplus

from finetune import metrics
from finetune.metrics import Weighted

TaskName = Literal["classification", "multi-label", "ordinal", "regression"]
MAIN = {
    "classification": "accuracy",
    "multi-label": "mean_ap",
    "ordinal": "quadratic_kappa",
    "regression": "ccc",
}
SEPARATOR = ";"  # between the labels that an example of a multi-label task has
HALF = 0.5  # probability from which a label, or the second of two classes, is predicted


@dataclass(frozen=True)
class Task:
    """``classes`` in a fixed order: classes, labels, or levels from low to high; a regression has none.

    balanced: all classes count the same in the loss, however many examples they have.
    """

    name: TaskName
    classes: tuple[str, ...] = ()
    balanced: bool = False

    @property
    def outputs(self) -> int:
        """Numbers that a head gives for one example."""
        return len(self.classes) - (self.name == "ordinal") if self.classes else 1

    @property
    def predicted(self) -> int:
        """Numbers of a prediction: a probability for each class, label or level; or the value."""
        return len(self.classes) or 1

    @property
    def main_metric(self) -> str:
        """The metric that is compared and drawn."""
        return MAIN[self.name]

    def targets(self, values: Sequence[object] | np.ndarray) -> np.ndarray:
        """Values of the label table -> int64 class or level [example], 0 or 1 [example, label], or float64 [example]."""
        if not self.classes:
            return np.asarray(values, dtype=np.float64)
        number = {name: k for k, name in enumerate(self.classes)}
        if self.name != "multi-label":
            return np.array([number[str(value)] for value in values], dtype=np.int64)
        targets = np.zeros((len(values), len(self.classes)), np.int64)
        for row, value in enumerate(values):
            targets[row, [number[name] for name in str(value).split(SEPARATOR) if name]] = 1
        return targets

    def indicators(self, targets: np.ndarray) -> np.ndarray:
        """What the outputs stand for, float64 [example, output]: 1 for the class, the labels, the levels that are surpassed;
        or the value."""
        if self.name == "classification":
            return np.eye(len(self.classes))[targets]
        if self.name == "ordinal":
            return (targets[:, None] > np.arange(self.outputs)).astype(np.float64)
        return targets.reshape(len(targets), -1).astype(np.float64)

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """outputs [example, output]; targets as above, for a regression standardised; weights of their shape -> mean loss."""
        if self.name == "classification":
            losses = cross_entropy(outputs, targets, reduction="none")
        elif self.name == "multi-label":
            losses = binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype), reduction="none")
        elif self.name == "ordinal":
            above = targets[:, None] > torch.arange(self.outputs, device=targets.device)
            losses = softplus(torch.where(above, -outputs, outputs)).mean(1)
        else:
            losses = (outputs[:, 0] - targets.to(outputs.dtype)).square()
        return losses.mean() if weights is None else (losses * weights).sum() / weights.sum()

    def weights(self, targets: np.ndarray, learnt: np.ndarray) -> np.ndarray:
        """How much targets count in the loss, float32 of their shape: 1; or, balanced, over how often the class (or whether the
        label is there) occurs among ``learnt``, the targets of the training part."""
        if not self.balanced:
            return np.ones(targets.shape, np.float32)
        if targets.ndim == 2:
            return np.stack([_balanced(t, of, 2) for t, of in zip(targets.T, learnt.T, strict=True)], 1)
        return _balanced(targets, learnt, len(self.classes))

    def probabilities(self, outputs: Tensor) -> Tensor:
        """outputs [example, output] of a task that has classes -> [example, class]."""
        if self.name == "classification":
            return outputs.softmax(1)
        if self.name == "multi-label":
            return outputs.sigmoid()
        above = outputs.sigmoid().cummin(1).values  # a level is surpassed no more often than those below it
        one, none = torch.ones_like(above[:, :1]), torch.zeros_like(above[:, :1])
        return torch.cat([one, above], 1) - torch.cat([above, none], 1)

    def decide(self, predictions: np.ndarray, thresholds: np.ndarray | float = HALF) -> np.ndarray:
        """predictions [..., example, predicted] -> int class or level [..., example], 0 or 1 [..., example, label], or value.

        thresholds: probability of the second of two classes from which on it is said, [..., example]. A level is the middle
        one: those above have less than half of the probability.
        """
        if self.name == "regression":
            return predictions[..., 0]
        if self.name == "multi-label":
            return (predictions >= HALF).astype(np.int64)
        if self.name == "ordinal":
            return (1 - predictions.cumsum(-1)[..., :-1] > HALF).sum(-1)
        if len(self.classes) == 2:
            return (predictions[..., 1] >= thresholds).astype(np.int64)
        return predictions.argmax(-1)

    def said(self, decided: np.ndarray) -> list[Any]:
        """What ``decide`` found for some examples, in the words of the label table."""
        if self.name == "regression":
            return decided.tolist()
        if self.name == "multi-label":
            return [SEPARATOR.join(np.array(self.classes)[row == 1]) for row in decided]
        return [self.classes[number] for number in decided]

    def metrics(
        self, targets: np.ndarray, predictions: np.ndarray, thresholds: np.ndarray | float = HALF
    ) -> dict[str, float]:
        """Every figure of one seed. targets, predictions, thresholds: as ``decide`` has them, without leading axes."""
        decided = self.decide(predictions, thresholds)
        if self.name == "classification":
            return metrics.classification(targets, predictions, decided)
        if self.name == "multi-label":
            return metrics.multi_label(targets, predictions, decided)
        return metrics.ordinal(targets, decided) if self.name == "ordinal" else metrics.regression(targets, decided)

    def details(self, targets: np.ndarray, predictions: np.ndarray) -> dict[str, Any]:
        """More than a number each: of two classes the reliability curve (of all seeds' predictions together), of a multi-label
        task every label's average precision (mean over seeds). predictions [seed, example, predicted]."""
        if self.name == "classification" and len(self.classes) == 2:
            probability = predictions[..., 1].ravel()
            return {"calibration": metrics.calibration(np.tile(targets, len(predictions)), probability)}
        if self.name != "multi-label":
            return {}
        found: dict[str, float | None] = {}
        for number, name in enumerate(self.classes):
            there = targets[:, number] == 1
            by_seed = [
                metrics.weighted_average_precision(there, p[:, number])(np.ones(len(there))) for p in predictions
            ]
            found[name] = float(np.mean(by_seed)) if there.any() else None
        return {"average_precision": found}

    def intervals(
        self, targets: np.ndarray, predictions: np.ndarray, units: np.ndarray, thresholds: np.ndarray | float = HALF
    ) -> dict[str, tuple[float, float]]:
        """95 % intervals of the main metric (of two classes also of auroc, sensitivity, specificity), averaged over seeds, by
        resampling units. predictions [seed, example, ...]; thresholds [seed, example]; units int [example]."""
        thresholds = np.broadcast_to(thresholds, predictions.shape[:2])
        by_seed = [self._weighted(targets, p, t) for p, t in zip(predictions, thresholds, strict=True)]
        return {name: metrics.interval([seed[name] for seed in by_seed], units) for name in by_seed[0]}

    def ahead(
        self,
        targets: np.ndarray,
        units: np.ndarray,
        ours: tuple[np.ndarray, np.ndarray],
        others: tuple[np.ndarray, np.ndarray],
    ) -> tuple[float, tuple[float, float]]:
        """The main metric of our predictions less that of others for the same examples, mean over seeds, and its 95 % interval: the
        same units are drawn for both. Predictions and thresholds each, as ``intervals`` has them."""
        both = zip(zip(*ours, strict=True), zip(*others, strict=True), strict=True)
        pairs = [tuple(self._weighted(targets, *one)[self.main_metric] for one in pair) for pair in both]
        apart: list[Weighted] = [lambda weights, pair=pair: pair[0](weights) - pair[1](weights) for pair in pairs]
        return float(np.mean([one(np.ones(len(targets))) for one in apart])), metrics.interval(apart, units)

    def _weighted(self, targets: np.ndarray, predictions: np.ndarray, thresholds: np.ndarray) -> dict[str, Weighted]:
        """The figures that get an interval, of one seed."""
        decided = self.decide(predictions, thresholds)
        if self.name in {"ordinal", "regression"}:
            return {self.main_metric: metrics.weighted_ccc(targets, decided)}
        if self.name == "multi-label":
            labels = [k for k in range(len(self.classes)) if targets[:, k].any()]
            parts = [metrics.weighted_average_precision(targets[:, k] == 1, predictions[:, k]) for k in labels]
            return {"mean_ap": lambda weights: _nanmean([part(weights) for part in parts], weights)}
        found = {"accuracy": metrics.weighted_mean(decided == targets)}
        if len(self.classes) == 2:
            positive = targets == 1
            found |= {
                "auroc": metrics.weighted_auroc(positive, predictions[:, 1]),
                "sensitivity": metrics.weighted_mean(decided == 1, positive),
                "specificity": metrics.weighted_mean(decided == 0, ~positive),
            }
        return found


def _balanced(targets: np.ndarray, learnt: np.ndarray, classes: int) -> np.ndarray:
    """Over how often each class occurs among ``learnt``, 1 in the mean; scikit-learn's "balanced". float32 [example]"""
    count = np.bincount(learnt, minlength=classes)
    seen = count > 0
    return np.where(seen, len(learnt) / (seen.sum() * np.maximum(count, 1)), 1.0).astype(np.float32)[targets]


def _nanmean(values: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Mean over labels [label][draw]; a label that a draw lacks takes no part in it, without labels 0."""
    if not values:
        return np.zeros(weights.shape[:-1])
    known = np.isfinite(values)
    return np.where(known, values, 0).sum(0) / np.maximum(known.sum(0), 1)
