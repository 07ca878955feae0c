"""Same function as the published VideoMAE, every parameter redrawn (default biases are zero and would hide mistakes)."""

import json
from pathlib import Path

import pytest
import torch
from clips_for_tests import make_clip, tiny_model
from safetensors.torch import load_file, save_file
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEModel
from videomae_for_tests import SIZES, difference, redraw

from configs import UserError
from pretrain.config import MaskConfig, ModelConfig, StreamConfig
from pretrain.encoder import Encoder
from pretrain.layouts import renamed
from pretrain.objective import MaskedAutoencoder
from pretrain.release import load_encoder
from pretrain.weights import initialise, initialise_decoder


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [VideoMAEModel, VideoMAEForPreTraining])
@pytest.mark.parametrize("mean_pooling", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tokens_equal_last_hidden_state(size, kind, mean_pooling, dtype, tmp_path):
    config = VideoMAEConfig(
        **SIZES[size], use_mean_pooling=mean_pooling, layer_norm_eps=1e-3 if mean_pooling else 1e-12
    )
    if kind is VideoMAEForPreTraining:
        config.decoder_hidden_size, config.decoder_num_attention_heads, config.decoder_num_hidden_layers = 48, 3, 1
    published = kind(config).eval()
    redraw(published)
    published.save_pretrained(tmp_path)
    height, width = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    frames = torch.randn(2, 16, 3, height, width, dtype=dtype)
    body = getattr(published, "videomae", published).to(dtype)
    with torch.no_grad():
        theirs = body(frames).last_hidden_state
        ours = load_encoder(tmp_path).to(dtype).encode(video=frames).tokens
    assert difference(ours, theirs) <= (1e-5 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("kind", [VideoMAEModel, VideoMAEForPreTraining])
@pytest.mark.parametrize("names", ["saved", "live"])
def test_a_folder_with_bin_gives_the_same_as_with_safetensors(kind, names, tmp_path):
    """pytorch_model.bin, as older versions of transformers wrote it; given as a folder or as the file in it."""
    config = VideoMAEConfig(
        **SIZES["tiny"], use_mean_pooling=False, decoder_hidden_size=48, decoder_num_hidden_layers=1
    )
    model = kind(config)
    redraw(model)
    model.save_pretrained(tmp_path)
    expected = load_encoder(tmp_path)
    weights = load_file(tmp_path / "model.safetensors") if names == "saved" else model.state_dict()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        got = load_encoder(path)
        assert got.config == expected.config
        parameters = {n: value for n, value in got.state_dict().items() if ".reading." not in n}
        assert all(torch.equal(value, expected.state_dict()[n]) for n, value in parameters.items())
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=r"pytorch_model\.bin: damaged"):
        load_encoder(tmp_path)
    file.unlink()
    with pytest.raises(UserError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        load_encoder(tmp_path)


def test_live_names_of_biases_are_read_too(tmp_path):
    model = VideoMAEModel(VideoMAEConfig(**SIZES["tiny"]))
    redraw(model)
    model.save_pretrained(tmp_path)
    saved, live = renamed(load_file(tmp_path / "model.safetensors")), renamed(model.state_dict())
    assert saved.keys() == live.keys()
    assert all(torch.equal(saved[name], live[name]) for name in saved)
    assert any("q_bias" in name for name in load_file(tmp_path / "model.safetensors"))
    assert not any("q_bias" in name for name in model.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masked_loss_equals_the_published_one(dtype, tmp_path):
    """Same mask, same decoder weights: the sum over targets divided by their count is VideoMAE's loss."""
    size = SIZES["tiny"]
    config = VideoMAEConfig(
        **size, use_mean_pooling=False, decoder_hidden_size=24, decoder_num_attention_heads=3,
        decoder_num_hidden_layers=2, decoder_intermediate_size=96,
    )  # fmt: skip
    published = VideoMAEForPreTraining(config)
    redraw(published)
    published = published.to(dtype).eval()
    model = ModelConfig(
        dim=48, layers=2, heads=3, mlp_dim=96, image_height=32, image_width=32, decoder_dim=24, decoder_layers=2,
        decoder_heads=3, layer_norm_eps=config.layer_norm_eps, streams={},
    )  # fmt: skip
    ours = MaskedAutoencoder(model, MaskConfig(video=0.75)).to(dtype).eval()
    published.save_pretrained(tmp_path)
    initialise(ours, load_encoder(tmp_path).to(dtype), tmp_path)
    initialise_decoder(ours, tmp_path)

    frames = torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8)
    from pretrain.clips import Clip, View

    clip = Clip("a", "a", 0.0, 1.28, [], {"main": View(frames=frames.numpy(), frame_rate=12.5)}, {}, {})
    batch = ours.collate([clip], [7])
    hidden = torch.zeros(1, 8 * 2 * 2, dtype=torch.bool)
    hidden[0, batch.queries["video"]] = True
    from pretrain.tokens import IMAGE_MEAN, IMAGE_STD

    pixels = frames.permute(0, 3, 1, 2).to(dtype) / 255 - torch.tensor(IMAGE_MEAN, dtype=dtype)[:, None, None]
    pixels = pixels / torch.tensor(IMAGE_STD, dtype=dtype)[:, None, None]
    with torch.no_grad():
        theirs = published(pixels[None], bool_masked_pos=hidden).loss
        mine = ours(batch)["video"] / batch.counts["video"]
    assert abs(mine - theirs) / theirs < (1e-5 if dtype == torch.float32 else 1e-9)


def test_a_decoder_of_other_sizes_starts_anew_and_is_told(tmp_path, capsys):
    published = VideoMAEForPreTraining(
        VideoMAEConfig(**SIZES["tiny"], decoder_hidden_size=48, decoder_num_hidden_layers=1)
    )
    published.save_pretrained(tmp_path)
    ours = MaskedAutoencoder(tiny_model(decoder_dim=24), MaskConfig())
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    initialise_decoder(ours, tmp_path)
    assert "48 wide and has 1 layers" in capsys.readouterr().out
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_a_decoder_of_other_targets_keeps_its_own_head(tmp_path):
    published = VideoMAEForPreTraining(
        VideoMAEConfig(
            **SIZES["tiny"], decoder_hidden_size=24, decoder_num_hidden_layers=1, decoder_num_attention_heads=3,
            decoder_intermediate_size=96,
        )
    )  # fmt: skip
    redraw(published)
    published.save_pretrained(tmp_path)
    ours = MaskedAutoencoder(tiny_model(), MaskConfig(target="motion"))
    head = ours.decoder.heads["video"].weight.clone()
    faces = ours.decoder.heads["face"].weight.clone()
    initialise_decoder(ours, tmp_path)
    assert torch.equal(ours.decoder.from_encoder.weight, published.encoder_to_decoder.weight)
    assert torch.equal(ours.decoder.heads["video"].weight, head)
    assert torch.equal(ours.decoder.heads["face"].weight, faces)


def test_a_misfit_is_named(tmp_path):
    model = VideoMAEModel(VideoMAEConfig(**SIZES["tiny"], use_mean_pooling=False))
    model.save_pretrained(tmp_path)
    ours = MaskedAutoencoder(
        ModelConfig(
            dim=48, layers=3, heads=3, mlp_dim=96, image_height=32, image_width=32, decoder_dim=24, layer_norm_eps=1e-12
        ),
        MaskConfig(),
    )
    with pytest.raises(UserError, match=r"model\.layers is 3 here and 2 there"):
        initialise(ours, load_encoder(tmp_path), tmp_path)


def test_initialise_fills_the_trunk_and_leaves_the_rest(tmp_path):
    published = VideoMAEModel(VideoMAEConfig(**SIZES["tiny"], use_mean_pooling=False))
    redraw(published)
    published.save_pretrained(tmp_path)
    ours = MaskedAutoencoder(
        ModelConfig(
            dim=48, layers=2, heads=3, mlp_dim=96, image_height=32, image_width=32, decoder_dim=24, layer_norm_eps=1e-12
        ),
        MaskConfig(),
    )
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    initialise(ours, load_encoder(tmp_path), tmp_path)
    changed = {name for name, value in ours.state_dict().items() if not torch.equal(value, before[name])}
    trunk = {n for n in before if n.startswith(("encoder.trunk.", "encoder.video.")) and ".reading." not in n}
    assert changed == trunk


def test_a_table_for_another_picture_is_asked_for(tmp_path):
    """A run at another size keeps the published places: recomputed for its own grid they would be others."""
    published = VideoMAEModel(VideoMAEConfig(**{**SIZES["tiny"], "image_size": 64}, use_mean_pooling=False))
    redraw(published)
    published.save_pretrained(tmp_path)
    sizes = {"dim": 48, "layers": 2, "heads": 3, "mlp_dim": 96, "decoder_dim": 24, "layer_norm_eps": 1e-12}
    sizes |= {"image_height": 32, "image_width": 32, "segment_frames": 32, "streams": {}}
    start = load_encoder(tmp_path)
    with pytest.raises(UserError, match=r"set model\.table to \[8, 4, 4\]"):
        initialise(MaskedAutoencoder(ModelConfig(**sizes), MaskConfig()), start, tmp_path)
    ours = MaskedAutoencoder(ModelConfig(**sizes, table=(8, 4, 4)), MaskConfig())
    initialise(ours, start, tmp_path)
    assert ours.encoder.video.base == ours.decoder.base == (8, 4, 4)
    frames = torch.randn(1, 16, 3, 32, 32)  # half a segment of this run: the first half of the published one's places
    assert torch.isfinite(ours.encoder.encode(video=frames).tokens).all()


def test_a_run_goes_on_from_a_release_and_a_new_stream_changes_nothing(capsys):
    """Gates, streams and their statistics come along; what the release does not know starts behind closed gates."""
    trained = Encoder(tiny_model(streams={n: s for n, s in tiny_model().streams.items() if n != "pose"})).eval()
    redraw(trained)
    for module in trained.streams.values():
        module.mean.normal_()
        module.std.uniform_(0.5, 2)
    ours = MaskedAutoencoder(tiny_model(), MaskConfig()).eval()
    initialise(ours, trained, Path("release"))
    clips = [make_clip("a", seed=1, views=2), make_clip("b", seed=2)]
    ours.fit_statistics(clips)  # measures the new stream alone
    assert torch.equal(ours.encoder.streams["face"].std, trained.streams["face"].std)
    assert not (ours.encoder.streams["pose"].std == 1).all()
    with torch.no_grad():
        theirs, mine = trained.encode_clips(clips), ours.encoder.encode_clips(clips)
    known = mine.modality < len(trained.modalities)
    assert not known.all()
    assert difference(mine.tokens[known], theirs.tokens) < 1e-5
    assert not capsys.readouterr().out

    fewer = MaskedAutoencoder(tiny_model(streams={"audio": tiny_model().streams["audio"]}), MaskConfig())
    initialise(fewer, trained, Path("release"))
    assert "reads no face" in capsys.readouterr().out
    other = tiny_model()
    other.streams["face"] = StreamConfig(features=478 * 3 + 52 + 9, cell_seconds=0.25, cells_per_token=4)
    with pytest.raises(UserError, match=r"model\.streams\.face"):
        initialise(MaskedAutoencoder(other, MaskConfig()), trained, Path("release"))


def test_a_foreign_parameter_stops(tmp_path):
    VideoMAEModel(VideoMAEConfig(**SIZES["tiny"])).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({**weights, "encoder.layer.0.lora": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="lora"):
        load_encoder(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "videomae"
