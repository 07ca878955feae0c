"""Order, resumption and division of the stream, on plans and on real shards."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from clips_for_tests import tiny_mask, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import UserError
from data_prep.shards import read_index
from pretrain.config import DataConfig, RunConfig
from pretrain.objective import MaskedAutoencoder
from pretrain.stream import Clips, Plan, batches, epoch_order, mask_seed


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(0, 99), st.integers(1, 5))
def test_an_epoch_holds_every_row_once_and_few_shards_at_a_time(shards: list[int], epoch: int, mixed: int) -> None:
    names = np.array([f"shard-{number}" for number in shards])
    order = epoch_order(names, 7, epoch, mixed)
    assert sorted(order) == list(range(len(shards)))
    groups, seen = [], set()
    for row in order:  # shards are opened in groups of ``mixed``, and none is opened again once the next group began
        if names[row] not in seen and len(seen) % mixed == 0:
            groups.append(set())
        seen.add(names[row])
        groups[-1].add(names[row])
        assert names[row] in groups[-1]
    assert sum(len(group) for group in groups) == len(set(shards))
    np.testing.assert_array_equal(order, epoch_order(names, 7, epoch, mixed))


def test_epochs_and_seeds_differ() -> None:
    names = np.array(["a"] * 30 + ["b"] * 30)
    orders = [tuple(epoch_order(names, seed, epoch, 2)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert mask_seed(0, "a", 0) == mask_seed(0, "a", 0)
    assert len({mask_seed(seed, key, epoch) for seed in (0, 1) for key in "ab" for epoch in (0, 1)}) == 8


@settings(max_examples=50, deadline=None)
@given(
    processes=st.sampled_from([1, 2, 4]),
    accumulate=st.sampled_from([1, 3]),
    workers=st.integers(1, 3),
    begin=st.integers(0, 9),
)
def test_steps_hold_the_same_clips_however_they_are_divided(
    processes: int, accumulate: int, workers: int, begin: int
) -> None:
    batch, steps = 12, 5
    names = np.array([f"shard-{row // 4}" for row in range(17)])
    alone = Plan(names, 3, 2, batch, 1, 0, 1, 0).passes()
    expected = [sorted(places) for places in itertools.islice(alone, begin, begin + steps)]
    found: list[list[tuple[int, int]]] = [[] for _ in range(steps)]
    for rank in range(processes):
        plan = Plan(names, 3, 2, batch // (processes * accumulate), accumulate, rank, processes, begin)
        each = [plan.passes(worker, workers) for worker in range(workers)]
        for number in range(steps * accumulate):  # as DataLoader does: one pass of each worker in turn
            found[number // accumulate] += next(each[number % workers])
    assert [sorted(places) for places in found] == expected


def config(shards: Path, **data) -> RunConfig:
    model = tiny_model(streams={})
    return RunConfig(Path("unused"), DataConfig(shards, **data), model, tiny_mask(), batch=4, seed=1)


def keys(config: RunConfig, count: int, *, rank: int = 0, processes: int = 1, step: int = 0) -> list[list[str]]:
    clips = Clips(config.data, ["video"])
    collate = MaskedAutoencoder(config.model, config.mask).collate
    stream = batches(config, clips, collate, rank, processes, step)
    return [batch.keys for batch in itertools.islice(stream, count)]


def test_real_clips_come_once_an_epoch_and_resume_in_place(shards: Path) -> None:
    index = read_index(shards)
    assert index["shard"].nunique() > 1
    assert len(index) % 4 == 0
    steps = len(index) // 4
    whole = keys(config(shards, workers=0), 2 * steps)
    for epoch in (whole[:steps], whole[steps:]):
        assert Counter(key for batch in epoch for key in batch) == Counter(index["key"])
    assert whole[:steps] != whole[steps:]
    assert keys(config(shards, workers=0, cache=True), 2, step=steps - 1) == whole[steps - 1 : steps + 1]
    halves = [keys(config(shards, workers=2), 2, rank=rank, processes=2) for rank in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == [sorted(batch) for batch in whole[:2]]


def test_masks_and_pixels_are_the_same_again_after_a_resume(shards: Path) -> None:
    settings = config(shards, workers=0)
    model = MaskedAutoencoder(settings.model, settings.mask)
    clips = Clips(settings.data, ["video"])
    first = list(itertools.islice(batches(settings, clips, model.collate, 0, 1, 0), 3))[2]
    again = next(batches(settings, clips, model.collate, 0, 1, 2))
    assert torch.equal(first.visible["video"].values, again.visible["video"].values)
    assert torch.equal(first.queries["video"], again.queries["video"])


def test_a_damaged_clip_is_named_and_replaced(shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(shards, folder)
    row = read_index(folder).sort_values("key").iloc[3]
    (folder / row["shard"]).chmod(0o644)
    with (folder / row["shard"]).open("r+b") as file:
        file.seek(int(row["offset"]))
        file.write(bytes(int(row["length"])))
    steps = len(read_index(folder)) // 4
    found = [key for batch in keys(config(folder, workers=0), 2 * steps) for key in batch]
    assert len(found) == 2 * 4 * steps
    assert row["key"] not in found
    said = [line for line in capfd.readouterr().err.splitlines() if row["key"] in line]
    assert len(said) == 1
    assert "the next clip takes its place" in said[0]


def test_splits_and_their_absence(shards: Path) -> None:
    index = read_index(shards)
    clips = Clips(DataConfig(shards, splits=["train"]), ["video"])
    assert set(clips.index["key"]) == set(index["key"][index["split"] == "train"])
    summary = clips.summary()
    assert summary["recordings"] == 2
    assert summary["clips"] == len(clips) == summary["streams"]["video"]
    digests = summary["shards"]
    for shard, rows in index[index["split"] == "train"].groupby("shard"):  # write_index keeps the order of the offsets
        listed = "".join(f"{row['sha256']}\n" for row in rows.to_dict("records"))
        assert digests.pop(shard) == hashlib.sha256(listed.encode()).hexdigest()
    assert not digests
    with pytest.raises(UserError, match="no clips of split"):
        Clips(DataConfig(shards, splits=["nonsense"]), ["video"])


def test_an_uneven_batch_is_refused_with_the_nearest_sizes(shards: Path) -> None:
    with pytest.raises(UserError, match=r"batch 4 is no multiple of processes \(3\).*3 or 6"):
        keys(config(shards, workers=0), 1, processes=3)
