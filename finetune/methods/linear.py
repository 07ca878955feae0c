"""Method ``linear``: multinomial logistic (or ridge) regression on pooled features; the encoder is not run again.

How strongly the weights are held back is chosen by cross-validation inside the training fold, over the same groups
(participants, recordings) that the outer split keeps together.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch

from finetune.heads import Head
from finetune.splits import group_folds
from finetune.tasks import Task

PENALTIES = (1e0, 1e1, 1e2, 1e3, 1e4)  # on the squared weights, features being standardised
NEVER = -30.0  # logit of a class that the training fold lacks


def fit(features: np.ndarray, targets: np.ndarray, groups: np.ndarray, task: Task, seed: int) -> Head:
    """A head fitted to features [example, feature] and targets [example]; groups int [example]."""
    head = Head(features.shape[1], task.outputs)
    mean, scale = features.mean(0), features.std(0)
    scale = np.where(scale > 1e-6 * (1 + np.abs(mean)), scale, 1.0)  # a constant column says nothing
    head.mean.copy_(torch.from_numpy(mean))
    head.scale.copy_(torch.from_numpy(scale))
    if not task.classes:
        head.target_mean.fill_(float(targets.mean()))
        head.target_scale.fill_(float(targets.std()) or 1.0)
    standardised = ((features - mean) / scale).astype(np.float32)
    wanted = targets if task.classes else head.standardise_targets(targets)
    coordinates, basis = _rotated(standardised)
    penalty = _choose(coordinates, wanted, groups, task, seed)
    weight, bias = _solve(coordinates, wanted, task, penalty)
    weight = weight @ basis
    with torch.no_grad():
        head.linear.weight.copy_(torch.from_numpy(weight))
        head.linear.bias.copy_(torch.from_numpy(bias))
    return head


def _rotated(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """features [example, feature] as coordinates [example, axis] @ basis [axis, feature], at most one axis an example.

    A penalty on squared weights does not see rotations, so that the solution is the same, and found in a fraction of the time.
    """
    if features.shape[1] <= features.shape[0]:
        return features, np.eye(features.shape[1], dtype=np.float32)
    left, scale, basis = np.linalg.svd(features, full_matrices=False)
    return left * scale, basis


def _choose(features: np.ndarray, targets: np.ndarray, groups: np.ndarray, task: Task, seed: int) -> float:
    """The penalty of the smallest loss on held-out groups."""
    folds = min(3, len(np.unique(groups)))
    if folds < 2 or not features.any():
        return PENALTIES[len(PENALTIES) // 2]
    losses = np.zeros(len(PENALTIES))
    for train, held_out in group_folds(groups, folds, seed):
        for number, penalty in enumerate(PENALTIES):
            weight, bias = _solve(features[train], targets[train], task, penalty)
            outputs = torch.from_numpy(features[held_out] @ weight.T + bias)
            losses[number] += task.loss(outputs, torch.from_numpy(targets[held_out])).item() * len(held_out)
    return PENALTIES[int(losses.argmin())]


def _solve(features: np.ndarray, targets: np.ndarray, task: Task, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """weight [output, feature], bias [output]."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    if not task.classes:
        ridge = Ridge(alpha=penalty).fit(features, targets)
        return ridge.coef_[None].astype(np.float32), np.atleast_1d(ridge.intercept_).astype(np.float32)
    weight = np.zeros((task.outputs, features.shape[1]), np.float32)
    bias = np.full(task.outputs, NEVER, np.float32)
    seen = np.unique(targets)
    if len(seen) == 1:
        bias[seen] = 0
        return weight, bias
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the weakest penalty may not be done; it is rarely chosen
        model = LogisticRegression(C=1 / penalty, max_iter=200, tol=1e-3).fit(features, targets)
    if len(seen) == 2:  # scikit-learn keeps the difference of the two classes alone
        weight[seen[1]], bias[seen] = model.coef_[0], [0, model.intercept_[0]]
    else:
        weight[seen], bias[seen] = model.coef_, model.intercept_
    return weight, bias
