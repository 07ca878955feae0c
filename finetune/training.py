"""How adapter and prompt are trained: AdamW on the small weights and the head, by gradient through the frozen encoder.

The head starts as the linear probe of the same training part (Kumar et al. 2022, arXiv 2202.10054: a random head would
first distort the features), so that what is gained beyond the probe is the small weights' doing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from finetune.config import RunConfig
from finetune.features import batches, encode_rows, matrix_of
from finetune.heads import Head
from finetune.methods import install, linear, small_weights
from finetune.problem import Problem
from finetune.splits import Split, hold_out
from pretrain.encoder import Encoder

HEAD_LR = 0.1  # of the small weights' rate: a thousand standardised features move a logit together


def train(encoder: Encoder, problem: Problem, split: Split, config: RunConfig, seed: int) -> Head:
    """Trains ``config.method`` and a head on ``split.train``; the best weights on held-out groups stay in the encoder."""
    part, held_out = split.train, split.validation
    if not len(held_out):
        kept, held = hold_out(problem.groups[part], config.training.validation, seed)
        part, held_out = part[kept], part[held]
    head = linear.fit(problem.features[part], problem.targets[part], problem.groups[part], problem.task, seed)
    head = head.to(encoder.device)
    install(encoder, config.method, config.adapter, config.prompt, seed)
    weights = [*small_weights(encoder).values(), *head.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": list(small_weights(encoder).values()), "lr": config.training.lr},
            {"params": list(head.parameters()), "lr": HEAD_LR * config.training.lr},
        ],
        weight_decay=config.training.weight_decay,
    )
    counts = problem.task.weights(problem.targets, problem.targets[part])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(problem, part, config))
    best, best_loss, since = _copy(weights), _loss(encoder, head, problem, held_out, config, counts), 0
    rng = np.random.default_rng(seed)
    for _ in _track(range(config.training.epochs), f"{config.method}, {split.name}, seed {seed}"):
        for outputs, rows in _outputs(encoder, head, problem, rng.permutation(part), config):
            loss = problem.task.loss(outputs, *_targets(head, problem, rows, counts))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            scheduler.step()
        held_out_loss = _loss(encoder, head, problem, held_out, config, counts)
        since += 1
        if held_out_loss < best_loss:
            best, best_loss, since = _copy(weights), held_out_loss, 0
        if since == config.training.patience:
            break
    with torch.no_grad():
        for weight, value in zip(weights, best, strict=True):
            weight.copy_(value)
    return head


@torch.inference_mode()
def predict(encoder: Encoder, head: Head, problem: Problem, rows: np.ndarray, config: RunConfig) -> np.ndarray:
    """Predictions [row, ...] (see Head.predictions) of the tuned encoder for some examples; nan where a clip is damaged."""
    found = np.full((len(rows), problem.task.predicted), np.nan)
    place = {row: number for number, row in enumerate(rows)}
    for outputs, of in _outputs(encoder, head, problem, rows, config):
        found[[place[row] for row in of]] = head.predictions(outputs, problem.task)
    return found


def _outputs(
    encoder: Encoder, head: Head, problem: Problem, rows: np.ndarray, config: RunConfig
) -> Iterator[tuple[Tensor, np.ndarray]]:
    """(outputs [example, output], which examples int [example]) for some examples, a batch of clips at a time."""
    of_clip: dict[int, list[int]] = {}
    for row in rows:
        of_clip.setdefault(int(problem.examples["row"].iloc[row]), []).append(int(row))
    clip_rows = np.array(list(of_clip))
    columns = [encoder.modalities.index(name) for name in problem.streams]
    done = 0
    index = problem.index.iloc[clip_rows]
    for batch in batches(problem.shards, index, problem.streams, config.batch_size, config.workers):
        kept = [(clip, of_clip[row]) for clip, row in zip(batch, clip_rows[done:], strict=False) if clip is not None]
        done += len(batch)
        if not kept:
            continue
        clip = np.concatenate([np.full(len(of), number) for number, (_, of) in enumerate(kept)])
        which = np.concatenate([of for _, of in kept])
        values, present = encode_rows(encoder, [c for c, _ in kept], problem.rows(which, clip), problem.streams)
        yield head(matrix_of(values[:, columns], present[:, columns])), which


def _targets(head: Head, problem: Problem, rows: np.ndarray, counts: np.ndarray | None) -> list[Tensor]:
    """Targets of some examples as the loss sees them, and how much they count there."""
    targets = problem.targets[rows]
    wanted = [targets if problem.task.classes else head.standardise_targets(targets)]
    wanted += [] if counts is None else [counts[rows]]
    return [torch.from_numpy(values).to(head.mean.device) for values in wanted]


@torch.inference_mode()
def _loss(
    encoder: Encoder,
    head: Head,
    problem: Problem,
    rows: np.ndarray,
    config: RunConfig,
    counts: np.ndarray | None = None,
) -> float:
    total, count = 0.0, 0
    for outputs, of in _outputs(encoder, head, problem, rows, config):
        total += problem.task.loss(outputs, *_targets(head, problem, of, counts)).item() * len(of)
        count += len(of)
    return total / max(count, 1)


def _schedule(problem: Problem, part: np.ndarray, config: RunConfig):
    """Factor on the learning rate by step: up over the first tenth, then down along a cosine."""
    clips = problem.examples["row"].iloc[part].nunique()
    steps = config.training.epochs * -(-clips // config.batch_size)
    warm = max(steps // 10, 1)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + np.cos(np.pi * min((step - warm) / max(steps - warm, 1), 1)))

    return factor


def _copy(weights: list[nn.Parameter]) -> list[Tensor]:
    return [weight.detach().clone() for weight in weights]


def _track(items: range, title: str):
    from rich.progress import track

    return track(items, title)
