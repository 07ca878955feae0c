"""How all methods but ``linear`` are trained: AdamW on the weights that a method puts into the encoder, and on the head.

The head starts as the linear probe of the same training part (Kumar et al. 2022, arXiv 2202.10054: a random head would
first distort the features), so that what is gained beyond the probe is the other weights' doing. ``attentive`` trains a head
alone: the encoder runs once, and what its tokens hold is kept (steps.py).
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor, nn

from finetune.added_streams import told
from finetune.config import FullConfig, RunConfig
from finetune.features import Rows, batches, cached, data_digest, digest_of, encode, weights_digest
from finetune.heads import AttentiveHead, Head
from finetune.methods import full, install, linear, settings_of, small_weights
from finetune.problem import Problem
from finetune.splits import Split, hold_out
from finetune.steps import Steps, steps_of
from pretrain.clips import Clip
from pretrain.encoder import Encoder

GATE_LR = 10.0  # of the small weights' rate: the gates of added streams start at zero and are a handful
HEAD_LR = 0.1  # of the small weights' rate: a thousand standardised features move a logit together

# (outputs [example, output], which examples int [example]) for some examples, a batch of clips at a time
Outputs = Callable[[np.ndarray], Iterator[tuple[Tensor, np.ndarray]]]


def train(encoder: Encoder, problem: Problem, split: Split, config: RunConfig, seed: int) -> Head:
    """Trains ``config.method`` and a head on ``split.train``; the best weights on held-out groups stay in the encoder.

    Where no epoch was better there than the probe it began with, what comes back is the probe of all of ``split.train``.
    """
    part, held_out = split.train, split.validation
    if not len(held_out):
        kept, held = hold_out(problem.groups[part], config.training.validation, seed)
        part, held_out = part[kept], part[held]
    head = _probe(encoder, problem, part, config, seed)
    install(encoder, settings_of(config), config.layers, seed)
    weights = [*small_weights(encoder).values(), *head.parameters()]
    optimizer = torch.optim.AdamW(rates(encoder, head, config), weight_decay=config.training.weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(problem, part, config))
    outputs_of = outputs(encoder, head, problem, config)
    counts = problem.task.weights(problem.targets, problem.targets[part])
    best, best_epoch = _copy(weights), 0
    best_loss = mean_loss(head, problem, held_out, outputs_of, counts)
    rng = np.random.default_rng(seed)
    for epoch in _track(range(1, config.training.epochs + 1), f"{config.method}, {split.name}, seed {seed}"):
        for found, rows in outputs_of(rng.permutation(part)):
            update(problem.task.loss(found, *_targets(head, problem, rows, counts)), optimizer, weights)
            scheduler.step()
        held_out_loss = mean_loss(head, problem, held_out, outputs_of, counts)
        if not np.isfinite(held_out_loss):
            about = f"{config.method}, {split.name}, seed {seed}"
            problem.notes.append(f"{about}: the loss was no longer finite; weights of before stand: lower training.lr")
            print(problem.notes[-1], file=sys.stderr)
            break
        if held_out_loss < best_loss:
            best, best_loss, best_epoch = _copy(weights), held_out_loss, epoch
        if epoch - best_epoch == config.training.patience:
            break
    problem.best_epochs.append(best_epoch)
    with torch.no_grad():
        for weight, value in zip(weights, best, strict=True):
            weight.copy_(value)
    if best_epoch == 0 and not len(split.validation):  # a probe need not be told when to stop: all of the part counts
        return _probe(encoder, problem, split.train, config, seed)
    return head


def _probe(encoder: Encoder, problem: Problem, part: np.ndarray, config: RunConfig, seed: int) -> Head:
    """The linear probe of some examples, as a head of the method."""
    head = linear.fit(problem.features[part], problem.targets[part], problem.groups[part], problem.task, seed)
    if config.method == "attentive":
        head = AttentiveHead.of(head, len(problem.streams))
    return head.to(encoder.device)


def update(loss: Tensor, optimizer: torch.optim.Optimizer, weights: list[nn.Parameter]) -> None:
    """One step of the optimizer down the loss."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()


def rates(encoder: Encoder, head: Head, config: RunConfig) -> list[dict]:
    """Parameter groups of AdamW."""
    small, lr = small_weights(encoder), config.training.lr
    heads = [{"params": [head.linear.weight, head.linear.bias], "lr": HEAD_LR * lr}]
    if isinstance(head, AttentiveHead):
        heads.append({"params": [head.query], "lr": lr})
    if isinstance(settings := settings_of(config), FullConfig):
        return heads + full.rates(encoder, settings)
    gates = [weight for name, weight in small.items() if ".reading.gates." in name]
    others = [weight for name, weight in small.items() if ".reading.gates." not in name]
    groups = [{"params": others, "lr": lr}, {"params": gates, "lr": GATE_LR * lr, "weight_decay": 0.0}]
    return heads + [group for group in groups if group["params"]]


@torch.inference_mode()
def predict(encoder: Encoder, head: Head, problem: Problem, rows: np.ndarray, config: RunConfig) -> np.ndarray:
    """Predictions [row, ...] (see Head.predictions) of the tuned encoder for some examples; nan where a clip is damaged."""
    found = np.full((len(rows), problem.task.predicted), np.nan)
    place = {row: number for number, row in enumerate(rows)}
    for said, of in outputs(encoder, head, problem, config)(rows):
        found[[place[row] for row in of]] = head.predictions(said, problem.task)
    return found


def outputs(encoder: Encoder, head: Head, problem: Problem, config: RunConfig) -> Outputs:
    """What a head says of examples: of kept tokens where the encoder stays as it is, else of clips that run through it."""
    modalities = torch.tensor([encoder.modalities.index(name) for name in problem.streams], device=encoder.device)
    if isinstance(head, AttentiveHead) and config.method == "attentive":
        steps = kept_steps(encoder, problem, config)

        def of_kept(rows: np.ndarray) -> Iterator[tuple[Tensor, np.ndarray]]:
            of_clip = _by_clip(problem, rows)
            everything = np.array(list(of_clip), np.int64)
            for first in range(0, len(everything), config.batch_size):
                clips = everything[first : first + config.batch_size]
                which, of_rows = _rows(problem, [of_clip[row] for row in clips])
                some = steps.of_clips(torch.from_numpy(clips))
                yield head.of_steps(some.to(encoder.device), of_rows), which

        return of_kept

    def of_encoded(rows: np.ndarray) -> Iterator[tuple[Tensor, np.ndarray]]:
        of_clip = _by_clip(problem, rows)
        for clips, numbers in _clips(problem, np.array(list(of_clip)), config, config.clips_gb):
            which, of_rows = _rows(problem, [of_clip[row] for row in numbers])
            yield head.of_tokens(encode(encoder, clips, problem.streams), of_rows, modalities), which

    return of_encoded


def _by_clip(problem: Problem, rows: np.ndarray) -> dict[int, list[int]]:
    """Examples by the clip (row of ``problem.index``) that they are about."""
    of_clip: dict[int, list[int]] = {}
    for row in rows:
        of_clip.setdefault(int(problem.examples["row"].iloc[row]), []).append(int(row))
    return of_clip


def _rows(problem: Problem, of_clips: list[list[int]]) -> tuple[np.ndarray, Rows]:
    """The examples of a batch of clips: which, int [example], and what they are about."""
    which = np.concatenate(of_clips)
    return which, problem.rows(which, np.repeat(np.arange(len(of_clips)), [len(of) for of in of_clips]))


def _clips(
    problem: Problem, numbers: np.ndarray, config: RunConfig, kept_gb: float
) -> Iterator[tuple[list[Clip], np.ndarray]]:
    """Clips and their rows of ``problem.index``, int [clip], in batches; damaged ones are left out. kept_gb: room for what is
    asked for again."""
    asked = [int(number) for number in numbers]
    index = problem.index.iloc[problem.kept.missing(asked)]
    batched = batches(problem.shards, index, problem.streams, config.batch_size, config.workers, problem.added)
    clips = problem.kept.fill(asked, itertools.chain.from_iterable(batched), kept_gb * 1e9)
    for first in range(0, len(asked), config.batch_size):
        batch = {number: next(clips) for number in asked[first : first + config.batch_size]}
        if kept := {number: clip for number, clip in batch.items() if clip is not None}:
            yield list(kept.values()), np.array(list(kept))


def kept_steps(encoder: Encoder, problem: Problem, config: RunConfig) -> Steps:
    """The steps of all clips under the frozen encoder, ``clip`` counting in ``problem.index``: computed once, kept in
    memory and in OUT/cache, in half precision."""
    if problem.steps is None:
        parts = ("steps", weights_digest(encoder), data_digest(problem.shards), *problem.index["key"], problem.streams)
        parts += told(encoder, problem.added)
        arrays = cached(
            config.out / "cache" / f"steps-{digest_of(*parts)}.npz", lambda: _all_steps(encoder, problem, config)
        )
        problem.steps = Steps(**{name: torch.from_numpy(values) for name, values in arrays.items()})
    return problem.steps


@torch.inference_mode()
def _all_steps(encoder: Encoder, problem: Problem, config: RunConfig) -> dict[str, np.ndarray]:
    modalities = torch.tensor([encoder.modalities.index(name) for name in problem.streams], device=encoder.device)
    everything = np.arange(len(problem.index))
    parts = []
    for clips, numbers in _track(
        _clips(problem, everything, config, kept_gb=0), "tokens", -(-len(everything) // config.batch_size)
    ):
        some = steps_of(encode(encoder, clips, problem.streams), modalities).to("cpu").half()
        some.clip = torch.from_numpy(numbers)[some.clip]
        parts.append(some)
    return {name: values.numpy() for name, values in asdict(Steps.join(parts)).items()}


def _targets(head: Head, problem: Problem, rows: np.ndarray, counts: np.ndarray | None) -> list[Tensor]:
    """Targets of some examples as the loss sees them, and how much they count there."""
    targets = problem.targets[rows]
    wanted = [targets if problem.task.classes else head.standardise_targets(targets)]
    wanted += [] if counts is None else [counts[rows]]
    return [torch.from_numpy(values).to(head.mean.device) for values in wanted]


@torch.inference_mode()
def mean_loss(
    head: Head, problem: Problem, rows: np.ndarray, outputs_of: Outputs, counts: np.ndarray | None = None
) -> float:
    """The task's loss of some examples, a mean over those whose clips can be read; counts: how much each one does."""
    total, count = 0.0, 0
    for found, of in outputs_of(rows):
        total += problem.task.loss(found, *_targets(head, problem, of, counts)).item() * len(of)
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


def _track(items, title: str, total: int | None = None):
    from rich.progress import track

    return track(items, title, total=total)
