"""What each method puts into an encoder: what it does there, in which blocks, how small it is, and that it comes out again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange

from configs import UserError
from finetune import methods
from finetune.config import (
    AdapterConfig,
    CrossConfig,
    FullConfig,
    LoraConfig,
    MethodSettings,
    PrefixConfig,
    PromptConfig,
)
from finetune.features import weights_digest
from finetune.methods import full, lora
from finetune.methods.adapter import DepthwiseTime
from pretrain.attention import Blocks
from pretrain.clips import Clip
from pretrain.config import ModelConfig
from pretrain.encoder import Encoder
from pretrain.pooling import columns_of, plan
from pretrain.release import load_encoder
from pretrain.streaming import StreamingEncoder
from pretrain.tokens import join, tokenize, video_tokens
from tests.finetune.conftest import tiny_config
from tests.finetune.scenes_for_tests import some_clips
from tests.finetune.test_methods import settings
from tests.pretrain.videomae_for_tests import SIZES, difference, redraw

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
        number, _, path = name.split("layer.")[1].partition(".attention.attention.")
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
    for name, asked in (
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
        small, elsewhere, backbone = methods.count(encoder, asked, layers=None)
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
