"""What streams, views, people and segments may and may not change."""

import copy

import numpy as np
import pytest
import torch
from clips_for_tests import make_clip, tiny_mask, tiny_model

from pretrain import trunk
from pretrain.attention import packed_attention
from pretrain.config import KINDS, MaskConfig, OptimizerConfig
from pretrain.encoder import Encoder
from pretrain.objective import MaskedAutoencoder
from pretrain.tokens import speaker


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(tiny_model()).double().eval()


def open_gates(encoder: Encoder) -> Encoder:
    for name, parameter in encoder.named_parameters():
        if ".gates." in name:
            torch.nn.init.normal_(parameter, 0, 0.5)
    return encoder


def video_of(encoder, clip, view=0):
    with torch.no_grad():
        out = encoder.encode_clips([clip])
    return out.tokens[(out.modality == 0) & (out.view == view)]


def test_at_step_0_a_segments_video_tokens_are_those_of_the_segment_alone(encoder):
    clip = make_clip(views=2)
    everything = video_of(encoder, clip)
    for segment in range(2):
        alone = copy.deepcopy(clip)
        view = alone.views["cam0"]
        view.frames = view.frames[16 * segment : 16 * segment + 16]
        alone.views = {"cam0": view}
        with torch.no_grad():
            expected = encoder.encode_clips([alone], ["video"]).tokens
        got = everything[32 * segment : 32 * segment + 32]
        assert (got - expected).abs().max() / expected.abs().max() < 1e-9
    with torch.no_grad():
        opened = video_of(open_gates(encoder), clip)
    assert (opened - everything).abs().max() > 1e-3


def test_a_closed_gate_costs_nothing_without_gradients_and_changes_nothing(encoder, monkeypatch):
    calls, of_keys, keys = [], [], trunk.GatedReading.keys
    monkeypatch.setattr(trunk, "packed_attention", lambda *args: (calls.append(1), packed_attention(*args))[1])
    monkeypatch.setattr(trunk.GatedReading, "keys", lambda *args: (of_keys.append(1), keys(*args))[1])
    counts = []
    for opened in ("none", "audio_scene", "all"):
        for name, parameter in encoder.named_parameters():
            if ".gates." in name and opened in {"all", name.rpartition(".")[2]}:
                torch.nn.init.constant_(parameter, 0.5)
        tokens = []
        for grad in (True, False):
            calls.clear(), of_keys.clear()
            with torch.set_grad_enabled(grad):
                tokens.append(encoder.encode_clips([make_clip(views=2)]).tokens.detach())
            counts.append(len(calls))
            assert len(of_keys) == (0 if opened == "none" and not grad else encoder.config.layers)
        assert torch.equal(*tokens)
    layers = encoder.config.layers
    assert counts[::2] == [counts[0]] * 3
    assert counts[1::2] == [layers, 2 * layers, counts[0]]


def test_gates_have_a_gradient_at_step_0():
    torch.manual_seed(0)
    model = MaskedAutoencoder(tiny_model(), tiny_mask())
    model.fit_statistics([make_clip()])
    losses = model(model.collate([make_clip(), make_clip("b", seed=1)], [0, 1]))
    sum(losses.values()).backward()
    read = {
        "video_scene",
        "audio_scene",
        "face_scene",
        "face_same",
        "face_other",
        "pose_scene",
        "pose_same",
        "pose_other",
    }
    for layer, block in enumerate(model.encoder.trunk.blocks):
        for name in read:
            gate = block.reading.gates[name]
            assert gate.grad is not None, (layer, name)
            assert gate.grad.abs().min() > 0, (layer, name)
            assert not gate.detach().any()


def test_after_training_shuffling_a_stream_changes_the_output():
    torch.manual_seed(0)
    model = MaskedAutoencoder(tiny_model(), tiny_mask())
    clips = [make_clip(str(n), seed=n) for n in range(4)]
    model.fit_statistics(clips)
    optimizer = torch.optim.AdamW(model.parameter_groups(OptimizerConfig(lr=1e-3, weight_decay=0.0, gate_lr=1e-2)))
    for step in range(3):
        batch = model.collate(clips, [step] * 4)
        loss = sum(total / batch.counts[name] for name, total in model(batch).items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    before = video_of(model.encoder, clips[0])
    for stream in ("audio", "face", "pose"):
        shuffled = copy.deepcopy(clips[0])
        setattr(shuffled.views["cam0"], stream, getattr(clips[1].views["cam0"], stream))
        assert (video_of(model.encoder, shuffled) - before).abs().max() > 1e-4, stream
    closed = copy.deepcopy(model.encoder)
    for name, parameter in closed.named_parameters():
        if ".gates." in name:
            torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        alone = closed.encode_clips([clips[0]], ["video"]).tokens
    torch.testing.assert_close(video_of(closed, clips[0]), alone)


def test_people_are_exchangeable_but_tracks_are_not(encoder):
    open_gates(encoder)
    clip = make_clip()
    renumbered, reordered, exchanged = (copy.deepcopy(clip) for _ in range(3))
    for stream in ("face", "pose"):
        rows = getattr(renumbered.views["cam0"], stream)
        rows["person"] = 1 - rows["person"]
        rows = getattr(reordered.views["cam0"], stream)
        for name, values in rows.items():
            if name != "times":
                rows[name] = values[::-1].copy()
        rows = getattr(exchanged.views["cam0"], stream)
        late = rows["window"] >= 16
        rows["person"] = np.where(late, 1 - rows["person"], rows["person"])
    with torch.no_grad():
        base, new_ids = encoder.encode_clips([clip]), encoder.encode_clips([renumbered])
    video = base.modality == 0
    torch.testing.assert_close(new_ids.tokens[video], base.tokens[video])
    for person in (0, 1):
        torch.testing.assert_close(new_ids.tokens[new_ids.person == 1 - person], base.tokens[base.person == person])
    torch.testing.assert_close(encoder.encode_clips([reordered]).tokens, base.tokens)
    changed = encoder.encode_clips([exchanged]).tokens
    early = base.time < 2
    assert (changed - base.tokens)[early & (base.person >= 0)].abs().max() > 1e-3


def test_exchanging_two_voices_changes_who_is_heard(encoder):
    open_gates(encoder)
    clip = make_clip()
    view = clip.views["cam0"]
    view.audio = np.concatenate([view.audio, view.audio[:, ::-1]])
    clip.meta = {
        "speech": [
            {"view": "cam0", "channel": person, "start": 0.0, "end": 4.0, "person": person, "confidence": 1.0}
            for person in (0, 1)
        ]
    }
    exchanged, unknown = copy.deepcopy(clip), copy.deepcopy(clip)
    exchanged.views["cam0"].audio = view.audio[::-1].copy()
    outputs = []
    for one in (clip, exchanged):
        with torch.no_grad():
            outputs.append(encoder.encode_clips([one]))
    base, other = outputs
    faces = base.modality == encoder.modalities.index("face")
    assert (base.tokens - other.tokens)[faces].abs().max() > 1e-3
    assert set(base.person[base.modality == 1].tolist()) == {0, 1}
    unknown.meta = {}
    with torch.no_grad():
        assert set(encoder.encode_clips([unknown], ["audio"]).person.tolist()) == {-1}


def test_exchanging_two_voices_in_one_channel_changes_who_is_heard(encoder):
    """One microphone that hears both, by turns: the sound is the same, only who speaks when is exchanged."""
    open_gates(encoder)
    outputs = []
    for first in (0, 1):
        clip = make_clip()
        clip.meta["speech"] = [
            {"view": "cam0", "channel": 0, "start": 2.0 * turn, "end": 2.0 * turn + 2, "person": (first + turn) % 2}
            for turn in (0, 1)
        ]
        with torch.no_grad():
            outputs.append(encoder.encode_clips([clip]))
    base, other = outputs
    for name in ("face", "pose"):
        rows = base.modality == encoder.modalities.index(name)
        assert (base.tokens - other.tokens)[rows].abs().amax(1).min() > 1e-4, name


def test_the_order_of_views_permutes_the_outputs(encoder):
    open_gates(encoder)
    clip, turned = make_clip(views=2), make_clip(views=2)
    turned.views = dict(reversed(turned.views.items()))
    with torch.no_grad():
        base, other = encoder.encode_clips([clip]), encoder.encode_clips([turned])
    for view in (0, 1):
        torch.testing.assert_close(other.tokens[other.view == 1 - view], base.tokens[base.view == view])
    clip.views["cam1"].frames[:] = 0  # and a view is read by the other one
    assert (video_of(encoder, clip) - base.tokens[(base.modality == 0) & (base.view == 0)]).abs().max() > 1e-4


def test_streams_do_not_tell_the_seat(encoder):
    """Face and pose are the same wherever in the picture a person sits; what moves is seen."""
    clip, moved, moving = (make_clip() for _ in range(3))
    for one, shift in ((moved, 0.1), (moving, None)):
        face, pose = one.views["cam0"].face, one.views["cam0"].pose
        for rows in (face, pose):
            by = shift or 0.1 * rows["window"] / 32
            for name, columns in (("landmarks", 2), ("keypoints", 2), ("box", 4)):
                if name in rows:
                    mine = rows[name][..., :columns]
                    mine += np.reshape(by, (-1, *[1] * (mine.ndim - 1)))
        face["head"][:, :3, 3] += 30.0 * (shift or 0)
    with torch.no_grad():
        base, same, other = (encoder.encode_clips([one], ["face", "pose"]).tokens for one in (clip, moved, moving))
    assert (same - base).abs().max() < 1e-4
    assert (other - base).abs().max() > 1e-2


def test_landmarks_alone_can_be_fractions_of_a_wide_picture(encoder):
    clip = make_clip()
    clip.views["cam0"].aspect = 2.0
    given = {name: [getattr(clip.views["cam0"], name)] for name in ("face", "pose")}
    with torch.no_grad():
        expected = encoder.encode_clips([clip], ["face", "pose"]).tokens
        wide, square = (encoder.encode(**given, aspect=aspect).tokens[0] for aspect in (2.0, None))
    torch.testing.assert_close(wide, expected)
    assert (square - expected).abs().max() > 1e-3


@pytest.mark.parametrize("causal", [True, False])
def test_a_token_reads_as_far_as_the_receptive_field_and_no_farther(causal):
    """Two layers of one chunk each: what changes in one chunk of 2 s changes two chunks on either side, or after it."""
    torch.manual_seed(0)
    encoder = open_gates(Encoder(tiny_model(causal=causal))).double().eval()
    clip, changed = make_clip(seconds=16.0), make_clip(seconds=16.0)
    changed.views["cam0"].frames[64:80] = 0
    with torch.no_grad():
        base, other = encoder.encode_clips([clip]), encoder.encode_clips([changed])
    far = (base.tokens - other.tokens).abs().amax(1) > 1e-12
    before, after = encoder.config.context_seconds
    assert (before, after) == (4.0, 0.0 if causal else 4.0)
    for name in range(len(encoder.modalities)):
        rows = base.modality == name
        chunks = set((base.time[rows & far] // 2).int().tolist())
        assert chunks == set(range(4 - int(after) // 2, 4 + int(before) // 2 + 1)), encoder.modalities[name]


def test_time_is_relative(encoder):
    """The same clip 6 s later in its recording: the same features, in float64."""
    open_gates(encoder)
    clip, later = make_clip(views=2), make_clip(views=2)
    for view in later.views.values():
        view.frame_start = view.audio_start = 6.0
        view.face["times"], view.pose["times"] = view.face["times"] + 6, view.pose["times"] + 6
    with torch.no_grad():
        base, other = encoder.encode_clips([clip]), encoder.encode_clips([later])
    torch.testing.assert_close(other.time, base.time + 6)
    assert (other.tokens - base.tokens).abs().max() / base.tokens.abs().max() < 1e-9


def test_a_chunk_of_sound_is_whose_who_speaks_most_of_it():
    said = [{"start": 0.0, "end": 1.0, "person": 3}, {"start": 1.0, "end": 1.6, "person": 5}]
    assert [speaker(said, chunk, 2.0) for chunk in (0, 1)] == [3, -1]
    assert speaker([*said, {"start": 1.0, "end": 2.0, "person": None}], 0, 2.0) == -1


def test_a_clip_is_the_same_alone_and_in_a_batch(encoder):
    open_gates(encoder)
    clips = [make_clip("a", people=2), make_clip("b", seed=1, people=3, seconds=6.0), make_clip("c", seed=2, views=2)]
    del clips[1].views["cam0"].audio
    clips[1].views["cam0"].audio = None
    with torch.no_grad():
        together = encoder.encode_clips(clips)
        for number, clip in enumerate(clips):
            alone = encoder.encode_clips([clip])
            torch.testing.assert_close(together.tokens[together.clip == number], alone.tokens)


def test_a_missing_stream_person_or_picture_needs_no_padding(encoder):
    clip = make_clip()
    whole = len(encoder.encode_clips([clip]).tokens)
    assert len(encoder.encode_clips([make_clip(people=1)]).tokens) == whole - 2 * 8
    assert len(encoder.encode_clips([make_clip(views=2)]).tokens) == 2 * whole
    clip.views["cam0"].face = None
    assert len(encoder.encode_clips([clip]).tokens) == whole - 2 * 8
    clip.views["cam0"].frames = None
    assert len(encoder.encode_clips([clip]).tokens) == whole - 2 * 8 - 64
    clip.views["cam0"].audio = None
    clip.views["cam0"].pose = {name: rows[:0] for name, rows in clip.views["cam0"].pose.items()}
    with pytest.raises(ValueError, match="holds no stream"):
        encoder.encode_clips([clip])


def test_encode_names_what_does_not_fit(encoder):
    with pytest.raises(ValueError, match="sides that 16 divides"):
        encoder.encode(video=torch.zeros(1, 16, 3, 30, 32))
    with pytest.raises(ValueError, match="reads no stream 'gaze'"):
        encoder.encode(gaze=[{}])
    with pytest.raises(ValueError, match="different numbers of clips"):
        encoder.encode(video=torch.zeros(2, 16, 3, 32, 32), audio=torch.zeros(1, 16000))


def test_encode_puts_video_first_in_order_and_fills_up_shorter_clips(encoder):
    clip = make_clip()
    view = clip.views["cam0"]
    faces = [view.face, {name: rows[: 16 if name == "times" else 32] for name, rows in view.face.items()}]
    out = encoder.encode(video=torch.randn(2, 32, 3, 32, 32, dtype=torch.float64), face=faces)
    assert out.tokens.shape == (2, 64 + 2 * 8, 48)
    assert out.modality[1].tolist() == [0] * 64 + [2] * 8 + [-1] * 8
    assert torch.equal(out.time[0, :64], torch.arange(16).repeat_interleave(4) * 0.25 + 0.125)


def test_other_picture_shapes_keep_places(encoder):
    """A place's code on another grid is nearest to the same place's on the base grid."""
    from pretrain.tokens import position_table

    base, grid, dim = (8, 14, 14), (8, 14, 25), 384
    coarse, fine = position_table(base, base, dim), position_table(base, grid, dim)
    cell = torch.cdist(fine, coarse).argmin(1)
    t, y, x = torch.meshgrid(*[torch.arange(n) for n in grid], indexing="ij")
    expected = torch.stack([t, y, (x + 0.5) * 14 / 25 - 0.5], -1).view(-1, 3)
    found = torch.stack([cell // 196, cell // 14 % 14, cell % 14], -1)
    assert (found - expected).abs().max() < 1


def test_numbers_stay_finite_on_silence_and_constant_pictures(encoder):
    clip = make_clip()
    view = clip.views["cam0"]
    view.frames[:] = 0
    view.audio[:] = 0
    assert torch.isfinite(open_gates(encoder).encode_clips([clip]).tokens).all()
    model = MaskedAutoencoder(tiny_model(), tiny_mask())
    model.fit_statistics([clip])
    losses = model(model.collate([clip], [0]))
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def empty_clips():
    """Clips in which somebody or something is absent, silent or constant."""
    nobody, unseen, once, still = (
        make_clip("a", people=0),
        make_clip("b", seed=1),
        make_clip("c", seed=2),
        make_clip("d"),
    )
    unseen.views["cam0"].face = {n: v if n == "times" else v[:0] for n, v in unseen.views["cam0"].face.items()}
    unseen.views["cam0"].pose = None
    once.views["cam0"].face = {n: v if n == "times" else v[:1] for n, v in once.views["cam0"].face.items()}
    for rows in (still.views["cam0"].face, still.views["cam0"].pose):
        for name, values in rows.items():
            if name not in {"times", "window", "person"}:
                values[:] = 0.5  # a box without size, points that are all one
    for clip in (nobody, still):
        clip.views["cam0"].frames[:] = 128
        clip.views["cam0"].audio[:] = 0
    return [nobody, unseen, once, still]


@pytest.mark.parametrize("target", ["pixels", "motion"])
@pytest.mark.parametrize("kind", KINDS)
def test_training_stays_finite_with_absent_people_and_constant_streams(kind, target):
    torch.manual_seed(0)
    mask = MaskConfig(video=0.5, kinds={kind: 1.0}, target=target)
    model = open_gates(MaskedAutoencoder(tiny_model(pooling="attention"), mask))
    clips = empty_clips()
    for some in (clips[:1], clips):  # statistics of nobody as well
        model.fit_statistics(some)
        with torch.no_grad():
            assert model.encoder.encode_clips(some).tokens.isfinite().all()
        batch = model.collate(some, list(range(len(some))))
        losses = model(batch)
        assert all(loss.isfinite() for loss in losses.values())
        torch.stack([losses[name] for name in model.config.modalities]).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
