"""One fine-tuning problem in memory: labelled clips, what to predict, what stays together, the frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from configs import UserError
from finetune.config import RunConfig
from finetune.data import read_meta
from finetune.features import (
    Features,
    as_features,
    cached,
    data_digest,
    digest_of,
    encoding,
    map_clips,
    of_one,
    weights_digest,
)
from finetune.labels import class_names, infer_task, join, people_of
from finetune.splits import Split, folds, given_split, groups_of
from finetune.tasks import Task
from pretrain.encoder import Encoder


@dataclass
class Problem:
    """Everything that a method needs to know.

    index: a row a labelled clip. examples: of labels.join, ``row`` counts in index; also split, people (participants of
    the clip, "a;b") and files. targets, groups: [example]. streams: what the encoder reads. features: pooled, of the
    frozen encoder. baselines: the same of simpler descriptions, by name.
    """

    shards: Path
    index: pd.DataFrame
    examples: pd.DataFrame
    task: Task
    streams: tuple[str, ...]
    targets: np.ndarray
    groups: np.ndarray
    features: Features
    baselines: dict[str, Features] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def labelled(
    labels: pd.DataFrame, shards: Path, index: pd.DataFrame, config: RunConfig
) -> tuple[pd.DataFrame, pd.DataFrame, Task, list[str]]:
    """The labelled clips of an index, their examples, the task and lines of warning. Raises UserError."""
    pretraining = index["split"].fillna("") == "pretrain"
    unused = labels["recording"].isin(index["recording"][pretraining])
    labels, index = labels[~unused], index[~pretraining].reset_index(drop=True)
    if labels.empty or index.empty:
        raise UserError("every labelled recording belongs to the split 'pretrain', which fine-tuning does not use")
    name = config.task or infer_task(labels["value"])
    named = index["recording"].isin(labels["recording"])
    metas = [
        read_meta(shards, row) if label else {"people": []}
        for (_, row), label in zip(index.iterrows(), named, strict=True)
    ]
    people = [people_of(meta) for meta in metas]
    examples, notes = join(labels, index, name, people)
    examples["split"] = index["split"].fillna("").to_numpy()[examples["row"]]
    examples["people"] = [";".join(sorted(people[row])) for row in examples["row"]]
    examples["files"] = [files_of(metas[row]) for row in examples["row"]]
    kept, examples["row"] = np.unique(examples["row"], return_inverse=True)
    index = index.iloc[kept].reset_index(drop=True)
    classes = ordered(class_names(examples["value"]).tolist()) if name == "classification" else ()
    if name == "classification" and len(classes) < 2:
        raise UserError(f"target {config.target!r}: every labelled clip is {classes[0]!r}; there is nothing to learn")
    return index, examples, Task(name, classes), notes


def ordered(names: Sequence[str]) -> tuple[str, ...]:
    """Different class names; numbers in the order of numbers."""
    distinct = set(names)
    try:
        return tuple(sorted(distinct, key=float))
    except ValueError:
        return tuple(sorted(distinct))


def files_of(meta: dict[str, Any]) -> str:
    """The files that a clip was cut from, as the manifest names them."""
    return ";".join(sorted(view["source"] for view in meta["views"].values()))


def features(
    encoder: Encoder,
    shards: Path,
    index: pd.DataFrame,
    people: list[list[int]],
    config: RunConfig,
    streams: tuple[str, ...],
) -> dict[str, np.ndarray]:
    """What ``map_clips`` gives for the encoder (and the baselines), computed once for a set of weights, data and streams."""
    functions, modalities = [encoding(encoder, streams)], set(streams)
    if config.baselines:
        from finetune import baselines

        functions.append(baselines.describe)
        modalities |= set(baselines.MODALITIES)
    parts = (weights_digest(encoder), data_digest(shards), *index["key"], streams, people, config.baselines)

    def compute() -> dict[str, np.ndarray]:
        return map_clips(
            shards,
            index,
            functions,
            modalities,
            people=people,
            batch_size=config.batch_size,
            workers=config.workers,
            title="features",
        )

    return cached(config.out / "cache" / f"features-{digest_of(*parts)}.npz", compute)


def described(table: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, Features]:
    """The simpler descriptions of some rows, where they were asked for."""
    if "raw" not in table:
        return {}
    from finetune.baselines import raw_streams

    one = {name: of_one(table[name][rows]) for name in ("picture", "motion")}
    return one | {"raw": raw_streams(table["raw"][rows])}


def persons(examples: pd.DataFrame) -> list[list[int]]:
    """Whom the examples of each clip are about, in the order of ``index``."""
    return [sorted(set(of_clip)) for _, of_clip in examples.groupby("row")["person"]]


def load_problem(
    encoder: Encoder,
    labels: pd.DataFrame,
    shards: Path,
    index: pd.DataFrame,
    config: RunConfig,
    streams: tuple[str, ...],
) -> tuple[Problem, list[list[Split]]]:
    """The problem and its splits, a list a seed. Raises UserError where labels, groups or splits do not hold together."""
    index, examples, task, notes = labelled(labels, shards, index, config)
    given = given_split(examples, config.group_by)  # before the long part: what is wrong with splits shows at once
    if given is None or config.group_by or not (examples["participant"] == "").any():
        groups, warnings = groups_of(examples, config.group_by)
    else:
        groups, warnings = groups_of(examples, "recording")
    table = features(encoder, shards, index, persons(examples), config, streams)
    row_of = {pair: row for row, pair in enumerate(zip(table["clip"], table["person"], strict=True))}
    rows = np.array([row_of.get(pair, -1) for pair in zip(examples["row"], examples["person"], strict=True)])
    if (rows < 0).any():
        lost = int((rows < 0).sum())
        notes.append(f"{lost} of {len(rows)} examples are left out: their clips cannot be read")
        kept = np.flatnonzero(rows >= 0)
        examples, groups, rows = examples.iloc[kept].reset_index(drop=True), groups[kept], rows[kept]
        given = given_split(examples, config.group_by)
    problem = Problem(
        shards=shards,
        index=index,
        examples=examples,
        task=task,
        streams=streams,
        targets=task.targets(examples["value"].to_numpy()),
        groups=groups,
        features=as_features(table["values"][rows], table["present"][rows]),
        baselines=described(table, rows),
        notes=notes + warnings,
    )
    if given is not None:
        return problem, [[given]] * config.seeds
    stratify = bool(task.classes)
    splits = [folds(examples, groups, config.folds, seed, stratify) for seed in range(config.seeds)]
    for split in (split for of_seed in splits for split in of_seed):
        _check(split, examples, groups)
    if len(splits[0]) < config.folds:
        problem.notes.append(f"{len(splits[0])} folds instead of {config.folds}: there are no more groups")
    return problem, splits


def _check(split: Split, examples: pd.DataFrame, groups: np.ndarray) -> None:
    """Folds are made of whole groups, so that this never stops; it is what the report's honesty rests on."""
    (test,) = split.tests.values()
    both = np.intersect1d(groups[split.train], groups[test])
    if len(both):
        names = sorted(set(examples["recording"][np.isin(groups, both)]))[:5]
        raise UserError(f"{split.name}: groups stand in training and test: {', '.join(names)}")
