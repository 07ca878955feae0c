"""Hands as a stream: left and right of a person in one vector, and a hand that is not seen is nowhere, not at the origin."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from clips_for_tests import HANDS, make_clip, tiny_mask, tiny_model, with_hands
from test_clips import sample

from data_prep.shards import encode_npz
from finetune.features import readable
from pretrain.clips import Clip, read_clip
from pretrain.config import KINDS, MaskConfig, ModelConfig, StreamConfig
from pretrain.encoder import Encoder
from pretrain.masking import draw_mask
from pretrain.objective import MaskedAutoencoder
from pretrain.pictures import draw_reconstructions
from pretrain.stream import holds_something
from pretrain.stream_vectors import person_cells
from pretrain.tokens import StreamTokenizer, tokenize

MODEL = tiny_model(streams=tiny_model().streams | {"hands": HANDS})
LEFT, RIGHT, SEEN = slice(0, 63), slice(63, 126), slice(126, 128)


def rows(*seen: tuple[float, int, float, float], person: int = 0) -> dict[str, np.ndarray]:
    """Hands of one person: (time, side, x of the wrist, score) each, all of one shape: a palm of 0.1 that points up."""
    shape = np.random.default_rng(0).normal(0, 0.03, (21, 3))
    shape[0], shape[9] = 0, (0, -0.1, 0)
    times = np.unique([hand[0] for hand in seen])
    return {
        "times": times,
        "window": np.searchsorted(times, [hand[0] for hand in seen]),
        "person": np.full(len(seen), person),
        "handedness": np.array([hand[1] for hand in seen], np.int8),
        "keypoints": np.stack([shape + np.array([hand[2], 0.5, 0]) for hand in seen]),
        "score": np.array([hand[3] for hand in seen]),
    }


def vectors(given: dict[str, np.ndarray], aspect: float = 1.0) -> np.ndarray:
    ((_, found, _),) = person_cells("hands", given, 0.125, aspect)
    return found


def test_hands_are_told_by_their_shape_and_place_in_palms():
    given = rows((0.0, 0, 0.2, 1), (0.0, 1, 0.6, 1), (0.125, 0, 0.3, 1), (0.125, 1, 0.7, 1))
    found = vectors(given)
    assert found.shape == (2, 128)
    left, right = (found[:, part].reshape(2, 21, 3) for part in (LEFT, RIGHT))
    np.testing.assert_allclose(left[:, 1:], right[:, 1:], atol=1e-6)
    np.testing.assert_allclose(left[:, 9], [[0, -1, 0]] * 2, atol=1e-6)  # a palm is 1
    np.testing.assert_allclose(left[:, 0], [[-2, 0, 0], [-1.5, 0, 0]], atol=1e-5)  # from where both were lately
    np.testing.assert_allclose(right[:, 0], [[2, 0, 0], [2.5, 0, 0]], atol=1e-5)
    assert (found[:, SEEN] == 1).all()
    wide = vectors(given, aspect=2.0)[:, LEFT].reshape(2, 21, 3)
    np.testing.assert_allclose(wide, left * [2, 1, 2], atol=1e-5)
    given["keypoints"] += [0.1, 0.1, 0]
    np.testing.assert_allclose(vectors(given), found, atol=1e-5)  # the seat in the picture is not told


def test_a_hand_that_is_not_seen_is_absent_and_the_surest_counts():
    found = vectors(rows((0.0, 1, 0.9, 0.6), (0.0, 1, 0.2, 0.9), (0.0, 1, 0.8, 0.7), (0.125, 0, 0.2, 1)))
    assert np.isnan(found[0, LEFT]).all()
    assert np.isnan(found[1, RIGHT]).all()
    np.testing.assert_allclose(found[0, RIGHT][:3], 0, atol=1e-6)  # it alone is where the hands were lately
    np.testing.assert_array_equal(found[:, SEEN], [[0, 1], [1, 0]])
    assert not np.isnan(found[:, SEEN]).any()
    nobody = {name: values[:0] for name, values in rows((0.0, 0, 0.5, 1)).items()}
    assert list(person_cells("hands", nobody, 0.125, 1.0)) == []


def test_rows_may_lie_in_any_order():
    given = with_hands(make_clip(people=1)).views["cam0"].hands
    assert given is not None
    turned = {name: values if name == "times" else values[::-1] for name, values in given.items()}
    np.testing.assert_array_equal(vectors(turned), vectors(given))


def only_left(clip: Clip) -> Clip:
    for view in clip.views.values():
        assert view.hands is not None
        mine = view.hands["handedness"] == 0
        view.hands = {name: v if name == "times" else v[mine] for name, v in view.hands.items()}
    return clip


def test_absent_hands_are_the_average_with_a_flag_and_no_measure():
    model = MaskedAutoencoder(MODEL, tiny_mask())
    both, left = with_hands(make_clip(), 1), only_left(with_hands(make_clip(), 1))
    model.fit_statistics([left])
    tokenizer = model.encoder.tokenizer("hands")
    assert isinstance(tokenizer, StreamTokenizer)
    assert not tokenizer.mean[RIGHT].any()
    assert (tokenizer.std[RIGHT] == 1).all()  # never seen
    model.encoder.streams["hands"].std.fill_(1)
    model.fit_statistics([both])
    part = tokenize(both, 0, MODEL, ["hands"])["hands"]
    assert part.valid is not None
    found = part.values[part.valid].double()
    there = ~found.isnan()
    assert 0.5 < there.double().mean() < 0.8
    mean = torch.where(there, found, 0).sum(0) / there.sum(0)
    torch.testing.assert_close(tokenizer.mean.double(), mean, rtol=1e-4, atol=1e-5)
    standardised = tokenizer.standardised(part)
    assert standardised.isfinite().all()
    assert not standardised[~part.there()].any()
    filled = copy.deepcopy(part)
    filled.values = torch.where(part.values.isnan(), tokenizer.mean, part.values)
    torch.testing.assert_close(tokenizer(filled), tokenizer(part), atol=1e-5, rtol=1e-5)  # all but the flag
    filled.values[..., SEEN] = 1
    assert (tokenizer(filled) - tokenizer(part)).abs().max() > 1e-2  # which tells them apart


@pytest.mark.parametrize("target", ["pixels", "motion"])
def test_an_absent_hand_is_no_target(target, tmp_path):
    torch.manual_seed(0)
    mask = MaskConfig(video=0.5, target=target, kinds=dict.fromkeys(KINDS, 1.0))
    model = MaskedAutoencoder(MODEL, mask)
    clips = [with_hands(make_clip(str(seed), seed=seed, views=2), seed) for seed in range(6)]
    model.fit_statistics(clips)
    batch = model.collate(clips, list(range(6)))
    values, valid, _ = model.targets("hands", batch)
    rows = batch.queries["hands"]
    assert valid is not None
    torch.testing.assert_close(valid, batch.both["hands"].there()[rows].flatten(1))
    assert values.isfinite().all()
    assert values[valid].square().mean() == pytest.approx(1, abs=0.2)
    assert not values[~valid].any()
    losses = model(batch)
    torch.stack(list(losses.values())).sum().backward()
    assert losses["hands"] > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    draw_reconstructions(model, clips[:1], [0], tmp_path)


def test_absent_hands_change_no_mean_of_motion():
    model = MaskedAutoencoder(MODEL, MaskConfig(target="motion"))
    assert model.motion is not None
    model.fit_statistics([only_left(with_hands(make_clip()))])
    scale = model.motion.scale("hands")
    assert (scale[RIGHT] == 1).all()
    assert scale[LEFT].min() > 0
    model.fit_statistics([with_hands(make_clip())])
    assert (model.motion.scale("hands")[RIGHT] != 1).all()


@pytest.mark.parametrize("wearer", [False, True])
def test_hands_hide_with_the_partner(wearer):
    """Stream and pixels; of the wearer of a camera nothing but the hands is known."""
    model = tiny_model(streams=MODEL.streams, image_height=64, image_width=64)
    hidden = 0
    for seed in range(10):
        clip = make_clip(seed=seed, size=64)
        view = clip.views["cam0"]
        assert view.pose is not None
        assert view.face is not None
        for people in (view.pose, view.face) if wearer else ():
            mine = people["person"] == 0
            people.update({name: v[mine] for name, v in people.items() if name != "times"})
        view.pose["keypoints"][..., :2] = view.pose["keypoints"][..., :2] * 0.2 + 0.75  # away in a corner
        view.face["box"][:] = [0.8, 0.76, 0.9, 0.85]
        view.hands = rows(*((t / 8, t % 2, 0.1, 1) for t in range(32)), person=1)
        view.hands["keypoints"][..., 1] -= 0.2
        tokens = tokenize(clip, 0, model, model.modalities)
        mask = MaskConfig(video=0.1, kinds={"partner": 1.0}, partner_seconds=(1.5, 3.0))
        drawn = draw_mask(clip, tokens, model, mask, seed)
        told = drawn.rebuilt["hands"] == KINDS.index("partner")
        if told.any():
            hidden += 1
            times = tokens["hands"].time[told]
            video = tokens["video"]
            inside = (video.time > times.min() + 0.25) & (video.time < times.max() - 0.25)
            shows = inside & np.isin(video.place, [0, 4])  # of 4 x 4 cells, where the hands are
            assert shows.any()
            assert (drawn.rebuilt["video"][shows] == KINDS.index("partner")).all()
    assert hidden > 2


def test_people_with_hands_are_exchangeable():
    torch.manual_seed(0)
    encoder = Encoder(MODEL).eval()
    for name, parameter in encoder.named_parameters():
        if ".gates." in name:
            torch.nn.init.normal_(parameter)
    clip = with_hands(make_clip())
    other = copy.deepcopy(clip)
    for stream in other.views["cam0"].detections().values():
        stream["person"] = 7 - stream["person"]
    with torch.no_grad():
        base, renumbered = encoder.encode_clips([clip]), encoder.encode_clips([other])
    assert (base.modality == MODEL.modalities.index("hands")).sum() == 16
    for person in (0, 1):
        ours, theirs = base.tokens[base.person == person], renumbered.tokens[renumbered.person == 7 - person]
        torch.testing.assert_close(ours, theirs)


def test_hands_come_from_a_shard_and_through_encode():
    given = with_hands(make_clip()).views["cam0"].hands
    assert given is not None
    shard = sample(**{"cam_hands.npz": encode_npz(given)})
    clip = read_clip(shard, ["hands"])
    assert read_clip(shard, ["face", "pose"]).views["cam"].hands is None
    assert holds_something(clip)
    assert readable(clip, ["hands"])
    assert not readable(clip, ["face", "pose", "video"])
    torch.manual_seed(0)
    encoder = Encoder(MODEL).eval()
    with torch.no_grad():
        expected, found = encoder.encode_clips([clip]), encoder.encode(hands=[given])
    assert len(expected.tokens) == 16
    torch.testing.assert_close(found.tokens[0], expected.tokens)
    assert (found.modality == MODEL.modalities.index("hands")).all()
    clip.views["cam"].hands = {name: values[:0] for name, values in given.items()} | {"times": given["times"]}
    assert not holds_something(clip)
    assert not readable(clip, ["hands"])


@pytest.mark.parametrize("name", ["face", "pose", "hands"])
def test_a_wrong_number_of_features_is_told_before_anything_is_read(name):
    with pytest.raises(ValueError, match=rf"streams\.{name}\.features: 64, but a cell of {name} has \d+ numbers"):
        ModelConfig(streams={name: StreamConfig(64, 0.125, 4)})
