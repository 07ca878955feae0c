"""The target "motion": what stands still is none, what moves is one by the scale of the data."""

import numpy as np
import pytest
import torch
from clips_for_tests import make_clip, tiny_model

from pretrain.clips import Clip
from pretrain.config import MaskConfig
from pretrain.motion import Motion, join_stills, still_of
from pretrain.objective import MaskedAutoencoder
from pretrain.tokens import tokenize

MODEL = tiny_model()


def half_still(seed: int = 0) -> Clip:
    """The left half of the picture stands still, with as much texture as the right half, which moves."""
    clip = make_clip(seed=seed)
    frames = clip.views["cam0"].frames
    assert frames is not None
    frames[:, :, :16] = frames[:1, :, :16]
    return clip


def fitted(clip: Clip) -> Motion:
    motion = Motion(MODEL)
    motion.fit([clip])
    return motion


def test_what_stands_still_is_no_target_and_has_no_weight():
    clip = half_still()
    video = tokenize(clip, 0, MODEL, ["video"])["video"]
    targets, weights = fitted(clip).targets("video", video, still_of(video, MODEL))
    assert weights is not None
    left = torch.from_numpy(video.place % 2 == 0)
    torch.testing.assert_close(targets[left], torch.zeros_like(targets[left]), atol=1e-5, rtol=0)
    assert weights[left].max() < 1e-9
    assert weights[~left].min() > 0.5  # it moves more than the picture does on average
    assert weights.max() < 1
    assert targets.square().mean() == pytest.approx(1, rel=1e-3)


def test_motion_is_the_same_before_any_wall():
    clip, other = half_still(), half_still()
    for view in (clip.views["cam0"], other.views["cam0"]):
        assert view.frames is not None
        view.frames //= 2
    wall = np.random.default_rng(1).integers(0, 128, (1, 32, 32, 3), dtype=np.uint8)
    other.views["cam0"].frames += wall
    motion = fitted(clip)
    parts = [tokenize(c, 0, MODEL, ["video"])["video"] for c in (clip, other)]
    ours, theirs = (motion.targets("video", part, still_of(part, MODEL)) for part in parts)
    assert not torch.equal(parts[0].values, parts[1].values)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODEL.modalities)
def test_targets_lead_back_to_the_contents(name):
    clip = make_clip(views=2)
    motion = fitted(clip)
    part = tokenize(clip, 0, MODEL, [name])[name]
    still = still_of(part, MODEL)
    targets, _ = motion.targets(name, part, still)
    contents = part.values / 255 if name == "video" else part.values
    back = motion.undo(name, targets, still)
    there = torch.ones_like(back, dtype=torch.bool) if part.valid is None else part.valid[..., None].expand_as(back)
    torch.testing.assert_close(back[there], contents[there], atol=1e-5, rtol=1e-5)
    if part.valid is not None:
        assert targets.view_as(part.values)[part.valid].square().mean() == pytest.approx(1, abs=0.05)


def test_each_person_has_a_mean_of_its_own_without_absent_cells():
    clip = make_clip(people=2)
    face = clip.views["cam0"].face
    assert face is not None
    face["blendshapes"][face["person"] == 1] += 5
    part = tokenize(clip, 0, MODEL, ["face"])["face"]
    assert part.valid is not None
    part.valid[0, 1:] = False
    part.values[0, 1:] = 1e6
    means = still_of(part, MODEL).of()[:, 0, 478 * 3 : 478 * 3 + 52].mean(1).numpy()
    np.testing.assert_allclose(means[part.person == 0], 0.5, atol=0.05)
    np.testing.assert_allclose(means[part.person == 1], 5.5, atol=0.05)


def test_stills_of_a_batch_are_those_of_its_clips():
    parts = [tokenize(half_still(seed), seed, MODEL, ["video"])["video"] for seed in (0, 1)]
    stills = [still_of(part, MODEL).take(torch.arange(3, 9)) for part in parts]
    torch.testing.assert_close(join_stills(stills).of(), torch.cat([still.of() for still in stills]))


def test_scales_are_measured_and_kept_with_the_weights():
    model = MaskedAutoencoder(MODEL, MaskConfig(video=0.5, target="motion"))
    model.fit_statistics([half_still()])
    saved = model.state_dict()
    assert saved["motion.video"].min() > 0.1
    again = MaskedAutoencoder(MODEL, MaskConfig(video=0.5, target="motion"))
    again.load_state_dict(saved)
    assert torch.equal(again.state_dict()["motion.stream_face"], saved["motion.stream_face"])
    assert not [name for name in MaskedAutoencoder(MODEL, MaskConfig()).state_dict() if name.startswith("motion")]


def test_losses_of_motion_add_up_over_batches():
    torch.manual_seed(0)
    model = MaskedAutoencoder(MODEL, MaskConfig(video=0.5, target="motion")).double()
    clips = [half_still(0), half_still(1)]
    model.fit_statistics(clips)
    together, *apart = [
        model(model.collate(some, seeds)) for some, seeds in ((clips, [0, 1]), (clips[:1], [0]), (clips[1:], [1]))
    ]
    for name in MODEL.modalities:
        torch.testing.assert_close(together[name], apart[0][name] + apart[1][name])
