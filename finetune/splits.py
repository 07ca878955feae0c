"""Who is trained on and who is tested on: never the same participant, never the same recording.

Where the data name ``train`` and ``test`` splits, these are used (every split whose name starts with ``test`` is
reported by itself, ``val`` stops training early, ``pretrain`` is not touched). Otherwise k folds, grouped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from configs import UserError
from finetune.tasks import HALF

GroupBy = Literal["participant", "recording", "file"]


@dataclass
class Split:
    """One way to divide the examples; everything int [example], positions in the table of examples."""

    name: str
    train: np.ndarray
    validation: np.ndarray  # empty: the method takes its own part of train
    tests: dict[str, np.ndarray] = field(default_factory=dict)
    threshold: float = HALF  # of two classes, the probability from which the second is said


def groups_of(examples: pd.DataFrame, group_by: GroupBy | None) -> tuple[np.ndarray, list[str]]:
    """What must stay together, int [example], and lines of warning.

    By participant: people who share a recording stay together as well, for they are seen in the same pictures.
    examples: columns recording, participant and, where they are known, people (whom the shards name in the clip, "a;b") and
    files. Raises UserError where labels name no participant.
    """
    if group_by == "file":
        warning = "grouped by file: the same person, or the same recording, may stand in training and test"
        return pd.factorize(examples["files"])[0], [warning]
    if group_by == "recording":
        return pd.factorize(examples["recording"])[0], []
    if (examples["participant"] == "").any():
        raise UserError(
            "the labels name no participant, so nothing says which recordings show the same person: add a column "
            "'participant' to the labels, or give --group_by recording (different recordings, different people)"
        )
    met = examples[["recording", "participant"]].drop_duplicates().to_numpy().tolist()
    if "people" in examples:
        seen = examples[["recording", "people"]].drop_duplicates().to_numpy()
        met += [[recording, name] for recording, people in seen for name in people.split(";") if name]
    return _components(examples["recording"], *zip(*met, strict=True)), []


def _components(examples: pd.Series, recordings: Sequence[str], participants: Sequence[str]) -> np.ndarray:
    """Connected parts of the graph recording - participant, int [example]; examples: the recording of each."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    recording, of_recording = pd.factorize(np.asarray(recordings, dtype=object))
    participant, of_participant = pd.factorize(np.asarray(participants, dtype=object))
    nodes = len(of_recording) + len(of_participant)
    links = (np.ones(len(recording)), (recording, len(of_recording) + participant))
    _, component = connected_components(coo_array(links, shape=(nodes, nodes)), directed=False)
    return component[pd.Index(of_recording).get_indexer(pd.Index(examples))]


def given_split(examples: pd.DataFrame, group_by: GroupBy | None) -> Split | None:
    """The splits that the manifest named, or None where it named no train and test. Raises UserError if they overlap.

    examples: columns recording, participant, split ("" = none) and people (participants of the clip, "a;b").
    """
    names = examples["split"]
    tests = sorted(name for name in names.unique() if name.startswith("test"))
    if not tests or not (names == "train").any():
        return None
    split = Split(
        "given",
        np.flatnonzero(names == "train"),
        np.flatnonzero(names == "val"),
        {name: np.flatnonzero(names == name) for name in tests},
    )
    check_overlap(examples, split, group_by)
    return split


def unused(examples: pd.DataFrame, given: Split | None) -> list[str]:
    """A line for what the manifest's splits name and nothing is made of: a ``dev`` is no ``val``."""
    counts = examples["split"][examples["split"] != ""].value_counts().sort_index()
    if given is None:
        named = (
            f"splits of the manifest ({', '.join(counts.index)}) are not used: there is no train and test among them"
        )
        return [named] if len(counts) else []
    known = {"train", "val", *given.tests}
    return [
        f"split {name!r} is not used ({count} examples): train, val and test* are"
        for name, count in counts.items()
        if name not in known
    ]


def folds(
    examples: pd.DataFrame, groups: np.ndarray, count: int | Literal["each"], seed: int, stratify: bool
) -> list[Split]:
    """k folds in which no group stands on both sides, drawn anew for each seed; "each": every group is a fold of its own.

    Raises UserError for fewer than 2 groups.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    found = len(np.unique(groups))
    if found < 2:
        raise UserError(
            "everything belongs to one group (participants and the recordings they share), so nothing is left to test "
            "on: --group_by recording, if that is honest here, or a 'split' column in the manifest"
        )
    nothing = np.empty(0, dtype=np.int64)
    alone = count == "each"
    count = found if alone else min(count, found)
    # scikit-learn refuses where no class has an example for every fold
    if stratify and not alone and examples["value"].value_counts().max() >= count:
        cut = StratifiedGroupKFold(n_splits=count, shuffle=True, random_state=seed)
        parts = list(cut.split(np.zeros(len(examples)), examples["value"], groups))
    else:
        parts = group_folds(groups, count, seed)
    return [Split(f"fold {k}", train, nothing, {"folds": test}) for k, (train, test) in enumerate(parts)]


def group_folds(groups: np.ndarray, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(train, test) of k folds over whole groups in random order; int [example] each."""
    distinct, which = np.unique(groups, return_inverse=True)
    fold = (np.random.default_rng(seed).permutation(len(distinct)) % count)[which]
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(count)]


def hold_out(groups: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(kept, held out): about ``share`` of the groups is held out, at least one; int [example] each."""
    from sklearn.model_selection import GroupShuffleSplit

    found = len(np.unique(groups))
    if found < 2:
        raise UserError("the training part is one group: nothing is left for early stopping; use --method linear")
    held = min(max(round(share * found), 1), found - 1)
    cut = GroupShuffleSplit(1, test_size=held, random_state=seed)
    return next(cut.split(np.zeros(len(groups)), groups=groups))


def check_overlap(examples: pd.DataFrame, split: Split, group_by: GroupBy | None) -> None:
    """Stops, naming them, where recordings or participants stand in train (or val) and test."""
    learnt = np.concatenate([split.train, split.validation])
    for name, test in split.tests.items():
        for what in ("recording", "participant"):
            if what == "participant" and group_by in {"recording", "file"}:
                continue  # the user said that people may recur
            both = _names(examples.iloc[learnt], what) & _names(examples.iloc[test], what)
            if both and group_by != "file":
                shown = ", ".join(sorted(both)[:5]) + (", ..." if len(both) > 5 else "")
                raise UserError(f"{len(both)} {what}s stand in training and in {name}: {shown}")


def _names(examples: pd.DataFrame, what: str) -> set[str]:
    """Names of the recordings, or of the participants that labels or manifest know of."""
    names = set(examples[what])
    if what == "participant" and "people" in examples:
        names |= {name for people in examples["people"].unique() for name in people.split(";")}
    return names - {""}
