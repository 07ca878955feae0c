"""The benchmark of the methods, scaled down: rows for every task, shares, costs, goals; what is done is not done again."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import finetune as benchmark
from benchmarks import finetune_steps, finetune_table
from finetune.config import AdapterConfig, RunConfig
from finetune.problem import Problem
from finetune.splits import Split
from pretrain.config import StreamConfig
from pretrain.encoder import Encoder
from tests.finetune.scenes_for_tests import some_clips

SOUND = StreamConfig(64, 0.01, 50)


def arguments(release: Path, shards: Path, out: Path, *more: str) -> list[str]:
    given = {"release": release, "shards": shards, "labels": shards / "scene.csv", "out": out, "target": "moves"}
    given |= {"clips": 4, "test_clips": 3, "few": 3, "epochs": 1, "few_epochs": 1, "seeds": 2, "rounds": 1}
    return ["finetune", *(word for name, value in given.items() for word in (f"--{name}", str(value))), *more]


@pytest.fixture
def small_vit(monkeypatch: pytest.MonkeyPatch, encoder: Encoder) -> None:
    """In place of a ViT-S, which takes seconds a step."""
    monkeypatch.setattr(benchmark, "ModelConfig", lambda: replace(encoder.config, streams={"audio": SOUND}))


def test_the_command_leaves_a_row_for_each_method(
    small_release: Path,
    split_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_vit: None,
) -> None:
    out = tmp_path / "out"
    real = ["--real_data", str(split_shards), "--real_labels", str(split_shards / "person.csv")]
    real += ["--real_target", "level", "--methods", "linear", "adapter", "adapter, last third"]
    monkeypatch.setattr(sys, "argv", arguments(small_release, split_shards, out, *real))
    monkeypatch.setattr(benchmark, "RATES", (1e-3, 1e-2))
    monkeypatch.setattr(benchmark, "FULL_RATES", (1e-4,))
    benchmark.main()
    record = json.loads((out / "table.json").read_text())
    assert set(record["tasks"]) == {"generated, all labels", "generated, 3 a class", "real, all labels"}
    assert record["tasks"]["real, all labels"]["metric"] == "ccc"
    rows = {"linear", "full", "adapter", "adapter, last third"}
    for task in record["tasks"].values():
        assert set(task["rows"]) == rows
        for found in task["rows"].values():
            figures = found[task["tests"][0]][task["metric"]]
            assert len(figures["seeds"]) == 2
            assert -1 <= figures["mean"] <= 1
    assert record["tasks"]["generated, all labels"]["tests"] == ["test", "test_reversed"]
    assert record["tasks"]["generated, all labels"]["rows"]["full"]["test"]["examples"] == 2 * 3  # r4 and r9
    for row, found in record["tasks"]["generated, 3 a class"]["rows"].items():
        ours, full = (
            of["test"]["accuracy"]["mean"] for of in (found, record["tasks"]["generated, 3 a class"]["rows"]["full"])
        )
        assert found["less full"]["test"]["mean"] == pytest.approx(ours - full), row
    share = record["share"]
    assert share["linear"] == 0 < share["adapter, last third"] < share["adapter"] < share["full"] == 1
    for size in record["steps"].values():
        assert set(size) == rows
        assert size["full"]["ratio"] == [1, 1, 1]
    text = (out / "table.md").read_text()
    assert "| adapter, last third |" in text
    assert "the best method with at most 2 % of the weights" in text
    assert (out / "finetune.png").stat().st_size > 10_000
    written = {file: file.stat().st_mtime_ns for file in [*out.rglob("cells/*/*.npz"), *out.glob("steps-*.json")]}
    # two of steps; linear, full, last third: a seed each; the adapter's two rates: on one seed, on both where labels are few
    assert len(written) == 2 + 3 * (2 + 2 + 2) + (3 + 4 + 3)
    monkeypatch.setattr(benchmark, "fitted", lambda *_: pytest.fail("done already"))
    monkeypatch.setattr(finetune_steps, "seconds", lambda *_: pytest.fail("done already"))
    benchmark.main()
    assert {file: file.stat().st_mtime_ns for file in written} == written


def test_few_labels_are_so_many_of_each_class_and_held_out_ones_are_among_them() -> None:
    targets = np.repeat([0, 1], [60, 40])
    problem = Problem.__new__(Problem)
    problem.targets, problem.groups = targets, np.arange(100) // 2
    given = Split("given", np.arange(80), np.arange(80, 90), {"test": np.arange(90, 100)})
    for seed in range(3):
        split = benchmark.learnt(problem, given, 10, seed)
        rows = np.concatenate([split.train, split.validation])
        assert np.bincount(targets[rows]).tolist() == [10, 10]
        assert rows.max() < 90
        assert len(split.validation) >= 1
        assert not set(problem.groups[split.train]) & set(problem.groups[split.validation])
    everything = benchmark.learnt(problem, given, None, 0)
    assert sorted([*everything.train, *everything.validation]) == list(range(90))


def test_clips_are_thinned_evenly_and_pretraining_s_left_out() -> None:
    index = pd.DataFrame({"recording": list("aaaabbbbcccc"), "split": ["train"] * 4 + ["test"] * 4 + ["pretrain"] * 4})
    index["start"] = list(range(4)) * 3
    kept = benchmark.thinned(index, 3, 2)
    assert kept["recording"].tolist() == list("aaabb")
    assert kept["start"].tolist() == [0, 1, 3, 0, 3]


def test_a_step_trains_what_its_method_trains_and_nothing_that_others_share(
    encoder: Encoder, square_shards: Path
) -> None:
    clips, before = some_clips(square_shards), {name: w.clone() for name, w in encoder.named_parameters()}
    configs = {
        name: RunConfig(Path(), Path(), Path(), "moves", Path(), method=name)  # pyrefly: ignore
        for name in ("linear", "attentive", "adapter", "lora", "full")
    }
    sides = {name: finetune_steps.Side(encoder, clips, ("video", "pose"), c) for name, c in configs.items()}
    for name, side in sides.items():
        weights = [weight.detach().clone() for weight in side.weights]
        assert side.step() > 0
        assert any(not torch.equal(a, b) for a, b in zip(weights, side.weights, strict=True)), name
    for name, weight in encoder.named_parameters():
        assert torch.equal(weight, before[name]), name
    assert sides["adapter"].encoder.video.weight is encoder.video.weight
    assert sides["full"].encoder.video.weight is not encoder.video.weight


def test_kept_features_need_no_encoder(encoder: Encoder, square_shards: Path) -> None:
    for method in ("linear", "attentive"):
        config = RunConfig(Path(), Path(), Path(), "moves", Path(), method=method)  # pyrefly: ignore
        side = finetune_steps.Side(encoder, some_clips(square_shards), ("video",), config)
        side.encoder.trunk.register_forward_hook(lambda *_: pytest.fail("ran"))
        side.step()


def test_memory_is_of_the_method_alone(encoder: Encoder, square_shards: Path) -> None:
    """Full fine-tuning holds gradients and AdamW's two moments, and most of the released weights at once."""
    small = RunConfig(Path(), Path(), Path(), "moves", Path(), method="adapter", adapter=AdapterConfig(width=4))
    full = RunConfig(Path(), Path(), Path(), "moves", Path(), method="full")
    torch.manual_seed(0)
    large = Encoder(replace(encoder.config, dim=256, mlp_dim=2048, heads=4)).eval().requires_grad_(False)
    weights = 4 * sum(weight.numel() for weight in large.parameters())
    freed = [torch.ones(8192) for _ in range(4000)]  # as tests before this one leave a hole in the heap
    del freed[:-1]
    found = finetune_steps.memory(large, some_clips(square_shards), ("video", "pose"), {"adapter": small, "full": full})
    assert found["full"] > found["adapter"] + 2 * weights > 2 * weights


def test_ratios_are_taken_turn_by_turn() -> None:
    """The machine was half as fast in the second turn."""
    found = finetune_steps.ratios({"full": [1.0, 2.0, 1.0], "adapter": [0.5, 1.0, 0.6]})
    assert found["adapter"] == (0.5, 0.5, 0.6)
    assert found["full"] == (1.0, 1.0, 1.0)


def test_goals_name_who_misses_them() -> None:
    steps = {
        row: {"ratio": [ratio, 0, 1], "memory": 0} for row, ratio in (("full", 1.0), ("lora", 0.9), ("linear", 0.01))
    }
    rows = {"full": 0.5, "lora": 0.48, "linear": 0.3, "wide": 0.6}
    task = {
        "metric": "accuracy",
        "tests": ["test"],
        "rows": {row: {"test": {"accuracy": {"mean": mean}}} for row, mean in rows.items()},
    }
    record = {
        "tasks": {"t": task},
        "steps": {"s": steps},
        "share": {"full": 1.0, "lora": 0.01, "linear": 0.0, "wide": 0.05},
    }
    reached, blocks, kept = finetune_table.goals(record)
    assert "lora, reaches 96 %" in reached
    assert blocks.endswith("missed by lora 90 %")
    assert kept.endswith("met (at most 1 %)")
