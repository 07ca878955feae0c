"""Small weights in a frozen encoder: what changes, what must not, and that they come back as they were saved."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from safetensors import safe_open

from configs import UserError
from data_prep.shards import read_index
from finetune import methods, training
from finetune.__main__ import main
from finetune.config import (
    AdapterConfig,
    CrossConfig,
    FullConfig,
    LoraConfig,
    MethodSettings,
    PrefixConfig,
    PromptConfig,
    RunConfig,
    TrainingConfig,
)
from finetune.features import Rows, encode_rows, pool, weights_digest
from finetune.heads import AttentiveHead
from finetune.labels import read_labels
from finetune.methods import full, lora
from finetune.methods.adapter import DepthwiseTime
from finetune.problem import Problem, load_problem
from finetune.run import tuning
from finetune.splits import Split
from finetune.tasks import Task
from finetune.tuned import load_tuned, save_tuned
from pretrain.attention import Blocks
from pretrain.clips import Clip
from pretrain.config import ModelConfig
from pretrain.encoder import Encoded, Encoder
from pretrain.pooling import columns_of, plan
from pretrain.release import load_encoder
from pretrain.streaming import StreamingEncoder
from pretrain.tokens import join, tokenize, video_tokens
from tests.finetune.conftest import tiny_config
from tests.finetune.scenes_for_tests import some_clips
from tests.pretrain.videomae_for_tests import SIZES, difference, redraw

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


INSTALLED: dict[str, MethodSettings] = {
    "adapter": AdapterConfig(width=4),
    "temporal adapter": AdapterConfig(width=4, temporal=True),
    "deep prompt": PromptConfig(count=3),
    "shallow prompt": PromptConfig(count=3, depth="shallow"),
    "prefix": PrefixConfig(count=3),
    "cross": CrossConfig(rank=16),
    "lora": LoraConfig(rank=4),
    "full": FullConfig(),
}
IDENTITY = {"adapter", "temporal adapter", "cross", "lora", "full"}  # in their papers; prompts and prefixes are none


@pytest.mark.parametrize("name", INSTALLED)
def test_what_is_put_in_matters_gets_gradients_and_comes_out_again(
    encoder: Encoder, square_shards: Path, name: str
) -> None:
    clips = some_clips(square_shards)
    before = encoder.encode_clips(clips).tokens
    digest = weights_digest(encoder)
    methods.install(encoder, INSTALLED[name], layers=None, seed=0)
    fresh = encoder.encode_clips(clips).tokens
    if name in IDENTITY:
        torch.testing.assert_close(fresh, before, atol=1e-6, rtol=0)
    else:
        assert (fresh - before).abs().max() > 1e-3
    small = methods.small_weights(encoder)
    for number, (path, weight) in enumerate(small.items()):
        torch.manual_seed(number)
        weight.data.add_(0.1 * torch.randn(weight.shape))
        if path.endswith("lora_A.default.weight"):
            assert weight.shape == (4, 48)
    tuned = encoder.encode_clips(clips).tokens
    assert (tuned - before).abs().max() > 1e-2
    (tuned * torch.randn(tuned.shape)).sum().backward()
    for path, weight in encoder.named_parameters():
        learns = path in small and path != "trunk.blocks.1.reading.key_value.bias"
        if name == "full":
            learns = learns and weight.grad is not None  # a source that no clip here has
        elif name == "cross":
            learns = learns and not path.endswith("pose_same")  # nobody has two poses at a time
        assert (weight.grad is not None and bool(weight.grad.abs().max() > 0)) >= learns, path
        assert path in small or weight.grad is None
    methods.remove(encoder)
    assert torch.equal(encoder.encode_clips(clips).tokens, before)
    assert weights_digest(encoder) == digest
    assert not methods.small_weights(encoder)


def test_small_weights_in_the_last_blocks_alone(encoder: Encoder, square_shards: Path) -> None:
    """The block below has none of them, and leaves nothing for a backward pass."""
    clips = some_clips(square_shards)
    asks: list[bool] = []
    lower, upper = encoder.trunk.blocks
    for block in (lower, upper):
        block.register_forward_hook(lambda *_: asks.append(torch.is_grad_enabled()))
    for name, small in INSTALLED.items():
        if name in {"shallow prompt", "full"}:
            continue
        methods.install(encoder, small, layers=1, seed=0)
        assert {path.split(".")[2] for path in methods.small_weights(encoder)} == {"1"}, name
        asks.clear()
        encoder.encode_clips(clips).tokens.sum().backward()
        assert asks == [False, True], name
    with pytest.raises(UserError, match="this encoder has 2 blocks"):
        methods.install(encoder, AdapterConfig(), layers=3, seed=0)
    for method in ("linear", "attentive", "full"):
        with pytest.raises(ValueError, match="layers"):
            settings(Path(), Path(), method, layers=1)


def test_a_temporal_adapter_looks_one_step_back_and_ahead_at_its_place(encoder: Encoder, square_shards: Path) -> None:
    """Against a loop over the columns of the tokens; where one of them is missing (masked), the next but one is no neighbour."""
    (clip,) = some_clips(square_shards)[:1]
    tokens = {n: join([t]) for n, t in tokenize(clip, 0, encoder.config, encoder.modalities).items()}
    tokens["video"] = tokens["video"].take(np.delete(np.arange(len(tokens["video"])), [4, 9, 10]))
    layout = plan(tokens, encoder.config)
    columns = columns_of(tokens, encoder.config, None)
    time = DepthwiseTime(5)
    torch.nn.init.normal_(time.weight)
    torch.nn.init.normal_(time.bias)
    x = torch.randn(len(columns.block), 5)
    row_of = {key: row for row, key in enumerate(zip(columns.block, columns.place, columns.step, strict=True))}
    expected = x * time.weight[1] + time.bias
    for (block, place, step), row in row_of.items():
        for weight, other in ((time.weight[0], step - 1), (time.weight[2], step + 1)):
            if (block, place, other) in row_of:
                expected[row] = expected[row] + weight * x[row_of[block, place, other]]
    torch.testing.assert_close(time(x, layout.tracks), expected)
    half = len(x) // 2  # two segments of video, or video and pose
    ends = np.cumsum(layout.own.query_lengths)
    cut = int(ends[np.searchsorted(ends, half)])
    parts = [
        time(x[rows], layout.tracks.between(rows.start, rows.stop)) for rows in (slice(0, cut), slice(cut, len(x)))
    ]
    torch.testing.assert_close(torch.cat(parts), expected)


def test_shallow_prompts_are_tokens_of_every_block(square_shards: Path) -> None:
    """A block's prompts see that block: the same as its tokens with the prompts behind them, alone in a plain trunk."""
    for upper in ({}, {"upper_layers": 1, "upper_rate": 2}):
        torch.manual_seed(0)
        encoder = Encoder(tiny_config(**upper)).eval().requires_grad_(False)
        methods.install(encoder, PromptConfig(count=3, depth="shallow"), layers=None, seed=0)
        clips = some_clips(square_shards)
        together = encoder.encode_clips(clips)
        for number, clip in enumerate(clips):  # nothing leaks from clip to clip
            torch.testing.assert_close(
                encoder.encode_clips([clip]).tokens, together.tokens[together.clip == number], atol=1e-5, rtol=1e-4
            )
        with pytest.raises(UserError, match="shallow prompts"):
            StreamingEncoder(encoder)
    encoder = Encoder(tiny_config()).eval().requires_grad_(False)
    methods.install(encoder, PromptConfig(count=3, depth="shallow"), layers=None, seed=0)
    frames = torch.randn(1, 16, 3, 32, 32)
    (tokens,) = [video_tokens(frames[0], 0.0, encoder.config, 0, 0)]
    assert tokens is not None
    x = torch.cat([encoder.video(tokens), encoder.trunk.prompt])
    for block in encoder.trunk.blocks:
        y = block.norm1(x)
        query, key, value = (rearrange(v, "t h d -> 1 h t d") for v in block.attn._project(y))
        attended = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        x = x + block.attn.proj(rearrange(attended, "1 h t d -> t (h d)"))
        x = x + block.mlp(block.norm2(x))
    expected = encoder.trunk.norm(x[: len(tokens)])
    torch.testing.assert_close(encoder.encode(video=frames).tokens[0], expected, atol=1e-5, rtol=1e-4)


def test_prefixes_are_keys_and_values_of_every_block(encoder: Encoder) -> None:
    methods.install(encoder, PrefixConfig(count=3), layers=None, seed=0)
    attention = encoder.trunk.blocks[0].attn
    x = torch.randn(7, 48)
    got = attention(x, Blocks(np.array([4, 3])), torch.nn.Identity())
    prefix = rearrange(attention.prefix, "kv prefix (h d) -> kv h prefix d", h=3)
    for rows in (slice(0, 4), slice(4, 7)):
        query, key, value = (rearrange(v[rows], "t h d -> h t d") for v in attention._project(x))
        key, value = torch.cat([prefix[0], key], 1), torch.cat([prefix[1], value], 1)
        attended = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        torch.testing.assert_close(got[rows], attention.proj(rearrange(attended, "h t d -> t (h d)")))


def test_cross_attention_reads_the_stream_that_it_is_told_to(encoder: Encoder, square_shards: Path) -> None:
    """Behind closed gates nothing but the branch carries pose to video; other poses change video, but not with [video] alone."""
    clips = some_clips(square_shards)[:1]
    for block in encoder.trunk.blocks:
        for gate in block.reading.gates.values():
            gate.zero_()
    changed = {}
    for streams in (None, ("pose",), ("video",)):
        methods.install(encoder, CrossConfig(rank=16, streams=streams), layers=2, seed=0)
        for block in encoder.trunk.blocks:
            torch.nn.init.normal_(block.cross.proj.weight)
        first, second = (encoder.encode_clips([other]) for other in (clips[0], _shaken(clips[0])))
        difference = (first.tokens - second.tokens)[first.modality == 0].abs().max()
        changed[streams] = float(difference.detach())
    assert changed[None] > 1e-3
    assert changed["pose",] > 1e-3
    assert changed["video",] == 0
    with pytest.raises(UserError, match="knows no 'gaze'"):
        methods.install(encoder, CrossConfig(streams=("gaze",)), layers=None, seed=0)


def _shaken(clip: Clip) -> Clip:
    views = {}
    for name, view in clip.views.items():
        pose = dict(view.pose)
        views[name] = replace(view, pose=pose | {"keypoints": pose["keypoints"][::-1].copy()})
    return replace(clip, views=views)


@pytest.mark.parametrize("merged", [False, True])
def test_lora_is_what_peft_makes_of_transformers_videomae(tmp_path: Path, merged: bool) -> None:
    """The same updates, drawn at random, around the same weights: equal tokens, as they are and merged."""
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model
    from transformers import VideoMAEConfig, VideoMAEModel

    base = VideoMAEModel(VideoMAEConfig(**SIZES["tiny"])).eval()
    redraw(base)
    base.save_pretrained(tmp_path)
    theirs = get_peft_model(base, PeftConfig(r=8, lora_alpha=16, target_modules=["query", "value"]))
    ours = load_encoder(tmp_path)
    methods.install(ours, LoraConfig(), layers=None, seed=0)
    updates = {name: weight for name, weight in theirs.named_parameters() if weight.requires_grad}
    for name, weight in updates.items():
        weight.data.normal_(0, 0.3)
        _, layer, path = name.split("layer.")[1].partition(".attention.attention.")
        del layer
        number = name.split("layer.")[1].split(".")[0]
        ours.get_parameter(f"trunk.blocks.{number}.attn.lora.{path}").data.copy_(weight.data)
    assert len(updates) == len(methods.small_weights(ours))
    frames = torch.randn(2, 16, 3, 32, 32)
    with torch.no_grad():
        if merged:
            theirs = theirs.merge_and_unload()
            lora.merge(ours)
            assert not methods.small_weights(ours)
            assert all("lora" not in name for name in ours.state_dict())
        expected = theirs(frames).last_hidden_state
        assert difference(ours.encode(video=frames).tokens, expected) < 1e-5
        plain = load_encoder(tmp_path).encode(video=frames).tokens
        assert difference(plain, expected) > 0.01


def test_shares_of_vit_b() -> None:
    """Counted on an encoder of ViT-B's sizes without memory: against VideoMAE's weights alone, at most 2 per cent."""
    with torch.device("meta"):
        encoder = Encoder(ModelConfig(dim=768, layers=12, heads=12, mlp_dim=3072))
    share = {}
    for name, settings in (
        INSTALLED
        | {
            "adapter": AdapterConfig(),
            "temporal adapter": AdapterConfig(temporal=True),
            "deep prompt": PromptConfig(count=50),
            "prefix": PrefixConfig(),
            "cross": CrossConfig(),
            "lora": LoraConfig(),
        }
    ).items():
        small, elsewhere, backbone = methods.count(encoder, settings, layers=None)
        share[name] = 100 * small / backbone
        assert 85e6 < backbone < 87e6
        assert (elsewhere > 0) == (name == "full")
    assert share.pop("full") == 100
    assert max(share.values()) <= 2
    rounded = {name: round(value, 2) for name, value in share.items()}
    assert rounded["adapter"] == 1.4
    assert rounded["deep prompt"] == 0.54
    assert rounded["lora"] == 0.35
    assert rounded["cross"] == 1.39
    assert methods.count(encoder, AdapterConfig(), layers=4)[0] * 3 == methods.count(encoder, AdapterConfig(), None)[0]


def test_full_fine_tuning_is_slower_the_lower_a_weight_is(encoder: Encoder) -> None:
    rate = {id(p): group["lr"] for group in full.rates(encoder, FullConfig(1.0, 0.5)) for p in group["params"]}
    of = {name: rate[id(weight)] for name, weight in encoder.named_parameters()}
    assert of["trunk.norm.weight"] == of["trunk.blocks.1.mlp.fc1.weight"] == 1
    assert of["trunk.blocks.0.mlp.fc1.weight"] == 0.5
    assert of["video.weight"] == of["streams.pose.project.weight"] == 0.25
    assert len(of) == len(rate)


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
    before = training._loss(head, problem, split.train, training.outputs(encoder, head, problem, config))
    head = training.train(encoder, problem, part, config, seed=0)
    after = training._loss(head, problem, split.train, training.outputs(encoder, head, problem, config))
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


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_merged_release_says_the_same_without_the_method(
    small_release: Path, square_shards: Path, tmp_path: Path, method: str
) -> None:
    before = {file.name: file.read_bytes() for file in small_release.iterdir()}
    encoder = load_encoder(small_release).requires_grad_(False)
    config = settings(square_shards, tmp_path / "tuned", method, group_by="recording", encoder=small_release)
    problem, split = problem_of(encoder, config)
    config.training.lr, config.training.epochs = 0.1, 1
    tuning(encoder, problem, config)(replace(split, name="given"), 0, np.array([0]))
    clips = some_clips(square_shards)
    expected = load_tuned(config.out, encoder).predict(clips)
    tokens = encoder.encode_clips(clips).tokens
    command = ["merge", str(config.out), "--encoder", str(small_release), "--out", str(tmp_path / "merged")]
    assert main(command) == 0
    merged = load_encoder(tmp_path / "merged")
    torch.testing.assert_close(merged.encode_clips(clips).tokens, tokens, atol=1e-5, rtol=1e-4)
    assert (load_encoder(small_release).encode_clips(clips).tokens - tokens).abs().max() > 1e-3
    np.testing.assert_allclose(load_tuned(tmp_path / "merged-head", merged).predict(clips), expected, atol=1e-5)
    assert f"after {method} on labels of `moves`" in (tmp_path / "merged" / "MODEL_CARD.md").read_text()
    assert {file.name: file.read_bytes() for file in small_release.iterdir()} == before
    assert main(command) == 2  # it is there
    with pytest.raises(UserError, match="trained on another encoder"):
        load_tuned(tmp_path / "merged-head", load_encoder(small_release))


def test_lora_of_a_videomae_is_merged_into_a_videomae(square_shards: Path, tmp_path: Path) -> None:
    """And what was tuned on it is known again, whatever was drawn before it was loaded."""
    from transformers import VideoMAEConfig, VideoMAEModel

    published = VideoMAEModel(VideoMAEConfig(**SIZES["tiny"]))
    redraw(published)
    published.save_pretrained(tmp_path / "videomae")
    encoder = load_encoder(tmp_path / "videomae").requires_grad_(False)
    config = settings(square_shards, tmp_path / "tuned", "lora", encoder=tmp_path / "videomae", group_by="recording")
    problem, split = problem_of(encoder, config)
    config.training.lr, config.training.epochs = 0.1, 1
    tuning(encoder, problem, config)(replace(split, name="given"), 0, np.array([0]))
    torch.manual_seed(5)
    again = load_encoder(tmp_path / "videomae")
    expected = load_tuned(config.out, again).predict(some_clips(square_shards))
    out = tmp_path / "merged"
    assert main(["merge", str(config.out), "--encoder", str(tmp_path / "videomae"), "--out", str(out)]) == 0
    said = load_tuned(tmp_path / "merged-head", load_encoder(out)).predict(some_clips(square_shards))
    np.testing.assert_allclose(said, expected, atol=1e-5)


def test_an_adapter_is_not_merged(
    small_release: Path, square_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = load_encoder(small_release).requires_grad_(False)
    config = settings(square_shards, tmp_path / "tuned", "adapter", group_by="recording", encoder=small_release)
    problem, _ = problem_of(encoder, config)
    methods.install(encoder, config.adapter, None, 0)
    head = AttentiveHead(problem.features.values.shape[1], 2, 2)
    save_tuned(config.out, encoder, head, problem.task, problem.streams, config, people=False)
    assert isinstance(load_tuned(config.out, encoder).head, AttentiveHead)
    assert main(["merge", str(config.out), "--encoder", str(small_release), "--out", str(tmp_path / "out")]) == 2
    assert "method adapter leaves nothing to merge" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
