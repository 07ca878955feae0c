"""What is hidden, what is rebuilt, and that the loss is what it says."""

import numpy as np
import pytest
import torch
from clips_for_tests import make_clip, tiny_mask, tiny_model

from pretrain.config import MaskConfig
from pretrain.masking import decoded_tokens, hidden_tokens
from pretrain.objective import MaskedAutoencoder, pixel_targets
from pretrain.tokens import tokenize


def test_tubes_hide_the_same_places_through_a_segment():
    model = tiny_model(image_height=64, image_width=64)
    video = tokenize(make_clip(size=64), 0, model, ["video"])["video"]
    hidden = hidden_tokens("video", video, model, MaskConfig(video=0.875), np.random.default_rng(0))
    by_step = hidden.reshape(2, 8, 16)  # segment, step, place
    assert (by_step == by_step[:, :1]).all()
    assert (by_step[:, 0].sum(1) == 14).all()
    assert (by_step[0, 0] != by_step[1, 0]).any()


def test_spans_hide_the_asked_share_of_every_track():
    model = tiny_model()
    tokens = tokenize(make_clip(seconds=20.0, people=3), 0, model, ["face"])["face"]
    mask = MaskConfig(streams=0.6, span_seconds=2.0)
    hidden = hidden_tokens("face", tokens, model, mask, np.random.default_rng(1))
    lengths = []
    for person in range(3):
        track = hidden[tokens.person == person]
        assert track.sum() == round(0.6 * len(track))
        lengths += [len(run) for run in "".join("x" if h else " " for h in track).split()]
    assert np.mean(lengths) >= 3  # 4 tokens a span, cut where the share is reached or the clip ends


def test_a_track_of_one_token_stays_visible():
    model = tiny_model()
    tokens = tokenize(make_clip(seconds=0.5), 0, model, ["face"])["face"]
    assert not hidden_tokens("face", tokens, model, MaskConfig(streams=0.9), np.random.default_rng(0)).any()


def test_part_of_the_hidden_is_rebuilt():
    hidden = np.arange(100) % 2 == 0
    rows = decoded_tokens(hidden, 0.25, np.random.default_rng(0))
    assert len(rows) == 12
    assert hidden[rows].all()
    assert (np.diff(rows) > 0).all()


def test_the_mask_follows_from_the_seed_alone():
    model = MaskedAutoencoder(tiny_model(), tiny_mask())
    first, again, other = (model.collate([make_clip()], [seed]) for seed in (3, 3, 4))
    for name, rows in first.queries.items():
        assert torch.equal(rows, again.queries[name])
    assert any(not torch.equal(first.queries[name], other.queries[name]) for name in first.queries)


def test_the_encoder_sees_nothing_of_what_is_hidden():
    """Changing hidden contents changes the targets and no prediction."""
    torch.manual_seed(0)
    model = MaskedAutoencoder(tiny_model(), tiny_mask()).eval()
    model.fit_statistics([make_clip()])
    batch = model.collate([make_clip()], [0])
    with torch.no_grad():
        before = model.rebuild(batch)
        for name, part in batch.both.items():
            part.values[batch.queries[name]] = part.values[batch.queries[name]].flip(0)
        after = model.rebuild(batch)
    for name in before:
        torch.testing.assert_close(after[name], before[name])


def test_losses_add_up_over_batches_whatever_they_hold():
    torch.manual_seed(0)
    model = MaskedAutoencoder(tiny_model(), tiny_mask()).double()
    clips = [make_clip("a"), make_clip("b", seed=1, people=1, seconds=6.0)]
    clips[1].views["cam0"].audio = None
    model.fit_statistics(clips)
    together = model.collate(clips, [0, 1])
    apart = [model.collate([clip], [seed]) for seed, clip in enumerate(clips)]
    assert "audio" not in apart[1].counts
    losses = [model(batch) for batch in (together, *apart)]
    for name in model.config.modalities:
        torch.testing.assert_close(losses[0][name], losses[1][name] + losses[2][name])
        assert together.counts[name] == sum(batch.counts.get(name, 0) for batch in apart)
    assert losses[2]["audio"] == 0


def test_pixel_targets_have_mean_0_and_deviation_1():
    tubelets = torch.randint(0, 256, (5, 3 * 2 * 16 * 16), dtype=torch.uint8)
    targets = pixel_targets(tubelets, 1e-6).view(5, -1, 3)
    torch.testing.assert_close(targets.mean(1), torch.zeros(5, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(targets.std(1), torch.ones(5, 3), atol=1e-4, rtol=0)


def test_a_constant_tubelet_has_nothing_to_be_rebuilt():
    tubelets = torch.arange(256, dtype=torch.uint8)[:, None].expand(-1, 1536)
    assert not pixel_targets(tubelets, 1e-6).any()


def test_impossible_masks_are_refused():
    with pytest.raises(ValueError, match=r"mask\.video: 1\.0"):
        MaskConfig(video=1.0)


def test_the_pixel_floor_keeps_noise_on_a_plain_wall_small():
    """One grey level of noise is a target as large as any without the floor, and a small one with it, in the loss too."""
    clip = make_clip()
    clip.views["cam0"].frames[:] = 128 + clip.views["cam0"].frames % 2
    sizes = []
    for floor in (1e-6, 0.05):
        mask = MaskConfig(video=0.5, pixel_floor=floor)
        model = MaskedAutoencoder(tiny_model(), mask)
        targets, _, _ = model.targets("video", model.collate([clip], [0]))
        sizes.append(float(targets.std()))
    assert sizes[0] == pytest.approx(1, abs=0.01)
    assert sizes[1] < 0.06


def test_every_parameter_has_a_gradient_whatever_a_batch_lacks():
    """ZeRO reduces all of them on all ranks."""
    whole = make_clip()
    mute, faceless, blind = (make_clip() for _ in range(3))
    mute.views["cam0"].audio = None
    faceless.views["cam0"].face = faceless.views["cam0"].pose = faceless.views["cam0"].audio = None
    blind.views["cam0"].frames = None
    short = make_clip(seconds=2.0)
    short.views["cam0"].face = short.views["cam0"].pose = short.views["cam0"].audio = (
        None  # one segment: nothing is read
    )
    for clip in (whole, mute, faceless, blind, short):
        torch.manual_seed(0)
        model = MaskedAutoencoder(tiny_model(pooling="attention"), tiny_mask())
        sum(model(model.collate([clip], [0])).values()).backward()
        lacking = [name for name, p in model.named_parameters() if p.grad is None]
        assert not lacking
