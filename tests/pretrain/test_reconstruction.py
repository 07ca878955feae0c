"""Pictures of what was hidden and rebuilt: the visible part must be the clip itself."""

import numpy as np
import torch
from clips_for_tests import make_clip, tiny_mask, tiny_model

from pretrain.objective import MaskedAutoencoder
from pretrain.reconstruction import reconstruct


def test_visible_parts_are_the_clip_and_hidden_parts_are_not():
    torch.manual_seed(0)
    clip = make_clip(views=2)
    model = MaskedAutoencoder(tiny_model(), tiny_mask())
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
