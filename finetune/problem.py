"""One fine-tuning problem in memory: labelled clips, what to predict, what stays together, the frozen features."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from configs import UserError
from finetune.added_streams import AddedStreams, fit_statistics, told
from finetune.config import RunConfig
from finetune.data import read_meta
from finetune.features import (
    Features,
    Part,
    Rows,
    as_features,
    cached,
    data_digest,
    digest_of,
    encoding,
    map_clips,
    of_one,
    weights_digest,
)
from finetune.kept_clips import KeptClips
from finetune.labels import called_as_in, class_names, infer_task, join, people_of, targets_of
from finetune.settings import named_split, settings_of
from finetune.splits import Split, folds, groups_of, unused
from finetune.steps import Steps
from finetune.tasks import Task, TaskName
from pretrain.encoder import Encoder


@dataclass
class Problem:
    """Everything that a method needs to know.

    index: a row a labelled clip. examples: of labels.join, ``row`` counts in index; also split, people (participants of
    the clip, "a;b"), files, and from, to: their window in seconds from the clip's start (-inf to inf: all of it). targets:
    [example, ...] as Task has them. groups: what stays together, int [example]. streams: what the encoder reads. features:
    pooled, of the frozen encoder. unit: what is resampled for an interval. baselines: the same of simpler descriptions, by name.
    steps: of the frozen encoder, once a method needs them. added: streams beside the shards.
    kept: clips that were decoded, for the next epoch.
    best_epochs: of every training so far, after which epoch the weights were the best on held-out groups; 0 = before the first.
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
    unit: str = "recordings"
    steps: Steps | None = None
    added: AddedStreams | None = None
    kept: KeptClips = field(default_factory=KeptClips)
    best_epochs: list[int] = field(default_factory=list)

    @property
    def units(self) -> np.ndarray:
        """What is resampled for an interval, int [example]: never clips or frames."""
        return self.groups if self.unit == "participants" else pd.factorize(self.examples["recording"])[0]

    def rows(self, examples: np.ndarray, clip: np.ndarray) -> Rows:
        """What some examples are about, int [row], where they read the clips of these numbers, int [row]."""
        person, start, end = (self.examples[name].to_numpy()[examples] for name in ("person", "from", "to"))
        return Rows(clip, person, start, end)


def labelled(
    labels: pd.DataFrame, shards: Path, index: pd.DataFrame, config: RunConfig
) -> tuple[pd.DataFrame, pd.DataFrame, Task, list[str]]:
    """The labelled clips of an index, their examples, the task and lines of warning. Raises UserError."""
    labels = called_as_in(labels, index["recording"])
    pretraining = index["split"].fillna("") == "pretrain"
    unused = labels["recording"].isin(index["recording"][pretraining])
    labels, index = labels[~unused], index[~pretraining].reset_index(drop=True)
    if labels.empty or index.empty:
        raise UserError("every labelled recording belongs to the split 'pretrain', which fine-tuning does not use")
    names = targets_of(config.target)
    name = config.task or ("multi-label" if len(names) > 1 else infer_task(labels["value"]))
    named = index["recording"].isin(labels["recording"])
    metas = [
        read_meta(shards, row) if label else {"people": []}
        for (_, row), label in zip(index.iterrows(), named, strict=True)
    ]
    people = [people_of(meta) for meta in metas]
    examples, notes = join(labels, index, name, people, config.window_seconds)
    examples["split"] = index["split"].fillna("").to_numpy()[examples["row"]]
    examples["people"] = [";".join(sorted(people[row])) for row in examples["row"]]
    index["meta"] = pd.Series(metas, dtype=object)
    examples["files"] = [files_of(metas[row]) for row in examples["row"]]
    clip_start, clip_end = (index[column].to_numpy(float)[examples["row"]] for column in ("start", "end"))
    whole = ((examples["start"] == clip_start) & (examples["end"] == clip_end)).to_numpy()
    examples["from"] = np.where(whole, -np.inf, examples["start"] - clip_start)
    examples["to"] = np.where(whole, np.inf, examples["end"] - clip_start)
    kept, examples["row"] = np.unique(examples["row"], return_inverse=True)
    index = index.iloc[kept].reset_index(drop=True)
    task = Task(name, _classes(name, names, examples["value"], config), config.class_weights == "balanced")
    examples["value"] = task.said(task.targets(examples["value"].to_numpy()))
    return index, examples, task, notes


def _classes(name: TaskName, names: Sequence[str], values: pd.Series, config: RunConfig) -> tuple[str, ...]:
    """The classes of a task in their order. Raises UserError where there is nothing to learn."""
    asked = {
        "class_weights": config.class_weights,
        "positive": config.positive,
        "threshold": config.threshold == "youden",
    }
    if name == "regression":
        if wrong := [key for key, value in asked.items() if value]:
            raise UserError(f"{wrong[0]}: a regression has no classes")
        return ()
    if config.threshold == "youden" and name != "classification":
        raise UserError(f"threshold youden: needs two classes, not a task {name}")
    if name == "multi-label":
        if config.positive is not None:
            raise UserError(
                f"positive {config.positive!r}: of a multi-label task each label is one that holds or does not"
            )
        if not values.str.len().any():
            raise UserError(f"target {config.target!r}: no label holds in any example; there is nothing to learn")
        return tuple(names)
    classes = ordered(class_names(values).tolist())
    if len(classes) < 2:
        raise UserError(f"target {config.target!r}: every labelled clip is {classes[0]!r}; there is nothing to learn")
    if config.threshold == "youden" and len(classes) != 2:
        raise UserError(f"threshold youden: needs two classes; the target's: {', '.join(classes)}")
    if config.positive is not None:
        if len(classes) != 2 or config.positive not in classes or name != "classification":
            raise UserError(f"positive {config.positive!r}: needs two classes and one of them; the target's: {classes}")
        classes = (*(c for c in classes if c != config.positive), config.positive)
    return classes


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
    parts: list[list[Part]],
    config: RunConfig,
    streams: tuple[str, ...],
    added: AddedStreams | None = None,
) -> dict[str, np.ndarray]:
    """What ``map_clips`` gives for the encoder (and the baselines), computed once for a set of weights, data and streams."""
    functions, modalities = [encoding(encoder, streams)], set(streams)
    if config.baselines:
        from finetune import baselines, handmade

        functions += [baselines.describe, handmade.describe]
        modalities |= set(baselines.MODALITIES)
    depends = (weights_digest(encoder), data_digest(shards), *index["key"], streams, parts, config.baselines)
    depends += told(encoder, added)

    def compute() -> dict[str, np.ndarray]:
        return map_clips(
            shards,
            index,
            functions,
            modalities,
            parts=parts,
            batch_size=config.batch_size,
            workers=config.workers,
            title="features",
            added=added,
        )

    return cached(config.out / "cache" / f"features-{digest_of(*depends)}.npz", compute)


def described(
    table: dict[str, np.ndarray], rows: np.ndarray, index: pd.DataFrame, examples: pd.DataFrame
) -> dict[str, Features]:
    """The simpler descriptions of the examples, where they were asked for; rows: theirs in the table."""
    if "raw" not in table:
        return {}
    from finetune.baselines import metadata, raw_streams
    from finetune.handmade import by_stream

    one = {"metadata": of_one(metadata(index["meta"].tolist(), examples))}
    one |= {name: of_one(table[name][rows]) for name in ("picture", "motion")}
    return one | {"raw": raw_streams(table["raw"][rows]), "handmade": by_stream(table["handmade"][rows])}


def parts_of(examples: pd.DataFrame) -> list[list[Part]]:
    """What the examples of each clip are about, in the order of ``index``."""
    columns = examples[["person", "from", "to"]]
    return [
        sorted(set(columns.loc[of].itertuples(index=False, name=None)))
        for of in examples.groupby("row").groups.values()
    ]


def load_problem(
    encoder: Encoder,
    labels: pd.DataFrame,
    shards: Path,
    index: pd.DataFrame,
    config: RunConfig,
    streams: tuple[str, ...],
    added: AddedStreams | None = None,
) -> tuple[Problem, list[list[Split]]]:
    """The problem and its splits, a list a seed. Raises UserError where labels, groups or splits do not hold together."""
    _check_window(encoder, streams, config)
    index, examples, task, notes = labelled(labels, shards, index, config)
    if config.test_setting is not None:
        examples["setting"] = examples["recording"].map(settings_of(config, index))
        if unknown := examples["recording"][examples["setting"] == ""].nunique():
            notes.append(f"{unknown} recordings are left out: nobody said their {config.setting}")
    given = named_split(examples, config)  # before the long part: what is wrong with splits shows at once
    notes += unused(examples, given) if config.test_setting is None else []
    unnamed = given is not None and config.group_by is None and (examples["participant"] == "").any()
    group_by = "recording" if unnamed else config.group_by or "participant"
    groups, warnings = groups_of(examples, group_by)
    if unnamed and len(nameless := examples[examples["participant"] == ""]) < len(examples):
        warnings.append(
            f"{len(nameless)} of {len(examples)} examples name no participant: recordings are kept together and resampled instead, "
            "which takes one person's recordings for several people's"
        )
    splits = _splits(given, examples, groups, task, config)  # likewise
    if added is not None:
        notes += added.notes(index)
        if given is None:
            notes.append(
                "mean and deviation of the added streams are those of all recordings, the tested ones included"
            )
        learnt = np.arange(len(examples)) if given is None else np.concatenate([given.train, given.validation])
        fit_statistics(encoder, added, set(examples["recording"].iloc[learnt]))
    table = features(encoder, shards, index, parts_of(examples), config, streams, added)
    columns = (table[name] for name in ("clip", "person", "start", "end"))
    row_of = {about: row for row, about in enumerate(zip(*columns, strict=True))}
    wanted = zip(*(examples[name] for name in ("row", "person", "from", "to")), strict=True)
    rows = np.array([row_of.get(about, -1) for about in wanted])
    if (rows < 0).any():
        lost = int((rows < 0).sum())
        notes.append(f"{lost} of {len(rows)} examples are left out: their clips cannot be read")
        kept = np.flatnonzero(rows >= 0)
        examples, groups, rows = examples.iloc[kept].reset_index(drop=True), groups[kept], rows[kept]
        given = named_split(examples, config)
        splits = _splits(given, examples, groups, task, config)
    problem = Problem(
        shards=shards,
        index=index,
        examples=examples,
        task=task,
        streams=streams,
        targets=task.targets(examples["value"].to_numpy()),
        groups=groups,
        features=as_features(table["values"][rows], table["present"][rows]),
        baselines=described(table, rows, index, examples),
        notes=notes + warnings,
        added=added,
        unit="participants" if group_by == "participant" else "recordings",
    )
    if given is None and config.folds != "each" and len(splits[0]) < config.folds:
        problem.notes.append(f"{len(splits[0])} folds instead of {config.folds}: there are no more groups")
    return problem, splits


def _splits(
    given: Split | None, examples: pd.DataFrame, groups: np.ndarray, task: Task, config: RunConfig
) -> list[list[Split]]:
    """The given split or folds, a list a seed. Raises UserError where groups are too few."""
    if given is not None:
        found = [[given]] * config.seeds
    else:
        stratify = task.name in {"classification", "ordinal"}
        found = [folds(examples, groups, config.folds, seed, stratify) for seed in range(config.seeds)]
        for split in itertools.chain(*found):
            _check(split, examples, groups)
    needed = 3 if config.threshold == "youden" else 2  # a third of the groups is held out to choose a threshold
    for split in itertools.chain(*found):
        if config.method != "linear" and not len(split.validation) and len(np.unique(groups[split.train])) < needed:
            raise UserError(
                f"the training part has fewer than {needed} groups (participants or recordings that stay together): nothing "
                "is left for early stopping; use --method linear"
            )
    return found


def _check_window(encoder: Encoder, streams: Sequence[str], config: RunConfig) -> None:
    """Raises UserError where a window would be shorter than a token."""
    model = encoder.config
    lasts = {name: stream.token_seconds for name, stream in model.streams.items() if name in streams}
    lasts |= {"video": model.tubelet / model.frame_rate} if "video" in streams else {}
    longest = max(lasts, key=lambda name: lasts[name])
    if config.window_seconds is not None and config.window_seconds < lasts[longest]:
        raise UserError(
            f"--window_seconds {config.window_seconds:g}: a token of {longest} lasts {lasts[longest]:g} s, and a window must hold "
            f"one: give {lasts[longest]:g} or more, or leave {longest} out of --streams"
        )


def _check(split: Split, examples: pd.DataFrame, groups: np.ndarray) -> None:
    """Folds are made of whole groups, so that this never stops; it is what the report's honesty rests on."""
    (test,) = split.tests.values()
    both = np.intersect1d(groups[split.train], groups[test])
    if len(both):
        names = sorted(set(examples["recording"][np.isin(groups, both)]))[:5]
        raise UserError(f"{split.name}: groups stand in training and test: {', '.join(names)}")
