"""Back to the Hugging Face layout: every tensor bit by bit, and transformers computes what we compute."""

import argparse
from pathlib import Path

import pytest
import torch
from clips_for_tests import make_clip, tiny_model
from safetensors.torch import load_file
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEModel
from videomae_for_tests import SIZES, difference, original_encoder, redraw

from configs import UserError
from pretrain.__main__ import main
from pretrain.config import ModelConfig
from pretrain.encoder import Encoder
from pretrain.export import export_videomae
from pretrain.release import load_encoder
from pretrain.tokens import IMAGE_MEAN, IMAGE_STD


def published(folder: Path, kind: type = VideoMAEModel, **changes) -> torch.nn.Module:
    decoder = {"decoder_hidden_size": 48, "decoder_num_attention_heads": 3, "decoder_num_hidden_layers": 1}
    model = kind(VideoMAEConfig(**{**SIZES["tiny"], **decoder, **changes})).eval()
    redraw(model)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [VideoMAEModel, VideoMAEForPreTraining])
@pytest.mark.parametrize("changes", [{"use_mean_pooling": True}, {"use_mean_pooling": False, "layer_norm_eps": 1e-3}])
def test_there_and_back_bit_by_bit(size: str, kind: type, changes: dict, tmp_path: Path) -> None:
    published(tmp_path / "theirs", kind, **SIZES[size], **changes)
    encoder = load_encoder(tmp_path / "theirs")
    export_videomae(encoder, tmp_path / "back")
    before, after = (
        load_file(tmp_path / "theirs" / "model.safetensors"),
        load_file(tmp_path / "back" / "model.safetensors"),
    )
    before = {name.removeprefix("videomae."): value for name, value in before.items()}
    rest = ("decoder.", "mask_token", "encoder_to_decoder.")
    assert set(after) == {name for name in before if not name.startswith(rest)}
    assert all(torch.equal(after[name], before[name]) for name in after)
    again = load_encoder(tmp_path / "back")
    assert again.config == encoder.config
    own = {n: v for n, v in encoder.state_dict().items() if ".reading." not in n}
    assert all(torch.equal(again.state_dict()[name], value) for name, value in own.items())


@pytest.mark.parametrize("changes", [{"use_mean_pooling": True}, {"layer_norm_eps": 1e-3}, {"qv_bias": False}])
def test_transformers_reads_it_and_computes_the_same(changes: dict, tmp_path: Path) -> None:
    model = published(tmp_path / "theirs", **{"use_mean_pooling": False, **changes})
    encoder = load_encoder(tmp_path / "theirs")
    export_videomae(encoder, tmp_path / "back")
    back, told = VideoMAEModel.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    frames = torch.randn(2, 16, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(back.eval()(frames).last_hidden_state, model(frames).last_hidden_state)
        assert difference(encoder.encode(video=frames).tokens, back(frames).last_hidden_state) < 1e-5


def test_the_command_turns_an_original_checkpoint_into_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = VideoMAEConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=320, image_size=32,
        layer_norm_eps=1e-6, use_mean_pooling=False,
    )  # fmt: skip
    model = VideoMAEModel(config).eval()
    redraw(model)
    saved = {"model": original_encoder(model), "args": argparse.Namespace(input_size=32, num_frames=16)}
    torch.save(saved, tmp_path / "original.pth")
    arguments = ["export", str(tmp_path / "original.pth"), str(tmp_path / "out")]
    assert main(arguments) == 0
    assert "left out" not in capsys.readouterr().out
    back = VideoMAEModel.from_pretrained(tmp_path / "out").eval()
    assert back.config.layer_norm_eps == 1e-6
    frames = torch.randn(1, 16, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(back(frames).last_hidden_state, model(frames).last_hidden_state)
    assert main(arguments) == 2  # it is there now
    assert "exists" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["original.pth", "out"]


def test_what_videomae_has_no_place_for_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = Encoder(tiny_model()).eval()
    redraw(encoder)
    export_videomae(encoder, tmp_path / "out")
    said = capsys.readouterr().out
    assert "audio, face, pose" in said
    assert "not the same function" in said
    for name, gate in encoder.named_parameters():
        if ".gates." in name:
            gate.data.zero_()
    frames = torch.randn(1, 16, 3, 32, 32)
    with torch.no_grad():
        theirs = VideoMAEModel.from_pretrained(tmp_path / "out").eval()(frames).last_hidden_state
        assert difference(encoder.encode(video=frames).tokens, theirs) < 1e-5


@pytest.mark.parametrize("small", ["adapter", "prompt"])
def test_a_tuned_encoder_is_refused(small: str, tmp_path: Path) -> None:
    encoder = Encoder(tiny_model())
    block = encoder.trunk.blocks[1]
    if small == "adapter":
        block.adapter = torch.nn.Linear(48, 48)
    else:
        block.attn.prompt = torch.nn.Parameter(torch.zeros(2, 48))
    with pytest.raises(UserError, match=f"tuned {small}"):
        export_videomae(encoder, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_table_that_transformers_does_not_compute_is_refused(tmp_path: Path) -> None:
    config = ModelConfig(dim=48, layers=1, heads=3, mlp_dim=96, image_height=112, image_width=112, table=(8, 14, 14))
    with pytest.raises(UserError, match=r"interpolated from \[8, 14, 14\] to \[8, 7, 7\]"):
        export_videomae(Encoder(config), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_decoder_comes_along_bit_by_bit(tmp_path: Path) -> None:
    """What a run has learnt about rebuilding video is VideoMAE's decoder again, and transformers has the same loss."""
    from pretrain.config import MaskConfig
    from pretrain.objective import MaskedAutoencoder
    from pretrain.weights import read_decoder

    ours = MaskedAutoencoder(tiny_model(streams={}, layer_norm_eps=1e-12), MaskConfig(video=0.75)).eval()
    redraw(ours)
    with torch.no_grad():
        for gate in (p for n, p in ours.named_parameters() if ".gates." in n):
            gate.zero_()
    export_videomae(ours.encoder, tmp_path / "out", ours.decoder)
    theirs, told = VideoMAEForPreTraining.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    again, own = read_decoder(tmp_path / "out"), ours.decoder.state_dict()
    assert set(again) == {name for name in own if ".reading." not in name}
    assert all(torch.equal(value, own[name]) for name, value in again.items())
    clip = make_clip()
    clip.views["cam0"].frames = clip.views["cam0"].frames[:16]
    clip.views["cam0"].frame_rate = ours.config.frame_rate
    batch = ours.collate([clip], [3])
    hidden = torch.zeros(1, 32, dtype=torch.bool)
    hidden[0, batch.queries["video"]] = True
    frames = torch.from_numpy(clip.views["cam0"].frames).permute(0, 3, 1, 2) / 255
    frames = (frames - torch.tensor(IMAGE_MEAN)[:, None, None]) / torch.tensor(IMAGE_STD)[:, None, None]
    with torch.no_grad():
        loss = theirs.eval()(pixel_values=frames[None], bool_masked_pos=hidden).loss
        mine = ours(batch)["video"] / batch.counts["video"]
    assert abs(mine - loss) / loss < 1e-5
