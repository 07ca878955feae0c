"""Pictures of what was hidden and rebuilt: the visible part must be the clip itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from clips_for_tests import make_clip, tiny_mask, tiny_model
from PIL import Image

from pretrain.config import KINDS
from pretrain.objective import MaskedAutoencoder
from pretrain.pictures import draw_reconstructions
from pretrain.reconstruction import reconstruct


@pytest.mark.parametrize("target", ["pixels", "motion"])
def test_visible_parts_are_the_clip_and_hidden_parts_are_not(target):
    torch.manual_seed(0)
    clip = make_clip(views=2)
    model = MaskedAutoencoder(tiny_model(), replace(tiny_mask(), target=target))
    model.mask.decoded = 0.25
    model.fit_statistics([clip])
    shown = reconstruct(model, clip, 0)
    assert set(shown) == {"video", "audio", "face", "pose"}
    video = shown["video"]
    np.testing.assert_allclose(video.original, clip.views["cam0"].frames / 255, atol=1e-6)
    assert 0.3 < video.hidden.mean() < 0.7
    np.testing.assert_array_equal(video.rebuilt[~video.hidden], video.original[~video.hidden])
    assert np.abs(video.rebuilt - video.original)[video.hidden].mean() > 0.01
    for name in ("audio", "face", "pose"):
        stream = shown[name]
        assert stream.original.shape[1] == model.config.streams[name].features
        assert 0 < stream.hidden.mean() < 1
        np.testing.assert_array_equal(stream.rebuilt[~stream.hidden], stream.original[~stream.hidden])
        assert np.nanmean(np.abs(stream.rebuilt - stream.original)[stream.hidden]) > 0
    assert model.mask.decoded == 0.25


@pytest.mark.parametrize("kind", KINDS[1:])
def test_each_kind_shows_what_it_hid(kind):
    torch.manual_seed(0)
    clip = make_clip(people=2, seconds=8.0)
    model = MaskedAutoencoder(tiny_model(), tiny_mask())
    model.fit_statistics([clip])
    shown = reconstruct(model, clip, 1, kind)
    assert len(shown) == 1 if kind == "stream" else set(shown) >= {"video", "face", "pose"}
    for part in shown.values():
        hidden, seen = part.hidden, ~part.hidden
        assert hidden.any()
        np.testing.assert_array_equal(part.rebuilt[seen], part.original[seen])
        nothing = np.isnan(part.rebuilt[hidden]) & ~np.isnan(part.original[hidden])
        assert not nothing.all()
        assert nothing.any() <= (kind == "future")  # only there something is neither seen nor asked for
    assert model.mask.kinds == {"random": 1.0}


def test_a_clip_that_cannot_carry_a_kind_shows_nothing_of_it():
    model = MaskedAutoencoder(tiny_model(), tiny_mask())
    assert reconstruct(model, make_clip(people=1), 0, "partner") == {}


def test_the_grid_has_a_panel_for_each_kind_and_modality(tmp_path):
    """All panels are equally high, so that the picture's height tells their number."""
    torch.manual_seed(0)
    clip = make_clip(seconds=8.0)
    streams = {name: stream for name, stream in tiny_model().streams.items() if name != "face"}
    heights = []
    for kinds in (("random",), KINDS):
        mask = replace(tiny_mask(), kinds=dict.fromkeys(kinds, 1.0))
        model = MaskedAutoencoder(tiny_model(streams=streams), mask)
        model.fit_statistics([clip])
        clip.views["cam0"].frames = None
        draw_reconstructions(model, [clip], [1], tmp_path)
        with Image.open(tmp_path / "reconstructions.png") as picture:
            heights.append(picture.height)
        panels = [len(reconstruct(model, clip, 1, kind)) for kind in kinds]
        assert min(panels) > 0
    assert heights[1] / heights[0] == sum(panels) / panels[0] > 2
