"""Small weights in a frozen encoder: what changes, what must not, and that they come back as they were saved."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open

from configs import UserError
from data_prep.shards import read_index
from finetune import methods, training, tuned
from finetune.config import (
    AdaptConfig,
    AdapterConfig,
    CrossConfig,
    FullConfig,
    LoraConfig,
    PrefixConfig,
    PromptConfig,
    RunConfig,
    TrainingConfig,
)
from finetune.features import Rows, encode_rows, pool, weights_digest
from finetune.heads import Head
from finetune.labels import read_labels
from finetune.problem import Problem, load_problem
from finetune.run import tuning
from finetune.splits import Split
from finetune.tasks import Task
from finetune.tuned import load_tuned, read_about, save_tuned
from pretrain.encoder import Encoded, Encoder
from tests.finetune.scenes_for_tests import some_clips

ROOT = Path(__file__).parent.parent.parent


def settings(shards: Path, out: Path, method: str, **changes) -> RunConfig:
    config = RunConfig(
        encoder=Path("RELEASE"),
        data=shards,
        labels=shards / "scene.csv",
        target="moves",
        out=out,
        method=method,  # pyrefly: ignore[bad-argument-type]
        baselines=False,
        training=TrainingConfig(epochs=3, lr=1e-2),
        adapter=AdapterConfig(width=4),
        prompt=PromptConfig(count=3),
        prefix=PrefixConfig(count=3),
        cross=CrossConfig(rank=16),
        lora=LoraConfig(rank=4),
        full=FullConfig(lr=3e-4),
        seeds=1,
        batch_size=8,
        workers=0,
    )
    return replace(config, **changes)


def problem_of(encoder: Encoder, config: RunConfig) -> tuple[Problem, Split]:
    labels = read_labels(config.labels, config.target)
    problem, splits = load_problem(encoder, labels, config.data, read_index(config.data), config, encoder.modalities)
    return problem, splits[0][0]


def test_pooling_is_mean_deviation_and_change_of_a_persons_tokens() -> None:
    """Row 0: clip 1 as a whole; row 1: person 7 of clip 0, that is 7's pose and the scene's video."""
    rng = np.random.default_rng(0)
    about = {
        "modality": [0, 0, 0, 1, 1, 1, 1, 0],
        "clip": [0, 0, 1, 0, 0, 0, 1, 0],
        "person": [-1, -1, -1, 7, 7, 8, 7, -1],
        "place": [0, 1, 0, 0, 0, 0, 0, 0],
    }
    tensors = {name: torch.tensor(values) for name, values in about.items()}
    content, tokens = torch.from_numpy(rng.normal(size=(2, 8, 5))).float()
    zero = torch.zeros(8)
    columns = [tensors["modality"], zero, tensors["person"], zero, tensors["place"], tensors["clip"]]
    values, present = pool(Encoded(tokens, content, *columns), torch.tensor([1, 0]), torch.tensor([-1, 7]), 3)
    assert present.tolist() == [[True, True, False], [True, True, False]]
    both = torch.cat([content, tokens], 1).numpy()
    for row, modality, rows in ((0, 0, [2]), (0, 1, [6]), (1, 0, [0, 1, 7]), (1, 1, [3, 4])):
        own = both[rows]
        np.testing.assert_allclose(values[row, modality, :10], own.mean(0), rtol=1e-5)
        np.testing.assert_allclose(values[row, modality, 10:20], own.std(0), rtol=1e-3, atol=2e-4)
    over_time = (both[[0, 7]] - both[[0, 7]].mean(0)) ** 2  # token 1 stands alone at its place
    np.testing.assert_allclose(values[1, 0, 20:], np.sqrt(over_time.sum(0) / 3), rtol=1e-3, atol=2e-4)
    np.testing.assert_allclose(values[1, 1, 20:], both[[3, 4]].std(0), rtol=1e-3, atol=2e-4)
    assert not values[:, 2].any()


def test_a_window_pools_the_tokens_whose_middle_lies_in_it() -> None:
    """Change over time is still told from the mean of the whole clip; rows come back in the order that they were asked in."""
    rng = np.random.default_rng(0)
    content, tokens = torch.from_numpy(rng.normal(size=(2, 6, 5))).float()
    zero = torch.zeros(6)
    clip, time = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0.25, 0.75, 1.25] * 2).double()
    encoded = Encoded(tokens, content, zero, time, zero - 1, zero, zero, clip)
    window = torch.tensor([0.0, 0.75, 2.0, -np.inf]).double(), torch.tensor([0.75, 1.25, 3.0, np.inf]).double()
    values, present = pool(encoded, torch.tensor([1, 0, 0, 0]), torch.full((4,), -1), 1, window)
    both = torch.cat([content, tokens], 1).numpy()
    assert present[:, 0].tolist() == [True, True, False, True]
    assert not values[2].any()
    for row, which in ((0, [3]), (1, [1]), (3, [0, 1, 2])):
        np.testing.assert_allclose(values[row, 0, :10], both[which].mean(0), rtol=1e-5)
        whole = both[3:] if row == 0 else both[:3]
        change = np.sqrt(np.square(both[which] - whole.mean(0)).mean(0))
        np.testing.assert_allclose(values[row, 0, 20:], change, rtol=1e-3, atol=2e-4)


def test_many_windows_of_a_clip_are_pooled_as_few_are() -> None:
    rng = np.random.default_rng(0)
    tokens = torch.from_numpy(rng.normal(size=(400, 3))).float()
    zero = torch.zeros(400)
    encoded = Encoded(tokens, tokens, zero, torch.arange(400).double(), zero - 1, zero, zero, zero)
    start = torch.from_numpy(rng.permutation(200) * 2.0)
    about = torch.zeros(200), torch.full((200,), -1), 1
    values, _ = pool(encoded, *about, (start, start + 2))
    expected = torch.stack([tokens[int(s) : int(s) + 2].mean(0) for s in start])
    torch.testing.assert_close(values[:, 0, :3], expected)


@pytest.mark.parametrize("method", ["attentive", "adapter", "prompt", "prefix", "cross", "lora", "full"])
def test_training_changes_the_small_weights_alone_and_lowers_the_loss(
    encoder: Encoder, square_shards: Path, tmp_path: Path, method: str
) -> None:
    config = settings(
        square_shards, tmp_path, method, group_by="recording", batch_size=12, training=TrainingConfig(epochs=2, lr=1e-2)
    )
    problem, split = problem_of(encoder, config)
    frozen = {name: value.clone() for name, value in encoder.state_dict().items()}
    digest = weights_digest(encoder)
    part = Split("part", split.train, split.train, split.tests)  # "validated" on what it learns: the best is kept
    methods.install(encoder, methods.settings_of(config), None, seed=0)
    fresh = {name: value.clone() for name, value in methods.small_weights(encoder).items()}
    methods.remove(encoder)
    features = problem.features[split.train]
    head = training.linear.fit(features, problem.targets[split.train], problem.groups[split.train], problem.task, 0)
    before = training.mean_loss(head, problem, split.train, training.outputs(encoder, head, problem, config))
    head = training.train(encoder, problem, part, config, seed=0)
    after = training.mean_loss(head, problem, split.train, training.outputs(encoder, head, problem, config))
    trained = methods.small_weights(encoder)
    assert after < before * 0.9
    assert (method == "attentive") == (not fresh)
    assert all(not torch.equal(trained[name], value) for name, value in fresh.items() if trained[name].grad is not None)
    if method != "full":
        assert weights_digest(encoder) == digest
        assert all(torch.equal(encoder.state_dict()[name], value) for name, value in frozen.items())
    assert not {name for name, p in encoder.named_parameters() if p.grad is not None} - set(trained)
    methods.remove(encoder)
    assert weights_digest(encoder) == digest
    assert encoder.state_dict().keys() == frozen.keys()


def test_balanced_classes_weigh_on_training_and_on_early_stopping(
    encoder: Encoder, square_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(
        square_shards, tmp_path, "adapter", group_by="recording", class_weights="balanced", training=TrainingConfig(1)
    )
    problem, split = problem_of(encoder, config)
    rare = split.train[problem.targets[split.train] == 0][:6]
    part = np.concatenate([rare, split.train[problem.targets[split.train] == 1][:12]])
    seen = []
    plain_loss = Task.loss

    def loss(
        task: Task, outputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        if outputs.requires_grad or torch.is_inference_mode_enabled():
            assert weights is not None
            seen.extend(zip(targets.tolist(), weights.tolist(), strict=True))
        return plain_loss(task, outputs, targets, weights)

    monkeypatch.setattr(Task, "loss", loss)
    training.train(encoder, problem, Split("part", part, split.tests["folds"][:4], {}), config, seed=0)
    assert len(seen) == 4 + 18 + 4  # before, a pass, after
    weights = {target: sorted({round(weight, 5) for one, weight in seen if one == target}) for target in (0, 1)}
    assert weights == {0: [18 / (2 * 6)], 1: [18 / (2 * 12)]}


_LOAD = """
import sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {root!r})
from tests.finetune.conftest import small_encoder
from finetune.tuned import load_tuned, save_tuned
from tests.finetune.scenes_for_tests import some_clips
for folder in {folders!r}:
    predicted = load_tuned(folder, small_encoder()).predict(some_clips(Path({shards!r})))
    np.save(Path(folder) / "again.npy", predicted)
"""


def test_what_is_saved_is_small_and_loads_in_a_fresh_process(
    encoder: Encoder, square_shards: Path, tmp_path: Path
) -> None:
    saved, own = {}, dict(encoder.named_parameters())
    problem, split = problem_of(encoder, settings(square_shards, tmp_path, "linear", group_by="recording"))
    for method in ("linear", "attentive", "adapter", "prompt", "prefix", "cross", "lora", "full"):
        config = settings(
            square_shards, tmp_path / method, method, group_by="recording", training=TrainingConfig(epochs=1, lr=0.1)
        )
        config.full.lr = 1e-2
        saved[method] = tuning(encoder, problem, config)(replace(split, name="given"), 0, np.array([0, 1, 2]))
        files = {file.name for file in config.out.glob("*.safetensors")}
        alone = method in {"linear", "attentive"}
        assert files == ({"head.safetensors"} if alone else {"head.safetensors", "adapter.safetensors"})
        if not alone:
            with safe_open(config.out / "adapter.safetensors", "pt") as file:
                names = set(file.keys())
            assert names == set(own) if method == "full" else names and not names & set(own)
            assert all(method in name.split(".") and "base_layer" not in name for name in names) or method == "full"
    folders = [str(tmp_path / method) for method in saved]
    script = _LOAD.format(root=str(ROOT), folders=folders, shards=str(square_shards))
    subprocess.run([sys.executable, "-c", script], check=True, timeout=280)
    for method, predicted in saved.items():
        np.testing.assert_allclose(np.load(tmp_path / method / "again.npy"), predicted, atol=1e-5)
        assert np.ptp(predicted[:, 0]) > 1e-3  # it does say different things about different clips


def test_another_release_is_refused(encoder: Encoder, square_shards: Path, tmp_path: Path) -> None:
    config = settings(square_shards, tmp_path, "adapter", group_by="recording", training=TrainingConfig(epochs=1))
    problem, split = problem_of(encoder, config)
    tuning(encoder, problem, config)(replace(split, name="given"), 0, np.array([0]))
    load_tuned(tmp_path, encoder)
    with torch.no_grad():
        next(encoder.trunk.parameters()).view(-1)[0] += 1e-6
    with pytest.raises(UserError, match="trained on another encoder"):
        load_tuned(tmp_path, encoder)


def test_a_newer_schema_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"schema": 2}))
    with pytest.raises(UserError, match="newer"):
        load_tuned(tmp_path, encoder)
    with pytest.raises(UserError, match="no config"):
        load_tuned(tmp_path / "nothing", encoder)


def test_features_are_computed_once(
    encoder: Encoder, square_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time they come from the cache; other weights have another file."""
    config = settings(square_shards, tmp_path, "linear", group_by="recording")
    first, _ = problem_of(encoder, config)
    monkeypatch.setattr(Encoder, "encode_clips", lambda *_: pytest.fail("encoded again"))
    again, _ = problem_of(encoder, config)
    np.testing.assert_array_equal(first.features.values, again.features.values)
    monkeypatch.undo()
    with torch.no_grad():
        encoder.video.bias += 1
    other, _ = problem_of(encoder, config)
    assert not np.allclose(other.features.values, first.features.values)
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 2


def test_a_clip_without_any_stream_is_zeros_and_flagged(encoder: Encoder, square_shards: Path) -> None:
    clips = some_clips(square_shards)
    for view in clips[1].views.values():
        view.frames, view.pose = None, None
    values, present = encode_rows(encoder, clips, Rows.of_clips(3), encoder.modalities)
    assert present.tolist() == [[True, True], [False, False], [True, True]]
    assert not values[1].any()
    alone, _ = encode_rows(encoder, clips[2:], Rows.of_clips(1), encoder.modalities)
    torch.testing.assert_close(values[2:], alone, atol=1e-5, rtol=1e-4)


def test_a_kill_while_saving_leaves_no_model_of_two_runs(
    encoder: Encoder, square_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new head beside the adapter and config.json of the run before would be loaded without a word."""
    config = settings(square_shards, tmp_path, "adapter")
    task = Task("classification", ("no", "yes"))

    def save() -> None:
        methods.install(encoder, config.adapter, None, seed=0)
        save_tuned(tmp_path, encoder, Head(3, 2), task, encoder.modalities, config, False)

    save()
    read_about(tmp_path)
    write = tuned._write

    def killed(path: Path, tensors: dict[str, torch.Tensor]) -> None:
        if path.name == "adapter.safetensors":
            raise KeyboardInterrupt
        write(path, tensors)

    monkeypatch.setattr(tuned, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        save()
    with pytest.raises(UserError, match="no config"):
        read_about(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"schema": 1}'])
def test_a_config_of_something_else_is_one_line(encoder: Encoder, tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json"):
        load_tuned(tmp_path, encoder)


@pytest.mark.parametrize(
    ("made", "change"),
    [
        (RunConfig, {"workers": -1}),
        (FullConfig, {"lr": 0.0}),
        *((one, {"lr": 0.0}) for one in (TrainingConfig, AdaptConfig)),
        *((one, {"weight_decay": -1.0}) for one in (TrainingConfig, AdaptConfig)),
        (AdaptConfig, {"workers": -1}),
    ],
)
def test_rates_that_cannot_train_are_refused_before_the_work(made: type, change: dict) -> None:
    given = {"encoder": Path("R"), "data": Path("D"), "labels": Path("l.csv"), "target": "t", "out": Path("O")}
    own = {field.name for field in fields(made)}
    with pytest.raises(ValueError, match=next(iter(change))):
        made(**{name: value for name, value in given.items() if name in own} | change)


@pytest.mark.parametrize(("most", "says"), [(1, "everything belongs to one group"), (2, "early stopping")])
def test_too_few_groups_are_told_before_the_long_part(
    encoder: Encoder, square_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, says: str
) -> None:
    labels = pd.read_csv(square_shards / "scene.csv")
    labels[labels["recording"].isin(["r0", "r1"][:most])].to_csv(tmp_path / "labels.csv", index=False)
    monkeypatch.setattr("finetune.problem.features", lambda *_: pytest.fail("encoded"))
    config = settings(square_shards, tmp_path, "adapter", labels=tmp_path / "labels.csv", group_by="recording")
    with pytest.raises(UserError, match=says):
        problem_of(encoder, config)


def test_recordings_without_a_setting_are_told(
    encoder: Encoder, square_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = pd.read_csv(square_shards / "scene.csv")
    labels["setting"] = labels["recording"].map({"r0": "lab", "r1": "lab", "r2": "clinic", "r3": "clinic"})
    labels["recording"] += " "  # as it happens in tables that are typed
    labels.to_csv(tmp_path / "labels.csv", index=False)
    changes = {"labels": tmp_path / "labels.csv", "test_setting": "clinic", "group_by": "recording"}
    problem, split = problem_of(encoder, settings(square_shards, tmp_path, "linear", **changes))
    assert set(problem.examples["recording"].iloc[split.train]) == {"r0", "r1"}
    assert "8 recordings are left out: nobody said their setting" in problem.notes


def test_a_loss_that_is_no_number_is_told(encoder: Encoder, square_shards: Path, tmp_path: Path) -> None:
    """The weights before it stand: without a word they would pass for trained ones."""
    fast = TrainingConfig(epochs=2, lr=1e25)
    config = settings(square_shards, tmp_path, "adapter", group_by="recording", training=fast)
    problem, split = problem_of(encoder, config)
    head = training.train(encoder, problem, split, config, seed=0)
    (note,) = problem.notes
    assert "the loss was no longer finite" in note
    assert np.isfinite(training.predict(encoder, head, problem, split.train[:3], config)).all()
