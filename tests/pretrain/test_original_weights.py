"""The files of the original repositories: the same function out of every layout, and nothing in a file is run."""

import argparse
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    VideoMAEModel,
)
from videomae_for_tests import (
    SIZES,
    difference,
    original_encoder,
    original_finetuned,
    original_pretraining,
    redraw,
)

from configs import UserError
from pretrain.config import MaskConfig, ModelConfig
from pretrain.layouts import sizes
from pretrain.objective import MaskedAutoencoder
from pretrain.release import load_encoder
from pretrain.tokens import sinusoids
from pretrain.weights import initialise, read_decoder

HEADS_OF_64 = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 320}
COMMAND_LINE = argparse.Namespace(model="vit", input_size=32, num_frames=16, window_size=(8, 2, 2), opt_betas=None)


def published(kind: type = VideoMAEModel, **changes) -> torch.nn.Module:
    """A model of transformers with the original's epsilon, every parameter redrawn."""
    decoder = {"decoder_hidden_size": 48, "decoder_num_attention_heads": 3, "decoder_num_hidden_layers": 1}
    config = VideoMAEConfig(**{**HEADS_OF_64, "image_size": 32, "layer_norm_eps": 1e-6, **decoder, **changes})
    model = kind(config).eval()
    redraw(model)
    return model


def same_function(path: Path, model: torch.nn.Module) -> None:
    """The encoder out of a file against transformers' model, in both precisions."""
    body = getattr(model, "videomae", model)
    side = body.config.image_size
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-9)):
        frames = torch.randn(1, body.config.num_frames, 3, side, side, dtype=dtype)
        with torch.no_grad():
            theirs = body.to(dtype)(frames).last_hidden_state
            ours = load_encoder(path).to(dtype).encode(video=frames).tokens
        assert difference(ours, theirs) <= tolerance
    assert load_encoder(path).config.layer_norm_eps == body.config.layer_norm_eps


def test_pretraining_checkpoint_with_all_that_a_run_saved(tmp_path: Path) -> None:
    model = published(VideoMAEForPreTraining, use_mean_pooling=False)
    names = original_pretraining(model)
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    saved = {"model": names, "optimizer": optimizer, "epoch": 799, "scaler": {"scale": 65536.0}, "args": COMMAND_LINE}
    torch.save(saved, tmp_path / "checkpoint.pth")
    same_function(tmp_path / "checkpoint.pth", model)
    assert load_encoder(tmp_path / "checkpoint.pth").config.final_norm


@pytest.mark.parametrize("mean_pooling", [True, False])
@pytest.mark.parametrize("under", ["model", "module", None])
def test_finetuned_checkpoint(mean_pooling: bool, under: str | None, tmp_path: Path) -> None:
    """With mean pooling ``fc_norm`` is the classifier's and the trunk ends without a norm; else ``norm`` is the trunk's."""
    model = published(VideoMAEForVideoClassification, use_mean_pooling=mean_pooling)
    names = original_finetuned(model)
    assert ("fc_norm.weight" in names) == mean_pooling
    assert ("norm.weight" in names) == (not mean_pooling)
    if under is None:  # bare, so that no command line tells the picture's size, but the position table does
        model = published(VideoMAEForVideoClassification, use_mean_pooling=mean_pooling, image_size=224)
        names = original_finetuned(model)
    torch.save(names if under is None else {under: names, "args": COMMAND_LINE}, tmp_path / "tuned.pth")
    same_function(tmp_path / "tuned.pth", model)
    assert load_encoder(tmp_path / "tuned.pth").config.final_norm == (not mean_pooling)


def test_files_of_old_pytorch_and_of_parallel_training(tmp_path: Path) -> None:
    model = published(use_mean_pooling=False)
    names = {f"module.{name}": value for name, value in original_encoder(model).items()}
    saved = {"model": names, "args": COMMAND_LINE}
    torch.save(saved, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    same_function(tmp_path / "old.pth", model)


def test_second_version_distilled(tmp_path: Path) -> None:
    """Patches of 14, an MLP of 48 / 11 the width as the giant has it, the position table saved along."""
    model = published(
        VideoMAEForVideoClassification, use_mean_pooling=True, patch_size=14, image_size=28, intermediate_size=558
    )
    names = original_finetuned(model) | {"pos_embed": sinusoids(8 * 2 * 2, 128)[None]}
    arguments = argparse.Namespace(input_size=28, num_frames=16, num_segments=1, tubelet_size=2)
    torch.save({"module": names, "args": arguments}, tmp_path / "distilled.pth")
    same_function(tmp_path / "distilled.pth", model)


def test_second_version_folder(tmp_path: Path) -> None:
    """As it lies on the Hugging Face hub: its own config.json, names under ``model.``; heads come out of the config."""
    model = published(**SIZES["tiny"], use_mean_pooling=True)
    save_file({f"model.{n}": v for n, v in original_encoder(model).items()}, tmp_path / "model.safetensors")
    theirs = {"img_size": 32, "num_heads": 3, "num_frames": 16, "layer_norm_eps": 1e-6, "cos_attn": False}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "VideoMAEv2_Base", "model_config": theirs}))
    same_function(tmp_path, model)
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "VideoMAEv2_Base", "model_config": theirs | {"cos_attn": True}})
    )
    with pytest.raises(UserError, match="cos_attn"):
        load_encoder(tmp_path)


def test_segments_of_other_lengths(tmp_path: Path) -> None:
    model = published(use_mean_pooling=True, num_frames=32)
    arguments = argparse.Namespace(input_size=32, num_frames=16, num_segments=2)
    torch.save({"model": original_encoder(model), "args": arguments}, tmp_path / "long.pth")
    same_function(tmp_path / "long.pth", model)


def test_epsilon_of_every_source(tmp_path: Path) -> None:
    """1e-6 in the original, what config.json says in Hugging Face's (1e-12 where it says nothing), in every norm."""
    model = VideoMAEModel(VideoMAEConfig(**SIZES["tiny"], use_mean_pooling=False))
    model.save_pretrained(tmp_path / "hugging_face")
    torch.save({"model": original_encoder(published(use_mean_pooling=False))}, tmp_path / "original.pth")
    for name, eps in (("hugging_face", 1e-12), ("original.pth", 1e-6)):
        trunk = load_encoder(tmp_path / name).trunk
        norms = [module.eps for module in trunk.modules() if isinstance(module, torch.nn.LayerNorm)]
        assert norms == [eps] * 5


PUBLISHED = {  # width, layers, heads, MLP, patch
    "small": (384, 12, 6, 1536, 16),
    "base": (768, 12, 12, 3072, 16),
    "large": (1024, 24, 16, 4096, 16),
    "huge": (1280, 32, 16, 5120, 16),
    "giant": (1408, 40, 16, 6144, 14),
}


@pytest.mark.parametrize(("width", "layers", "heads", "mlp", "patch"), PUBLISHED.values(), ids=PUBLISHED)
def test_sizes_from_shapes(width: int, layers: int, heads: int, mlp: int, patch: int) -> None:
    shapes = {"video.weight": (width, 3, 2, patch, patch), "trunk.norm.weight": (width,)}
    for layer in range(layers):
        shapes[f"trunk.blocks.{layer}.mlp.fc1.weight"] = (mlp, width)
        shapes[f"trunk.blocks.{layer}.attn.q_bias"] = (width,)
    found = sizes({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    expected = {"dim": width, "layers": layers, "heads": heads, "mlp_dim": mlp, "patch": patch, "tubelet": 2}
    assert found == {**expected, "qv_bias": True, "final_norm": True}
    ModelConfig(**found)  # and the model takes them


@pytest.mark.parametrize(("width", "layers", "heads", "mlp", "patch"), PUBLISHED.values(), ids=PUBLISHED)
def test_a_layer_of_every_size_computes_the_same(
    width: int, layers: int, heads: int, mlp: int, patch: int, tmp_path: Path
) -> None:
    """At the published widths, whose heads (64, 80 and 88 numbers wide) no shape in the file tells."""
    model = published(
        hidden_size=width, num_attention_heads=heads, num_hidden_layers=1, intermediate_size=mlp, patch_size=patch,
        image_size=2 * patch, use_mean_pooling=False,
    )  # fmt: skip
    arguments = argparse.Namespace(input_size=2 * patch, num_frames=16)
    torch.save({"model": original_encoder(model), "args": arguments}, tmp_path / "wide.pth")
    same_function(tmp_path / "wide.pth", model)


def test_a_width_of_no_videomae_is_refused(tmp_path: Path) -> None:
    torch.save(original_encoder(published(**SIZES["tiny"])), tmp_path / "odd.pth")
    with pytest.raises(UserError, match=r"odd\.pth: width 48"):
        load_encoder(tmp_path / "odd.pth")


class Runs:
    """A pickle of it calls ``open`` on a file when it is read."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


@pytest.mark.parametrize("how", ["zip", "old", "plain pickle", "bin"])
def test_a_file_that_would_run_code_is_refused_and_does_not(how: str, tmp_path: Path) -> None:
    wrote = tmp_path / "it_ran"
    saved = {"model": original_encoder(published()), "args": Runs(wrote)}
    file = tmp_path / "bad.pth"
    if how == "plain pickle":
        file.write_bytes(pickle.dumps({"model": {}, "args": Runs(wrote)}, protocol=2))
    elif how == "bin":
        published().save_pretrained(tmp_path / "folder")
        (tmp_path / "folder" / "model.safetensors").unlink()
        file = tmp_path / "folder" / "pytorch_model.bin"
        torch.save(saved, file)
    else:
        torch.save(saved, file, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(UserError) as caught:
        load_encoder(file.parent if how == "bin" else file)
    assert not wrote.exists()
    assert str(file) in str(caught.value)
    assert "refused" in str(caught.value)
    assert "open" in str(caught.value)
    assert "\n" not in str(caught.value)
    if how == "plain pickle":  # the test's own claim: read without care it would have run
        pickle.loads(file.read_bytes())
    else:
        torch.load(file, weights_only=False)
    assert wrote.exists()


@pytest.mark.parametrize("kind", ["zip", "old", "empty", "text", "list", "safetensors", "names", "suffix"])
def test_what_is_damaged_or_something_else_is_one_line(kind: str, tmp_path: Path) -> None:
    file = tmp_path / {"safetensors": "w.safetensors", "suffix": "w.csv"}.get(kind, "w.pth")
    names = original_encoder(published())
    if kind == "safetensors":
        save_file(names, file)
    elif kind in {"list", "names"}:
        torch.save([1, 2] if kind == "list" else {"model": names | {"blocks.0.gamma_1": torch.ones(128)}}, file)
    else:
        torch.save({"model": names}, file, _use_new_zipfile_serialization=kind != "old")
    if kind in {"zip", "old", "safetensors"}:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif kind in {"empty", "text"}:
        file.write_text("hello" if kind == "text" else "")
    wanted = {"list": "holds no parameters", "names": "gamma_1", "suffix": "no file of weights"}.get(kind, "damaged")
    with pytest.raises(UserError, match=wanted) as caught:
        load_encoder(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def test_a_learned_position_table_is_refused(tmp_path: Path) -> None:
    names = original_encoder(published()) | {"pos_embed": torch.randn(1, 8 * 2 * 2, 128)}
    torch.save({"model": names, "args": COMMAND_LINE}, tmp_path / "learned.pth")
    with pytest.raises(UserError, match=r"learned\.pth: its position table is a learned one"):
        load_encoder(tmp_path / "learned.pth")
    names["pos_embed"] = sinusoids(8 * 3 * 3, 128)[None]
    torch.save({"model": names, "args": COMMAND_LINE}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="72 places, not 8 x 2 x 2"):
        load_encoder(tmp_path / "other.pth")


def test_hugging_face_names_want_their_config(tmp_path: Path) -> None:
    torch.save(published().state_dict(), tmp_path / "lone.bin")
    with pytest.raises(UserError, match=r"no config\.json beside it"):
        load_encoder(tmp_path / "lone.bin")


def test_a_run_starts_from_a_checkpoint(tmp_path: Path) -> None:
    model = published(VideoMAEForPreTraining, use_mean_pooling=False)
    names = original_pretraining(model)
    torch.save({"model": names, "args": COMMAND_LINE}, tmp_path / "checkpoint.pth")
    model.save_pretrained(tmp_path / "hub")
    decoder, same = read_decoder(tmp_path / "checkpoint.pth"), read_decoder(tmp_path / "hub")
    assert decoder.keys() == same.keys()
    assert all(torch.equal(value, same[name]) for name, value in decoder.items())
    ours = MaskedAutoencoder(
        ModelConfig(
            dim=128, layers=2, heads=2, mlp_dim=320, image_height=32, image_width=32, decoder_dim=24, streams={}
        ),
        MaskConfig(),
    )
    initialise(ours, load_encoder(tmp_path / "checkpoint.pth"), tmp_path / "checkpoint.pth")
    own = ours.encoder.state_dict()
    assert torch.equal(own["trunk.blocks.1.attn.qkv.weight"], names["encoder.blocks.1.attn.qkv.weight"])
    assert torch.equal(own["video.weight"], names["encoder.patch_embed.proj.weight"])
