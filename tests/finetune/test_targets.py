"""The benchmark of targets, scaled down: joint attention is joint, ranks and equal time are right, the command leaves its files."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from benchmarks import runs, shortcut, targets
from benchmarks.joint import joint_attention
from configs import plain
from finetune.features import pool
from pretrain.clips import Clip
from pretrain.encoder import Encoder
from pretrain.objective import MaskedAutoencoder
from tests.pretrain.clips_for_tests import make_clip, tiny_mask, tiny_model


def changed(clip: Clip) -> Clip:
    """The same clip, another sound in its last 0.4 s: one token."""
    (name, view), *_ = clip.views.items()
    assert view.audio is not None
    audio = view.audio.copy()
    audio[:, -6400:] *= 3
    return replace(clip, views={name: replace(view, audio=audio)})


def moved(before: torch.Tensor, after: torch.Tensor) -> np.ndarray:
    return ((before - after).abs().amax(1) > 1e-6).numpy()


def test_jointly_a_token_is_seen_by_all_of_its_clip_and_no_other() -> None:
    torch.manual_seed(0)
    encoder = Encoder(tiny_model()).eval()
    clips = [make_clip("a", seed=1), make_clip("b", seed=2), make_clip("c", seed=3, seconds=2.0)]
    other = [clips[0], changed(clips[1]), clips[2]]
    with torch.inference_mode():
        with joint_attention():
            before, after = (encoder.encode_clips(some) for some in (clips, other))
        apart = [encoder.encode_clips(some) for some in (clips, other)]
    assert moved(before.content, after.content).sum() == 1
    assert np.array_equal(moved(before.tokens, after.tokens), before.clip.numpy() == 1)
    # outside the gates are closed: the token is seen by its own block, two seconds of sound
    assert moved(apart[0].tokens, apart[1].tokens).sum() == 4


def test_jointly_clips_are_the_same_with_and_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them layers take tokens part by part, where a block's tokens lie together; here they do not."""
    monkeypatch.setattr("pretrain.pooling.PART", 40)
    torch.manual_seed(0)
    encoder = Encoder(tiny_model()).double().eval()
    clips = [make_clip("a", seed=1), make_clip("b", seed=2)]
    with joint_attention():
        at_once = encoder.encode_clips(clips).tokens
        with torch.no_grad():
            torch.testing.assert_close(encoder.encode_clips(clips).tokens, at_once, rtol=1e-12, atol=1e-12)


def test_jointly_nobody_reads_what_is_hidden() -> None:
    torch.manual_seed(0)
    with joint_attention():
        model = MaskedAutoencoder(tiny_model(), tiny_mask()).eval()
        batch = model.collate([make_clip("a", seed=1), make_clip("b", seed=2)], [0, 1])
        before = model.rebuild(batch)
        row = batch.queries["face"][:1]
        with torch.no_grad():  # another code of its place, for one hidden token alone
            batch.both["face"].position[row] = (batch.both["face"].position[row] + 1) % 4
        after = model.rebuild(batch)
    told = {name: moved(before[name], after[name]) for name in before}
    assert {name: int(rows.sum()) for name, rows in told.items()} == {"video": 0, "audio": 0, "face": 1, "pose": 0}
    assert told["face"][0]


def test_jointly_time_and_person_enter() -> None:
    """Two people's hidden faces are told apart, and so are two times of the same place."""
    with joint_attention():
        model = MaskedAutoencoder(tiny_model(), tiny_mask())
        layout = model.collate([make_clip()], [0]).decoder_layout
        codes = layout.codes(torch.zeros(len(layout.person), 24))
    whose_and_when = torch.stack([layout.person.double(), layout.query_time.seconds], 1)
    assert len(codes.unique(dim=0)) == len(whose_and_when.unique(dim=0)) > 20


def test_the_rank_of_known_matrices() -> None:
    rng = np.random.default_rng(0)
    orthogonal = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    orthogonal -= orthogonal.mean(0)
    basis = np.linalg.qr(orthogonal)[0][:, :8]  # columns without a mean
    assert targets.effective_rank(3 + basis @ rng.normal(size=(8, 1))) == pytest.approx(1, abs=1e-3)
    assert targets.effective_rank(basis + 5) == pytest.approx(8)
    shares = np.array([0.5, 0.25, 0.25])
    assert targets.effective_rank(basis[:, :3] * shares) == pytest.approx(2**1.5)


def test_variants_are_settings_of_the_recipe() -> None:
    given = argparse.Namespace(recipe="demo", shards=Path("shards"), out=Path("out"), steps=10, teacher=Path("trunk"))
    found = {n: runs.settings("demo", given.shards, given.out, 10, *w) for n, w in targets.variants(given).items()}
    changed = {name: (c.mask.target, c.model.upper_layers, c.model.upper_rate) for name, c in found.items()}
    assert changed == {
        "pixels": ("pixels", 0, 1),
        "motion": ("motion", 0, 1),
        "teacher": ("teacher", 0, 1),
        "rate 2": ("pixels", 2, 2),  # half of four layers
        "rate 4": ("pixels", 2, 4),
        "gates wide open": ("pixels", 0, 1),
        "joint attention": ("pixels", 0, 1),
    }


def test_equal_time() -> None:
    costs = {"pixels": targets.Cost(0.3, 0.0), "slow": targets.Cost(0.6, 0.0), "teacher": targets.Cost(0.3, 15.0)}
    assert targets.equal_time(costs, 300) == {"pixels": 300, "slow": 150, "teacher": 250}
    assert targets.equal_time(costs, 10) == {"pixels": 10, "slow": 5, "teacher": 1}


def test_the_tokens_alone_are_what_left_the_trunk(encoder: Encoder) -> None:
    from einops import rearrange

    clips = [make_clip("a", seed=1), make_clip("b", seed=2)]
    found = encoder.encode_clips(clips, encoder.modalities)
    rows, whole = torch.arange(2), torch.full((2,), -1)
    values, present = (part.numpy() for part in pool(found, rows, whole, 2))
    table = targets.tokens_alone({"values": values, "alone values": values, "present": present})
    found.content = torch.zeros_like(found.content)
    kept = rearrange(pool(found, rows, whole, 2)[0], "r m (moment half dim) -> r m moment half dim", moment=3, half=2)
    assert table["values"].shape == (2, 2, 3 * encoder.config.dim)
    torch.testing.assert_close(torch.from_numpy(table["values"]), kept[..., 1, :].flatten(2))


def test_pieces_of_work_come_back_in_order_from_processes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    myself = [os.path.realpath("/proc/self")]
    assert len({*myself, *runs.in_pool(os.path.realpath, [("/proc/self",)] * 3, 2)}) == 4
    assert runs.in_pool(os.path.realpath, [("/proc/self",)], 1) == myself
    assert runs.in_pool(os.getenv, [("OMP_NUM_THREADS", "?"), ("no such", "?"), ("no such",)], 2) == ["1", "?", None]


def test_the_command_leaves_tables_and_a_picture(
    scenes: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # 64 x 64, or half of the generated people would be smaller than a tubelet
    model = tiny_model(image_height=64, image_width=64)
    data = {"splits": ["pretrain"], "workers": 0, "cache": True, "statistics_clips": 4}
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump({"batch": 2, "data": data, "model": plain(model)}))
    runs.train(str(recipe), shards, tmp_path / "trunk", 2, "--model.streams", "{}", "--optimizer.gate_lr", "0")
    teacher = tmp_path / "trunk" / "release"
    for module in (targets, shortcut):
        monkeypatch.setattr(module, "SEEDS", 1)
    every = targets.variants
    kept = ("pixels", "teacher", "rate 2", "gates wide open", "joint attention")
    monkeypatch.setattr(targets, "variants", lambda args: {name: every(args)[name] for name in kept})
    monkeypatch.setattr(targets, "TIMED", 2)
    out = tmp_path / "out"
    given = {"shards": shards, "labels": scenes / "labels.csv", "teacher": teacher, "out": out, "recipe": recipe}
    given |= {"steps": 4, "clips": 3, "processes": 1}
    monkeypatch.setattr(
        sys, "argv", ["targets", *(word for name, v in given.items() for word in (f"--{name}", str(v)))]
    )
    targets.main()
    table = json.loads((out / "table.json").read_text())
    about = table["variants"]
    assert tuple(about) == kept
    budget = 4 * about["pixels"]["seconds a step"]
    for name, row in about.items():
        took = row["seconds once"] + row["steps"] * row["seconds a step"]
        assert took <= 1.001 * budget or row["steps"] == 1, name
        assert took + row["seconds a step"] > budget, name
    assert about["teacher"]["seconds once"] > 0 == about["rate 2"]["seconds once"]
    assert table["teacher"]["steps"] == 2
    assert table["teacher"]["minutes"] > 0
    assert about["joint attention"]["gates"] == [0]
    assert about["gates wide open"]["gates"][0] > 3 * about["pixels"]["gates"][0] > 0
    rows = table["halves"]["tokens alone"]["rows"]
    assert {"raw streams", "untrained, all streams", "teacher, video alone", "joint attention, all streams"} < set(rows)
    row = rows["pixels, all streams"]
    assert row["gap"][0] == pytest.approx(row["test"]["accuracy"]["mean"] - row["test_reversed"]["accuracy"]["mean"])
    assert 1 < row["rank"][0] < 12
    assert "| rate 2 - pixels, video alone |" in (out / "table.md").read_text()
    assert (out / "targets.png").stat().st_size > 5000
    capsys.readouterr()
    before = (out / "calibration.json").stat().st_mtime_ns
    targets.main()
    assert capsys.readouterr().out.count("nothing to do") == 5
    assert (out / "calibration.json").stat().st_mtime_ns == before
