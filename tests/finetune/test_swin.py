"""Video Swin as an encoder: the same function out of every file, tokens that know their place, and methods on top of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.video import swin3d_b, swin3d_s, swin3d_t
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d, SwinTransformer3d

from configs import UserError
from data_prep.shards import read_index, read_sample
from finetune import methods
from finetune.__main__ import main
from finetune.config import AdapterConfig, FullConfig, LoraConfig, PromptConfig, RunConfig, SwinConfig
from finetune.data import open_encoder
from finetune.features import pool, weights_digest
from finetune.methods import full, lora
from finetune.run import run
from finetune.swin import SwinSizes, WindowAttention
from finetune.swin_encoder import SwinEncoder, pieces
from finetune.swin_weights import read_swin, renamed, sizes, window_of
from finetune.tuned import load_tuned
from pretrain.clips import Clip, View, read_clip
from tests.finetune.swin_for_tests import features, original_names, save_original, torchvision_swin

READING = SwinConfig(frames=8, frame_rate=8.0, side=32)
OPTIONS = ("--swin.frames", "8", "--swin.frame_rate", "8", "--swin.side", "32")


def encoder_of(model: SwinTransformer3d, reading: SwinConfig = READING) -> SwinEncoder:
    weights, indices = renamed(model.state_dict())
    encoder = SwinEncoder(sizes(weights, indices), reading)
    encoder.trunk.load_state_dict(weights)
    return encoder.eval().requires_grad_(False)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, as a share of the largest value."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def clip_of(*views: np.ndarray, start: float = 0.0) -> Clip:
    """A clip of views uint8 [frame, height, width, 3] at 8 frames a second."""
    made = {str(n): View(frames, frame_start=start, frame_rate=8.0) for n, frames in enumerate(views)}
    return Clip("k", "r", 0.0, 10.0, [], made, {}, {})


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("frames", "height", "width"),
    [
        (16, 64, 64),  # windows fit
        (18, 60, 64),  # windows move along all axes, and stick out
        (7, 50, 37),  # nothing fits: patches, merging and windows are filled up
        (3, 33, 230),  # shorter than a window; moved along one axis alone
        (1, 9, 5),  # less than a token of the last stage
    ],
)
def test_the_same_function_as_torchvisions(frames: int, height: int, width: int) -> None:
    for depths, window in (((2, 2, 1, 1), (8, 7, 7)), ((1, 2, 1), (4, 3, 5))):
        model = torchvision_swin(depths, window, num_heads=[1, 2, 4, 8][: len(depths)])
        video = torch.randn(3, frames, height, width)
        assert difference(encoder_of(model).trunk(video)[1], features(model, video)) <= 1e-5
        video = video.double()
        assert difference(encoder_of(model).double().trunk(video)[1], features(model.double(), video)) <= 1e-12


def test_published_sizes_are_deduced() -> None:
    tiny = swin3d_t()
    weights, indices = renamed(tiny.state_dict())
    assert sizes(weights, indices) == SwinSizes(96, (2, 2, 6, 2), (3, 6, 12, 24), 4.0, (2, 4, 4), (8, 7, 7))
    with torch.device("meta"):
        small, base = (renamed(model().state_dict())[0] for model in (swin3d_s, swin3d_b))
    assert sizes(small, []) == SwinSizes(96, (2, 2, 18, 2), (3, 6, 12, 24), 4.0, (2, 4, 4), (8, 7, 7))
    assert sizes(base, []) == SwinSizes(128, (2, 2, 18, 2), (4, 8, 16, 32), 4.0, (2, 4, 4), (8, 7, 7))


def test_windows_are_told_from_table_and_index() -> None:
    """16 x 7 x 7 is Something-Something's; 3 x 5 x 4 and 4 x 5 x 3 have tables of the same length."""
    assert window_of(31 * 13 * 13, None) == (16, 7, 7)
    for window in ((3, 5, 4), (4, 5, 3), (1, 7, 7), (2, 2, 2)):
        attention = ShiftedWindowAttention3d(4, list(window), [0, 0, 0], 1)
        rows = len(attention.relative_position_bias_table)
        assert window_of(rows, attention.relative_position_index) == window
    with pytest.raises(ValueError, match="no relative_position_index"):
        window_of(5 * 9 * 7, None)
    with pytest.raises(ValueError, match="fits no window"):
        window_of(rows, attention.relative_position_index.flip(0))


@pytest.mark.parametrize(
    "form", ["torchvision.pth", "torchvision.safetensors", "original.pth", "parallel.pth", "mmaction2.pth"]
)
def test_every_layout_is_the_same_encoder(form: str, tmp_path: Path) -> None:
    model = torchvision_swin((2, 1, 1, 1), (4, 3, 3))
    path = tmp_path / form
    if form == "torchvision.safetensors":
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    elif form == "torchvision.pth":
        torch.save(model.state_dict(), path)
    elif form == "original.pth":
        save_original(model, path)
    elif form == "parallel.pth":
        torch.save({"model": {f"module.{name}": value for name, value in model.state_dict().items()}}, path)
    else:
        names = {n.replace("backbone.norm.", "backbone.norm3."): value for n, value in original_names(model).items()}
        torch.save({"meta": {"best": np.float64(0.5)}, "state_dict": names}, path, _use_new_zipfile_serialization=False)
        path.write_bytes(
            path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        )  # numpy before 2.0
    assert (b"numpy.core.multiarray" in path.read_bytes()) == (form == "mmaction2.pth")
    before = path.read_bytes()
    encoder = open_encoder(path, "cpu", READING)
    video = torch.randn(3, 8, 32, 32)
    assert difference(encoder.trunk(video)[1].detach(), features(model, video)) <= 1e-5
    assert weights_digest(encoder) == weights_digest(encoder_of(model))
    assert path.read_bytes() == before


def test_tokens_know_when_and_where_they_are() -> None:
    """Two views, one of them shorter than a piece, the other of 21 frames: pieces of 8, 8 and, begun earlier, 7."""
    model = torchvision_swin((2, 1, 1, 1))
    encoder = encoder_of(model)
    first, second = noise(21, 32, 96), noise(5, 64, 64)
    out = encoder.encode_clips([clip_of(first, second, start=0.5), clip_of(second)])
    assert out.tokens.shape == out.content.shape == (11 * 3 + 3 * 1 + 3 * 1, 192)
    assert out.clip.tolist() == 36 * [0] + 3 * [1]
    assert out.view.tolist() == 33 * [0] + 3 * [1] + 3 * [0]
    assert out.person.unique().tolist() == [-1]
    assert out.modality.unique().tolist() == [0]
    assert out.place.tolist() == 11 * [0, 1, 2] + 6 * [0]
    np.testing.assert_allclose(out.time[:33:3], 0.5 + (np.arange(11) + 0.5) / 4)
    np.testing.assert_allclose(out.time[36:], (np.arange(3) + 0.5) / 4)
    video = encoder.normalised(torch.from_numpy(first).permute(0, 3, 1, 2))
    theirs = torch.cat([features(model, video[:, at]) for at in (slice(8), slice(8, 16))])
    theirs = torch.cat([theirs, features(model, video[:, 14:])[1:]])
    assert difference(out.tokens[:33], theirs.reshape(33, 192)) <= 1e-5
    values, present = pool(out, torch.tensor([0, 1]), torch.tensor([-1, -1]), 1)
    assert present.all()
    np.testing.assert_allclose(values[0, 0, 192:384], out.tokens[:36].mean(0), atol=1e-4)


def test_pieces_are_whole_and_every_frame_is_read_once() -> None:
    for count in range(1, 70):
        read = [(begins, skipped, len(piece)) for begins, skipped, piece in pieces(torch.arange(count), 32, 2)]
        kept = [frame for begins, skipped, length in read for frame in range(begins + 2 * skipped, begins + length)]
        assert kept == list(range(count))
        assert count < 32 or all(length >= 31 for _, _, length in read)


def test_normalised_as_the_checkpoints_expect() -> None:
    from torchvision.transforms._presets import VideoClassification

    frames = torch.from_numpy(noise(3, 32, 32)).permute(0, 3, 1, 2)
    given = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    theirs = VideoClassification(crop_size=(32, 32), resize_size=(32,), **given)(frames)
    torch.testing.assert_close(encoder_of(torchvision_swin()).normalised(frames), theirs)


def test_content_is_what_enters_the_trunk() -> None:
    """The last block's weights do not touch it; pixels of its own place do, others do not."""
    model = torchvision_swin()
    frames = noise(8, 32, 64)
    before = encoder_of(model).encode_clips([clip_of(frames)])
    with torch.no_grad():
        model.norm.bias += 1
    after = encoder_of(model).encode_clips([clip_of(frames)])
    assert torch.equal(before.content, after.content)
    assert not torch.allclose(before.tokens, after.tokens)
    frames[:, :, 32:] = 0
    other = encoder_of(model).encode_clips([clip_of(frames)])
    same = (other.content == after.content).all(1)
    assert torch.equal(same, other.place == 0)


def test_what_is_no_video_swin_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    model = torchvision_swin()
    names = model.state_dict()
    cases = {
        "a Swin of images": names | {"patch_embed.proj.weight": torch.zeros(24, 3, 4, 4)},
        "norm.bias": {name: value for name, value in names.items() if name != "norm.bias"},
        "extra": names | {"features.0.0.extra": torch.zeros(1)},
        "not one": {name: value for name, value in names.items() if not name.startswith("patch_embed")},
    }
    for says, saved in cases.items():
        torch.save(saved, path)
        with pytest.raises(UserError, match=says) as error:
            read_swin(path, READING)
        assert "\n" not in str(error.value)
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(UserError, match="refused"):
        read_swin(path, READING)
    torch.save({"a": torch.zeros(1)}, path)
    assert read_swin(path, READING) is None
    assert read_swin(tmp_path, READING) is None


@pytest.mark.parametrize("setting", [{"frames": 7}, {"side": 30}, {"frame_rate": 0.0}])
def test_impossible_settings_name_their_key(setting: dict) -> None:
    with pytest.raises(ValueError, match=f"swin.{next(iter(setting))}"):
        SwinConfig(**setting)


def test_an_adapter_stands_beside_every_mlp_and_changes_nothing_at_step_0() -> None:
    encoder = encoder_of(torchvision_swin((2, 1, 1, 1)))
    clips = [clip_of(noise(12, 32, 32))]
    before, digest = encoder.encode_clips(clips).tokens, weights_digest(encoder)
    methods.install(encoder, AdapterConfig(), layers=None, seed=0)
    widths = [block.adapter.down.weight.shape for block in encoder.trunk.blocks]
    assert widths == [(2, 24), (2, 24), (4, 48), (8, 96), (16, 192)]
    assert torch.equal(encoder.encode_clips(clips).tokens.detach(), before)
    encoder.encode_clips(clips).tokens.square().sum().backward()
    small = methods.small_weights(encoder)
    assert len(small) == 5 * 4
    assert all(p.grad.abs().max() > 0 for name, p in small.items() if ".up." in name)
    with torch.no_grad():
        for weight in small.values():
            weight += 0.1
    assert not torch.allclose(encoder.encode_clips(clips).tokens.detach(), before)
    assert weights_digest(encoder) == digest
    methods.remove(encoder)
    assert torch.equal(encoder.encode_clips(clips).tokens, before)


def test_prompts_are_keys_and_values_of_every_window() -> None:
    """One window of 2 x 3 x 3 tokens, written out; a video of several windows does the same in each of them."""
    torch.manual_seed(0)
    attention, norm = WindowAttention(8, 2, (2, 3, 3), shifted=False), nn.LayerNorm(8)
    nn.init.normal_(attention.relative_position_bias_table)
    nn.init.normal_(norm.bias)
    attention.prompt = nn.Parameter(torch.randn(5, 8))
    x = torch.randn(2, 3, 3, 8)
    rows = torch.cat([norm(attention.prompt), x.reshape(18, 8)])
    query, key, value = attention.qkv(rows).reshape(23, 3, 2, 4).permute(1, 2, 0, 3)
    logits = query[:, 5:] @ key.mT / 2
    logits[..., 5:] += attention.relative_position_bias_table[attention.index].permute(2, 0, 1)
    expected = attention.proj((logits.softmax(-1) @ value).transpose(0, 1).reshape(2, 3, 3, 8))
    torch.testing.assert_close(attention(x, norm), expected)
    torch.testing.assert_close(attention(torch.cat([x, x.flip(0)], 1), norm)[:, :3], expected)
    attention.prompt = nn.Parameter(torch.empty(0, 8))
    nothing = attention(x, norm)
    attention.prompt = None
    torch.testing.assert_close(nothing, attention(x, norm))
    assert not torch.allclose(nothing, expected)


def test_every_blocks_prompts_are_read_and_get_a_gradient() -> None:
    encoder = encoder_of(torchvision_swin((2, 1, 1, 1), (4, 3, 3)))
    clips = [clip_of(noise(12, 64, 64))]
    before = encoder.encode_clips(clips).tokens
    methods.install(encoder, PromptConfig(count=3), layers=None, seed=0)
    prompts = methods.small_weights(encoder)
    assert [tuple(p.shape) for p in prompts.values()] == [(3, 24), (3, 24), (3, 48), (3, 96), (3, 192)]
    out = encoder.encode_clips(clips).tokens
    assert not torch.allclose(out.detach(), before)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in prompts.values())


def test_prefixes_are_keys_and_values_of_every_window() -> None:
    """What prompts become in a window, given as prefixes, does the same."""
    torch.manual_seed(0)
    attention = WindowAttention(8, 2, (2, 3, 3), shifted=False)
    nn.init.normal_(attention.relative_position_bias_table)
    x = torch.randn(2, 6, 3, 8)
    attention.prompt = nn.Parameter(torch.randn(5, 8))
    expected = attention(x, nn.Identity())
    _, *prefix = attention.qkv(attention.prompt).chunk(3, -1)
    attention.prompt, attention.prefix = None, nn.Parameter(torch.stack(prefix))
    torch.testing.assert_close(attention(x, nn.Identity()), expected)


def test_lora_starts_as_nothing_and_is_merged() -> None:
    encoder = encoder_of(torchvision_swin((2, 1, 1, 1)))
    clips = [clip_of(noise(12, 32, 32))]
    before, names = encoder.encode_clips(clips).tokens, list(encoder.state_dict())
    methods.install(encoder, LoraConfig(rank=2), layers=2, seed=0)
    torch.testing.assert_close(encoder.encode_clips(clips).tokens.detach(), before, atol=1e-5, rtol=1e-4)
    small = methods.small_weights(encoder)
    assert len(small) == 2 * 2 * 2
    for weight in small.values():
        nn.init.normal_(weight, std=0.5)
    tuned = encoder.encode_clips(clips).tokens.detach()
    assert not torch.allclose(tuned, before, atol=1e-3)
    encoder.double().float()  # the layers that stand apart have memory of their own now
    lora.merge(encoder)
    torch.testing.assert_close(encoder.encode_clips(clips).tokens.detach(), tuned, atol=1e-5, rtol=1e-4)
    assert list(encoder.state_dict()) == names


def test_a_swins_layers_decay_from_the_last_block_down() -> None:
    encoder = encoder_of(torchvision_swin((2, 1, 1, 1)))
    rate = {id(p): group["lr"] for group in full.rates(encoder, FullConfig(1.0, 0.5)) for p in group["params"]}
    of = {name: rate[id(weight)] for name, weight in encoder.named_parameters()}
    assert len(of) == len(rate)
    assert of["trunk.norm.weight"] == of["trunk.layers.3.blocks.0.norm1.weight"] == 1
    assert of["trunk.layers.0.blocks.1.norm1.weight"] == of["trunk.layers.0.downsample.norm.weight"] == 0.5**3
    assert of["trunk.patch_embed.norm.weight"] == 0.5**5


@pytest.fixture(scope="module")
def swin_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A redrawn Swin as the original repository saves it."""
    return save_original(torchvision_swin(), tmp_path_factory.mktemp("swin") / "swin.pth")


def test_a_method_that_makes_no_sense_is_refused_before_anything_is_done(swin_file: Path, tmp_path: Path) -> None:
    config = RunConfig(swin_file, Path("nowhere"), Path("nowhere.csv"), "moves", tmp_path / "out", method="cross")
    with pytest.raises(UserError, match="--method cross: not for a Video Swin, which takes linear, attentive, adapter"):
        run(config)
    config = replace(config, method="adapter", adapter=AdapterConfig(temporal=True))
    with pytest.raises(UserError, match=r"--adapter\.temporal: not for a Video Swin"):
        run(config)
    with pytest.raises(UserError, match=r"--prompt\.depth shallow: not for a Video Swin"):
        run(replace(config, method="prompt", prompt=PromptConfig(depth="shallow")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["linear", "attentive", "adapter", "prompt"])
def test_finetune_run_on_a_swin(swin_file: Path, split_shards: Path, tmp_path: Path, method: str) -> None:
    before = swin_file.read_bytes()
    labels = split_shards / "scene.csv"
    given = ["--encoder", swin_file, "--data", split_shards, "--labels", labels, "--target", "moves", "--out", tmp_path]
    quick = ["--workers", "0", "--seeds", "1", "--training.epochs", "2", "--training.lr", "0.01", *OPTIONS]
    assert main([str(a) for a in ("run", *given, "--method", method, *quick)]) == 0
    assert swin_file.read_bytes() == before
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["streams"] == ["video"]
    assert {"motion only", "linear", method} <= set(metrics["rows"])
    assert metrics["rows"][method]["test"]["examples"] == 8
    assert metrics["rows"][method]["test"]["accuracy"]["mean"] > 0.6  # a square that moves, or does not
    assert (tmp_path / "adapter.safetensors").is_file() == (method in {"adapter", "prompt"})

    about = json.loads((tmp_path / "config.json").read_text())
    encoder = open_encoder(Path(about["encoder"]), "cpu", SwinConfig(**about["swin"]))
    tuned = load_tuned(tmp_path, encoder)
    row = read_index(split_shards).query("recording == 'r4'").iloc[1]
    said = tuned.predict([read_clip(read_sample(split_shards, row), tuned.streams)])[0]
    predictions = pd.read_csv(tmp_path / "predictions.csv")
    line = predictions[(predictions["recording"] == "r4") & (predictions["start"] == row["start"])]
    np.testing.assert_allclose(said, line[["p(right)", "p(still)"]].to_numpy()[0], atol=1e-4)
    with pytest.raises(UserError, match="another encoder"):  # read another way it has other features
        load_tuned(tmp_path, open_encoder(swin_file, "cpu", SwinConfig(8, 8.0, 36)))


def test_finetune_extract_on_a_swin(swin_file: Path, split_shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.parquet"
    given = ["extract", "--encoder", swin_file, split_shards, "--out", out, "--workers", "0", *OPTIONS]
    assert main([str(argument) for argument in given]) == 0
    table = pd.read_parquet(out)
    assert len(table) == 48
    assert set(table["stream"]) == {"video"}
    row = read_index(split_shards).iloc[3]
    clip = read_clip(read_sample(split_shards, row), ("video",))
    video = encoder_of(torchvision_swin()).normalised(torch.from_numpy(clip.views["main"].frames).permute(0, 3, 1, 2))
    theirs = torch.cat([features(torchvision_swin(), video[:, at : at + 8]) for at in (0, 8)]).mean((0, 1, 2))
    here = table[(table["recording"] == row["recording"]) & (table["time"] == row["start"])]
    np.testing.assert_allclose(here["feature"].iloc[0], theirs, atol=1e-4)


def test_a_stream_that_a_swin_does_not_read_is_refused(
    swin_file: Path, split_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["extract", "--encoder", swin_file, split_shards, "--out", tmp_path / "f.parquet", "--streams", "[pose]"]
    assert main([str(argument) for argument in given]) == 2
    assert "it reads video" in capsys.readouterr().err
