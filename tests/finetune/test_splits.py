"""Nobody stands on both sides of a split."""

import numpy as np
import pandas as pd
import pytest

from configs import UserError
from finetune.splits import folds, given_split, group_folds, groups_of, hold_out, unused


def examples(recordings: str, participants: str | None = None, splits: str | None = None) -> pd.DataFrame:
    """One letter an example."""
    names = list(participants) if participants else [""] * len(recordings)
    frame = pd.DataFrame({"recording": list(recordings), "participant": names, "people": "", "files": list(recordings)})
    words = {"r": "train", "v": "val", "t": "test", "x": "test_reversed", "d": "dev", " ": ""}
    frame["split"] = [words[s] for s in splits] if splits else ""
    frame["value"] = list("ny" * len(recordings))[: len(recordings)]
    return frame


def test_people_who_meet_stay_together() -> None:
    """p meets q in a, q meets r in b: one group; s is alone in c."""
    groups, _ = groups_of(examples("aabbc", "pqqrs"), None)
    assert len(set(groups[:4])) == 1
    assert groups[4] != groups[0]


def test_people_whom_only_the_shards_name_count_as_well() -> None:
    """Nobody labelled meets anybody, but z is in the pictures of a and of c."""
    table = examples("aabc", "pprs").assign(people=["p;z", "p;z", "r", "s;z"])
    groups, _ = groups_of(table, "participant")
    assert groups[0] == groups[1] == groups[3] != groups[2]
    alone, _ = groups_of(table.drop(columns="people"), "participant")
    assert alone[0] != alone[3]


def test_each_group_can_be_a_fold_of_its_own() -> None:
    table = examples("aabbcd", "ppqqrr")
    groups, _ = groups_of(table, None)
    made = folds(table, groups, "each", seed=0, stratify=True)
    assert sorted(tuple(split.tests["folds"]) for split in made) == [(0, 1), (2, 3), (4, 5)]
    for split in made:
        assert sorted([*split.train, *split.tests["folds"]]) == list(range(6))


@pytest.mark.parametrize("count", [6, "each"])
def test_folds_of_classes_that_are_fewer_than_folds(count) -> None:
    """One clip of everybody, three a class: classes cannot be spread over six folds."""
    table = examples("abcdef", "pqrstu")
    made = folds(table, groups_of(table, None)[0], count, seed=0, stratify=True)
    assert sorted(tuple(split.tests["folds"]) for split in made) == [(k,) for k in range(6)]


def test_labels_without_participants_need_a_word_from_the_user() -> None:
    with pytest.raises(UserError, match="--group_by recording"):
        groups_of(examples("aabb"), None)
    assert groups_of(examples("aabb"), "recording")[0].tolist() == [0, 0, 1, 1]


def test_grouping_by_file_warns() -> None:
    groups, warnings = groups_of(examples("aabb").assign(files=list("1234")), "file")
    assert len(set(groups)) == 4
    assert "same person" in warnings[0]


@pytest.mark.parametrize("stratify", [True, False])
def test_folds_test_every_example_once_and_part_no_group(stratify: bool) -> None:
    table = examples("aabbccddeeffgg")
    groups, _ = groups_of(table, "recording")
    made = folds(table, groups, 3, seed=0, stratify=stratify)
    assert sorted(np.concatenate([split.tests["folds"] for split in made])) == list(range(14))
    for split in made:
        assert not set(groups[split.train]) & set(groups[split.tests["folds"]])
    again = folds(table, groups, 3, seed=1, stratify=stratify)
    assert any(not np.array_equal(a.train, b.train) for a, b in zip(made, again, strict=True))


def test_one_group_cannot_be_tested() -> None:
    table = examples("aaaa", "pqpq")
    with pytest.raises(UserError, match="one group"):
        folds(table, groups_of(table, None)[0], 5, 0, True)


def test_splits_of_the_manifest_are_used_each_test_by_itself() -> None:
    split = given_split(examples("abcdef", "pqrstu", "rrvtxx"), None)
    assert split is not None
    assert split.train.tolist() == [0, 1]
    assert split.validation.tolist() == [2]
    assert {name: rows.tolist() for name, rows in split.tests.items()} == {"test": [3], "test_reversed": [4, 5]}
    assert given_split(examples("abc"), None) is None


def test_splits_that_nothing_is_made_of_are_told() -> None:
    given = examples("abcdef", "pqrstu", "rddtx ")
    assert unused(given, given_split(given, None)) == ["split 'dev' is not used (2 examples): train, val and test* are"]
    (told,) = unused(examples("abc", "pqr", "rdr"), None)
    assert told == "splits of the manifest (dev, train) are not used: there is no train and test among them"
    for silent in ("rvtx", "    "):
        table = examples("abcd", "pqrs", silent)
        assert unused(table, given_split(table, None)) == []


@pytest.mark.parametrize("learnt", ["r", "v"])
def test_an_overlap_stops_and_names_them(learnt: str) -> None:
    with pytest.raises(UserError, match="1 participants stand in training and in test: q"):
        given_split(examples("abcd", "pqrq", f"r{learnt}rt"), None)
    with pytest.raises(UserError, match="1 recordings stand in training and in test: b"):
        given_split(examples("abcb", "pqrs", f"r{learnt}rt"), None)


def test_participants_of_the_manifest_count_as_well() -> None:
    table = examples("abc", None, "rrt").assign(people=["p;q", "r", "q;s"])
    with pytest.raises(UserError, match=r"participants .*: q"):
        given_split(table, None)
    assert given_split(table, "recording") is not None  # the user said that people may recur


def test_group_folds_and_hold_out_keep_groups_whole() -> None:
    groups = np.repeat(np.arange(10), 3)
    for train, test in group_folds(groups, 4, 0):
        assert not set(groups[train]) & set(groups[test])
    kept, held = hold_out(groups, 0.2, 0)
    assert len(set(groups[held])) == 2
    assert not set(groups[kept]) & set(groups[held])
    with pytest.raises(UserError, match="--method linear"):
        hold_out(np.zeros(4), 0.2, 0)
