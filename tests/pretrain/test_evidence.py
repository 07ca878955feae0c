"""benchmarks.evidence: what is swapped, what the mean and the line say, and that the table tells a look across people."""

from dataclasses import replace

import numpy as np
import torch

from benchmarks.evidence import COUNT, LINE, MEAN, OURS, OURS_PAIRED, PAIRED, SWAPPED, filled, measure, swap_of, swapped
from pretrain.config import MaskConfig
from pretrain.masking import NOT_REBUILT, Mask, draw_mask
from pretrain.objective import MaskedAutoencoder, pixel_targets
from pretrain.tokens import SCENE, tokenize
from tests.pretrain.clips_for_tests import make_clip, tiny_model

MASK = MaskConfig(video=0.5, streams=0.5, partner_seconds=(1.0, 2.0))


def built(open_gates: bool) -> MaskedAutoencoder:
    torch.manual_seed(0)
    model = MaskedAutoencoder(tiny_model(), MASK).eval()
    if open_gates:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".gates." in name:
                    parameter.fill_(0.5)
    return model


def measured(model: MaskedAutoencoder, kind: str) -> dict[str, np.ndarray]:
    clips = [make_clip(key, seed=seed) for seed, key in enumerate("abc")]
    donors = [make_clip(key, seed=10 + seed) for seed, key in enumerate("abc")]
    return {name: errors[:, 1:] for name, errors in measure(model, clips, donors, kind, 0)}


def test_a_model_that_reads_nobody_else_is_as_good_with_a_stranger() -> None:
    for name, errors in measured(built(open_gates=False), "partner").items():
        np.testing.assert_allclose(errors[:, OURS_PAIRED], errors[:, SWAPPED], rtol=1e-5, err_msg=name)


def test_a_model_that_reads_others_is_not() -> None:
    for kind in ("random", "stream", "partner", "future"):
        found = measured(built(open_gates=True), kind)
        assert found
        errors = np.concatenate(list(found.values()))
        paired = errors[errors[:, PAIRED] == 1]
        assert len(paired)
        assert np.abs(paired[:, OURS_PAIRED] - paired[:, SWAPPED]).max() > 1e-4
        assert (errors[:, COUNT] == 1).all()
        np.testing.assert_array_equal(paired[:, OURS], paired[:, OURS_PAIRED])


def test_only_what_shall_be_swapped_is_swapped() -> None:
    model, clip, donor = tiny_model(), make_clip("a"), make_clip("b", seed=1)
    own, other = (tokenize(c, 0, model, model.modalities) for c in (clip, donor))
    drawn = draw_mask(clip, own, model, replace(MASK, kinds={"partner": 1.0}), 3)
    swap = swap_of("partner", "face", own, drawn)
    assert swap is not None
    mixed, mask = swapped(own, other, drawn, swap)
    hidden = {int(p) for name, part in own.items() for p in part.person[drawn.rebuilt[name] == 2] if p != SCENE}
    assert len(hidden) == 1
    for name, part in own.items():
        changed = (mixed[name].values != part.values).flatten(1).any(1).numpy()
        theirs = ~np.isin(part.person, [*hidden, SCENE]) & ~drawn.hidden[name]
        np.testing.assert_array_equal(changed, theirs, err_msg=name)
        np.testing.assert_array_equal(mask.hidden[name], drawn.hidden[name])
    same, _ = swapped(own, own, drawn, swap)
    assert all(torch.equal(same[name].values, part.values) for name, part in own.items())


def test_what_the_donor_lacks_is_hidden() -> None:
    model, clip = tiny_model(), make_clip("a")
    own, short = (tokenize(c, 0, model, model.modalities) for c in (clip, make_clip("b", seconds=2.0)))
    drawn = draw_mask(clip, own, model, MASK, 0)
    swap = swap_of("random", "face", own, drawn)
    assert swap is not None
    _, mask = swapped(own, short, drawn, swap)
    late = own["pose"].time > 2
    assert mask.hidden["pose"][late].all()
    np.testing.assert_array_equal(mask.hidden["pose"][~late], drawn.hidden["pose"][~late])


def test_the_line_follows_a_straight_stream_and_the_mean_does_not() -> None:
    model, clip = built(open_gates=False), make_clip("a")
    part = tokenize(clip, 0, model.config, ("pose",))["pose"]
    times = torch.from_numpy(part.time)[:, None] + (torch.arange(4) - 1.5) * 0.125
    part = replace(part, values=times[..., None].float().expand_as(part.values).contiguous())
    hidden = (part.time > 1) & (part.time < 3)
    drawn = Mask({"pose": hidden}, {"pose": np.where(hidden, 0, NOT_REBUILT)})
    mean, line = filled(model, "pose", part, drawn)
    truth = part.values[torch.from_numpy(hidden)].flatten(1)
    torch.testing.assert_close(line, truth, rtol=0, atol=1e-5)
    torch.testing.assert_close(mean, torch.full_like(truth, 2.0), rtol=0, atol=1e-5)


def test_a_tubelet_of_a_place_that_is_seen_before_is_told_from_there() -> None:
    """A still picture: mean and line are exact where the place is seen in another segment, and its own mean elsewhere."""
    model, clip = built(open_gates=False), make_clip("a")
    view = clip.views["cam0"]
    assert view.frames is not None
    view.frames = np.repeat(view.frames[:1], len(view.frames), 0)
    part = tokenize(clip, 0, model.config, ("video",))["video"]
    hidden = (part.block == 1) | (part.place == 0)
    drawn = Mask({"video": hidden}, {"video": np.where(hidden, 0, NOT_REBUILT)})
    mean, line = filled(model, "video", part, drawn)
    truth = pixel_targets(part.values[torch.from_numpy(hidden)], MASK.pixel_floor)
    seen = torch.from_numpy(part.place[hidden] != 0)
    torch.testing.assert_close(line[seen], truth[seen], rtol=0, atol=1e-4)
    torch.testing.assert_close(mean[seen], truth[seen], rtol=0, atol=1e-4)
    assert not mean[~seen].any()
    assert not line[~seen].any()


def test_the_table_holds_means_and_lines() -> None:
    errors = measured(built(open_gates=True), "random")["pose"]
    assert (errors[:, [MEAN, LINE]] > 0).all()
