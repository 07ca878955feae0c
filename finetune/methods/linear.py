"""Method ``linear``: logistic (one for each label, or of ordered levels; or ridge) regression on pooled features; the encoder is
not run again.

How strongly the weights are held back is chosen by cross-validation inside the training fold, over the same groups
(participants, recordings) that the outer split keeps together: one penalty for all, and how much each stream counts beside the
others (multi-penalty ridge: van de Wiel et al. 2021, arXiv 2005.09301), so that a stream that tells nothing costs nothing.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch

from finetune.features import Features
from finetune.heads import Head
from finetune.splits import group_folds
from finetune.tasks import Task

PENALTIES = (1e0, 1e1, 1e2, 1e3, 1e4)  # on the squared weights, features being standardised
NEVER = -30.0  # logit of a class, label or level that the training fold lacks
FOLDS = 3
STRENGTHS = (1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3)  # of what all streams tell, beside a penalty of 1
CHANGES = (0.0, 0.1, 0.3, 3.0, 10.0)  # of one stream's share
ROUNDS = 2  # over the streams
GAIN = 0.01  # of the squared error: less is chance
MOST = 1000  # examples that the shares are chosen on: the cost grows with their cube


def fit(features: Features, targets: np.ndarray, groups: np.ndarray, task: Task, seed: int) -> Head:
    """A head fitted to features and targets of examples, targets [example]; groups int [example]."""
    values = features.values
    head = Head(values.shape[1], task.outputs)
    mean, scale = values.mean(0), values.std(0)
    scale = np.where(scale > 1e-6 * (1 + np.abs(mean)), scale, 1.0)  # a constant column says nothing
    head.mean.copy_(torch.from_numpy(mean))
    head.scale.copy_(torch.from_numpy(scale))
    if not task.classes:
        head.target_mean.fill_(float(targets.mean()))
        head.target_scale.fill_(float(targets.std()) or 1.0)
    wanted = targets if task.classes else head.standardise_targets(targets)
    standardised = ((values - mean) / scale).astype(np.float32)
    factor = shares(Features(standardised, features.stream), wanted, groups, task, seed)[features.stream]
    coordinates, basis = _rotated(standardised * factor)
    weights = task.weights(targets, targets)
    penalty = _choose(coordinates, wanted, weights, groups, task, seed)
    weight, bias = _solve(coordinates, wanted, weights, task, penalty)
    weight = weight @ basis * factor
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


def shares(features: Features, targets: np.ndarray, groups: np.ndarray, task: Task, seed: int) -> np.ndarray:
    """A factor on the standardised columns of each stream, float32 [stream], their squares 1 in the mean over columns; all 1
    where that predicts held-out groups as well. Chosen one stream after the other, by ridge regression on the classes' indicators.
    """
    columns = np.bincount(features.stream)
    same = np.ones(len(columns), np.float32)
    some = _whole_groups(groups, MOST, seed)
    told = [s for s in np.unique(features.stream) if features.values[some][:, features.stream == s].any()]
    cuts = group_folds(groups[some], min(FOLDS, len(np.unique(groups[some]))), seed)
    if len(told) < 2 or len(cuts) < 2:
        return same
    kernels = np.stack([_kernel(features.values[some][:, features.stream == s]) for s in told])
    indicators = task.indicators(targets[some])

    def error(share: np.ndarray) -> float:
        return _held_out_error(np.tensordot(share, kernels, 1), indicators, cuts)

    equal = columns[told] / columns[told].sum()
    best, share = min(((error(c * equal), c * equal) for c in STRENGTHS), key=lambda found: found[0])
    begun = share
    for _ in range(ROUNDS):
        for place in range(len(told)):
            for change in CHANGES:
                other = np.where(np.arange(len(told)) == place, change * share, share)
                if other.any() and (found := error(other)) < (1 - GAIN) * best:
                    best, share = found, other
    if share is begun:
        return same
    squares = np.zeros(len(columns))
    squares[told] = share / columns[told]  # a kernel is a mean over its columns
    return np.sqrt(squares * columns.sum() / (squares * columns).sum()).astype(np.float32)


def _kernel(standardised: np.ndarray) -> np.ndarray:
    """Products of examples, float64 [example, example], a mean over the columns."""
    return standardised.astype(np.float64) @ standardised.T / standardised.shape[1]


def _held_out_error(kernel: np.ndarray, targets: np.ndarray, cuts: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Squared error of ridge regression (penalty 1) on what is held out. kernel [example, example]; targets [example, output]."""
    from scipy.linalg import solve

    total = 0.0
    for train, held_out in cuts:
        mean = targets[train].mean(0)
        inside = kernel[np.ix_(train, train)] + np.eye(len(train))
        dual = solve(inside, targets[train] - mean, assume_a="pos", overwrite_a=True, check_finite=False)
        total += float(np.square(kernel[np.ix_(held_out, train)] @ dual + mean - targets[held_out]).sum())
    return total


def _whole_groups(groups: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Examples of randomly drawn whole groups, about ``most`` of them; where two hold more, some of each: int [example]."""
    distinct, which, count = np.unique(groups, return_inverse=True, return_counts=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(distinct))
    kept = order[: max(int(np.searchsorted(count[order].cumsum(), most, side="right")), 2)]
    share = min(most / count[kept].sum(), 1.0)
    some = [np.flatnonzero(which == group) for group in kept]
    return np.sort(np.concatenate([rng.choice(of, int(np.ceil(share * len(of))), replace=False) for of in some]))


def _choose(
    features: np.ndarray, targets: np.ndarray, weights: np.ndarray, groups: np.ndarray, task: Task, seed: int
) -> float:
    """The penalty of the smallest loss on held-out groups."""
    folds = min(FOLDS, len(np.unique(groups)))
    if folds < 2 or not features.any():
        return PENALTIES[len(PENALTIES) // 2]
    losses = np.zeros(len(PENALTIES))
    for train, held_out in group_folds(groups, folds, seed):
        for number, penalty in enumerate(PENALTIES):
            weight, bias = _solve(features[train], targets[train], weights[train], task, penalty)
            outputs = torch.from_numpy(features[held_out] @ weight.T + bias)
            asked = (torch.from_numpy(values[held_out]) for values in (targets, weights))
            losses[number] += task.loss(outputs, *asked).item() * len(held_out)
    return PENALTIES[int(losses.argmin())]


def _solve(
    features: np.ndarray, targets: np.ndarray, weights: np.ndarray, task: Task, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """weight [output, feature], bias [output]. targets, weights: as Task has them."""
    from sklearn.linear_model import Ridge

    if task.name == "regression":
        ridge = Ridge(alpha=penalty).fit(features, targets)
        return ridge.coef_[None].astype(np.float32), np.atleast_1d(ridge.intercept_).astype(np.float32)
    if task.name == "ordinal":
        return _levels(features, targets, weights, task.outputs, penalty)
    if task.name == "multi-label":
        labels = [_logistic(features, t, w, 2, penalty) for t, w in zip(targets.T, weights.T, strict=True)]
        weight, bias = (np.stack([part[1] - part[0] for part in parts]) for parts in zip(*labels, strict=True))
        return weight, bias
    return _logistic(features, targets, weights, task.outputs, penalty)


def _logistic(
    features: np.ndarray, targets: np.ndarray, weights: np.ndarray, classes: int, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """weight [class, feature], bias [class] of multinomial logistic regression on class numbers [example]."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    weight = np.zeros((classes, features.shape[1]), np.float32)
    bias = np.full(classes, NEVER, np.float32)
    seen = np.unique(targets)
    if len(seen) == 1:
        bias[seen] = 0
        return weight, bias
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the weakest penalty may not be done; it is rarely chosen
        model = LogisticRegression(C=1 / penalty, max_iter=200, tol=1e-3).fit(features, targets, weights)
    if len(seen) == 2:  # scikit-learn keeps the difference of the two classes alone
        weight[seen[1]], bias[seen] = model.coef_[0], [0, model.intercept_[0]]
    else:
        weight[seen], bias[seen] = model.coef_, model.intercept_
    return weight, bias


def _levels(
    features: np.ndarray, targets: np.ndarray, weights: np.ndarray, steps: int, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """weight [step, feature], the same for every step between two levels, and bias [step], of logistic regression on "above".

    targets: level numbers [example]. A step that no example is above (or none is not) is passed never (or always).
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    above = targets[:, None] > np.arange(steps)  # example step
    crossed = above.any(0) & ~above.all(0)
    known, sign = int(crossed.sum()), 1 - 2 * above[:, crossed]

    def loss(solution: np.ndarray) -> tuple[float, np.ndarray]:
        direction, offsets = solution[:-known], solution[-known:]
        wrong = sign * ((features @ direction)[:, None] + offsets)
        slope = sign * expit(wrong) * weights[:, None]
        gradient = np.concatenate([features.T @ slope.sum(1) + penalty * direction, slope.sum(0)])
        value = (np.logaddexp(0, wrong) * weights[:, None]).sum() + penalty / 2 * (direction @ direction)
        return float(value), gradient

    direction, bias = np.zeros(features.shape[1]), np.where(above.all(0), -NEVER, NEVER)
    if known:
        solution = minimize(loss, np.zeros(len(direction) + known), jac=True, method="L-BFGS-B").x
        direction, bias[crossed] = solution[:-known], solution[-known:]
    return np.where(np.asarray(crossed)[:, None], direction, 0).astype(np.float32), bias.astype(np.float32)
