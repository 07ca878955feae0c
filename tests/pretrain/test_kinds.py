"""Masking across streams, people and time: what each kind hides, on clips drawn at random."""

import numpy as np
import pytest
import torch
from clips_for_tests import make_clip, tiny_mask, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.clips import Clip
from pretrain.config import KINDS, MaskConfig, loss_names
from pretrain.kinds import PAST
from pretrain.masking import NOT_REBUILT, Mask, apportion, draw_mask
from pretrain.objective import MaskedAutoencoder
from pretrain.tokens import Tokens, tokenize
from pretrain.traces import boxes_of, hull

MODEL = tiny_model(image_height=64, image_width=64)
EVERY = dict.fromkeys(KINDS, 1.0)
SEEDS = st.integers(0, 2**56)


def lane(times: np.ndarray, person: int, people: int) -> np.ndarray:
    """The true boxes of a person who sways in a lane of the picture, [time, 4]."""
    middle = (person + 0.5) / people + 0.1 * np.sin(3 * times + person)
    half = 0.3 / people
    return np.stack([middle - half, np.full(len(times), 0.2), middle + half, np.full(len(times), 0.9)], 1)


def scene(seed: int, seconds: float = 6.0, people: int = 2, views: int = 1, speech: bool = True) -> Clip:
    """People side by side, who speak in turns of a second, in every view."""
    clip = make_clip(seed=seed, seconds=seconds, people=people, views=views, size=64)
    for view in clip.views.values():
        assert view.pose is not None
        assert view.face is not None
        for rows in (view.pose, view.face):
            times = rows["times"][rows["window"]]
            box = np.stack([lane(times[i : i + 1], p, people)[0] for i, p in enumerate(rows["person"])])
            if "keypoints" in rows:
                within = rows["keypoints"][..., :2]
                within[:, 0], within[:, 1] = 0, 1  # two points stand at the corners
                rows["keypoints"][..., :2] = box[:, None, :2] + within * (box[:, None, 2:] - box[:, None, :2])
            else:
                rows["box"] = np.stack([box[:, 0], box[:, 1], box[:, 2], box[:, 1] + 0.2], 1)
    if speech:
        clip.meta["speech"] = [
            {"view": "cam0", "channel": 0, "start": s, "end": s + 0.8, "person": s % people, "confidence": 0.9}
            for s in range(int(seconds))
        ]
    return clip


def masked(clip: Clip, seed: int, **changes) -> tuple[dict[str, Tokens], Mask]:
    mask = MaskConfig(**{"video": 0.5, "streams": 0.5, **changes})
    tokens = tokenize(clip, 0, MODEL, MODEL.modalities)
    return tokens, draw_mask(clip, tokens, MODEL, mask, seed)


def kind_of(drawn: Mask) -> str:
    return KINDS[max(rows.max(initial=0) for rows in drawn.rebuilt.values())]


def of_kind(drawn: Mask, name: str, kind: str) -> np.ndarray:
    return drawn.rebuilt[name] == KINDS.index(kind)


clips = st.builds(
    scene,
    seed=st.integers(0, 9),
    seconds=st.floats(2.5, 7.0),
    people=st.integers(1, 4),
    views=st.integers(1, 2),
    speech=st.booleans(),
)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=25)
@given(clip=clips, seed=SEEDS, lacks=st.sets(st.sampled_from(["video", "audio", "face", "pose"]), max_size=3))
def test_something_is_seen_and_all_that_is_rebuilt_is_hidden(kind, clip, seed, lacks):
    for view in clip.views.values():
        for name in lacks:
            setattr(view, "frames" if name == "video" else name, None)
    _, drawn = masked(clip, seed, kinds={kind: 1.0})
    assert any((~hidden).any() for hidden in drawn.hidden.values())
    for name, rebuilt in drawn.rebuilt.items():
        assert drawn.hidden[name][rebuilt != NOT_REBUILT].all()
        if kind_of(drawn) != "future":
            assert (rebuilt != NOT_REBUILT).sum() == drawn.hidden[name].sum()


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_of_a_kind_follows_from_the_seed_alone(kind):
    clip = scene(0, people=3)
    first, again, other = (masked(clip, seed, kinds={kind: 1.0}, dirichlet=1.0)[1] for seed in (5, 5, 6))
    assert kind_of(first) == kind
    for name in first.hidden:
        np.testing.assert_array_equal(first.hidden[name], again.hidden[name])
        np.testing.assert_array_equal(first.rebuilt[name], again.rebuilt[name])
    assert any((first.hidden[name] != other.hidden[name]).any() for name in first.hidden)


def test_kinds_come_as_often_as_their_weights_say():
    clip = scene(0)
    kinds = {"future": 2.0, "random": 1.0, "partner": 1.0}
    drawn = [kind_of(masked(clip, seed, kinds=kinds)[1]) for seed in range(400)]
    for kind in KINDS:
        share = kinds.get(kind, 0) / 4
        assert abs(drawn.count(kind) / 400 - share) <= 3.5 * np.sqrt(share * (1 - share) / 400)


@pytest.mark.parametrize("kind", ["partner", "future", "stream"])
def test_a_clip_that_cannot_carry_a_kind_is_masked_at_random(kind):
    clip = scene(0, people=1, seconds=1.0)
    if kind == "stream":
        clip.views["cam0"].face = clip.views["cam0"].pose = clip.views["cam0"].audio = None
    _, drawn = masked(clip, 3, kinds={kind: 1.0})
    _, random = masked(clip, 3)
    for name in random.hidden:
        np.testing.assert_array_equal(drawn.hidden[name], random.hidden[name])
        np.testing.assert_array_equal(drawn.rebuilt[name], random.rebuilt[name])


@settings(deadline=None, max_examples=20)
@given(clip=clips, seed=SEEDS)
def test_one_whole_stream_is_hidden_and_the_others_are_not(clip, seed):
    tokens, drawn = masked(clip, seed, kinds={"stream": 1.0})
    (name,) = [name for name in tokens if of_kind(drawn, name, "stream").any()]
    assert name != "video"
    assert of_kind(drawn, name, "stream").all()
    assert drawn.hidden[name].all()
    assert all((~drawn.hidden[other]).any() for other in tokens if other != name)


def hidden_person(tokens: dict[str, Tokens], drawn: Mask) -> tuple[int, float, float]:
    """Whom a partner mask hides, and the time in which surely (a token of 0.5 s may reach out of it on both sides)."""
    rows = of_kind(drawn, "face", "partner")
    (person,) = np.unique(tokens["face"].person[rows])
    times = tokens["face"].time[rows]
    return int(person), times.min() + 0.25, times.max() - 0.25


@settings(deadline=None, max_examples=40)
@given(
    clip=st.builds(scene, seed=st.integers(0, 9), people=st.integers(2, 4), views=st.integers(1, 2), speech=st.booleans()),
    seed=SEEDS,
)  # fmt: skip
def test_nothing_of_a_hidden_partner_is_seen(clip, seed):
    tokens, drawn = masked(clip, seed, kinds={"partner": 1.0}, partner_seconds=(1.5, 3.0))
    person, start, end = hidden_person(tokens, drawn)
    people = len(clip.people)
    for name in ("face", "pose"):
        part = tokens[name]
        inside = (part.person == person) & (part.time + 0.25 > start) & (part.time - 0.25 < end)
        assert set(part.view[inside]) == set(range(len(clip.views)))
        assert of_kind(drawn, name, "partner")[inside].all()
        assert (part.person[of_kind(drawn, name, "partner")] == person).all()
    video = tokens["video"]
    for row in np.flatnonzero(~drawn.hidden["video"]):
        instants = np.linspace(video.time[row] - 0.125, video.time[row] + 0.125, 9)
        boxes = lane(instants[(instants > start) & (instants < end)], person, people)
        y, x = divmod(int(video.place[row]), 4)
        touches = (
            (boxes[:, 0] < (x + 1) / 4) & (boxes[:, 2] > x / 4) & (boxes[:, 1] < (y + 1) / 4) & (boxes[:, 3] > y / 4)
        )
        assert not touches.any()
    audio = tokens["audio"]
    for row in np.flatnonzero((audio.time + 0.25 > start) & (audio.time - 0.25 < end)):
        heard = "speech" not in clip.meta or any(
            said["person"] == person and said["start"] < audio.time[row] + 0.25 and said["end"] > audio.time[row] - 0.25
            for said in clip.meta["speech"]
        )
        assert not heard or of_kind(drawn, "audio", "partner")[row]


@pytest.mark.parametrize(("margin", "cells"), [(0.0, {5}), (0.4, {0, 1, 2, 4, 5, 6, 8, 9, 10}), (3.0, set(range(16)))])
def test_a_margin_around_the_partner_is_hidden_in_every_view(margin, cells):
    """Somebody who fills the middle of one of 4 x 4 cells, and whose face is seen in one view alone."""
    clip = scene(0, views=2)
    for view in clip.views.values():
        mine = view.pose["person"] == 1
        view.pose["keypoints"][~mine, :, :2] = [[0.8, 0.8]]
        view.pose["keypoints"][mine, :, :2] = [[0.3, 0.3]]
        view.pose["keypoints"][mine, 0, :2] = [[0.45, 0.45]]
        view.face = None
    hidden = 0
    for seed in range(12):
        tokens, drawn = masked(clip, seed, kinds={"partner": 1.0}, partner_margin=margin)
        rows = of_kind(drawn, "video", "partner")
        if tokens["pose"].person[of_kind(drawn, "pose", "partner")][0] == 1:
            hidden += 1
            for view in (0, 1):
                assert set(tokens["video"].place[rows & (tokens["video"].view == view)].tolist()) == cells
    assert hidden


def test_tokens_that_reach_into_the_hidden_time_are_hidden():
    """2 s that begin anywhere touch 5 tokens of 0.5 s and 9 tubelets of 0.25 s."""
    clip = scene(0, seconds=9.0)
    inner = 0
    for seed in range(20):
        tokens, drawn = masked(clip, seed, kinds={"partner": 1.0}, partner_seconds=(2.0, 2.0))
        times = {name: np.unique(tokens[name].time[of_kind(drawn, name, "partner")]) for name in ("face", "video")}
        if times["face"].min() > 0.5 and times["face"].max() < 8.5:
            inner += 1
            assert len(times["face"]) == 5
            assert len(times["video"]) == 9
    assert inner > 5


def test_the_others_stay_to_chance_and_so_does_their_voice():
    clip = scene(0, people=3, seconds=8.0)
    seen = []
    for seed in range(30):
        tokens, drawn = masked(clip, seed, kinds={"partner": 1.0}, partner_seconds=(4.0, 4.0), streams=0.1)
        person, start, end = hidden_person(tokens, drawn)
        audio = tokens["audio"]
        inside = (audio.time > start) & (audio.time < end)
        seen.append((~drawn.hidden["audio"][inside]).mean())
        others = tokens["face"].person != person
        assert (~drawn.hidden["face"][others]).mean() > 0.8
    assert np.mean(seen) > 0.2


def test_a_view_in_which_nobody_was_looked_for_is_hidden_whole():
    clip = scene(0, views=2)
    clip.views["cam1"].face = clip.views["cam1"].pose = None
    tokens, drawn = masked(clip, 0, kinds={"partner": 1.0})
    _, start, end = hidden_person(tokens, drawn)
    video = tokens["video"]
    inside = (video.view == 1) & (video.time > start) & (video.time < end)
    assert inside.any()
    assert of_kind(drawn, "video", "partner")[inside].all()


@settings(deadline=None, max_examples=40)
@given(
    clip=st.builds(
        scene,
        seed=st.integers(0, 9),
        seconds=st.floats(3.0, 9.0),
        people=st.integers(1, 3),
        views=st.integers(1, 2),
        speech=st.booleans(),
    ),
    seed=SEEDS,
)
def test_the_future_is_told_from_the_past_alone(clip, seed):
    """Whatever the clip holds after the last thing seen, the encoder gets the same."""
    mask = MaskConfig(video=0.5, kinds={"future": 1.0})
    model = MaskedAutoencoder(MODEL, mask)
    tokens, drawn = masked(clip, seed, kinds={"future": 1.0})
    asked = [tokens[name].time[of_kind(drawn, name, "future")] for name in tokens]
    first = min(times.min() for times in asked if len(times))
    last = max(times.max() for times in asked if len(times))
    assert last - first <= 3.0
    half = {"video": 0.125, "audio": 0.25, "face": 0.25, "pose": 0.25}
    now = max((tokens[n].time + half[n])[~drawn.hidden[n]].max() for n in tokens if (~drawn.hidden[n]).any())
    assert PAST - 0.5 <= now < first
    past = [
        tokens[n].chunk[drawn.rebuilt[n] <= 0][tokens[n].time[drawn.rebuilt[n] <= 0] < first] for n in ("face", "pose")
    ]
    for name in ("face", "pose"):  # the decoder's reading comes back to them
        assert tokens[name].chunk[of_kind(drawn, name, "future")].max(initial=0) <= np.concatenate(past).max() + 1
    for name in ("face", "pose"):
        assert len(np.unique(tokens[name].person[of_kind(drawn, name, "future")])) <= 1
    before = model.collate([clip], [seed])
    heard = dict(zip(*speakers(before.visible.get("audio")), strict=True))
    other_future(clip, now + 0.0125)  # half the window of a spectrum
    after = model.collate([clip], [seed])
    for name, part in before.visible.items():
        assert torch.equal(part.values, after.visible[name].values)
        np.testing.assert_array_equal(part.person, after.visible[name].person)
        np.testing.assert_array_equal(part.time, after.visible[name].time)
    # of those who speak, too, only the past is told
    clip.meta["speech"] = [said for said in clip.meta.get("speech", ()) if said["end"] <= now // 2 * 2]
    told = dict(zip(*speakers(tokenize(clip, 0, MODEL, ["audio"])["audio"]), strict=True))
    assert all(told[time] == person for time, person in heard.items())


def test_the_future_lasts_as_long_as_asked():
    """Of 1.5 s, 3 tokens of 0.5 s have their middle in it, where the decoder's reading does not end it before."""
    clip = scene(0, seconds=8.0)
    lasts = []
    for seed in range(30):
        tokens, drawn = masked(clip, seed, kinds={"future": 1.0}, future_seconds=(1.5, 1.5))
        lasts.append(len(np.unique(tokens["face"].time[of_kind(drawn, "face", "future")])))
    assert max(lasts) == 3
    assert lasts.count(3) > 20


def speakers(audio: Tokens | None) -> tuple[list[float], list[int]]:
    """Times and persons of sound in the first view."""
    if audio is None:
        return [], []
    return audio.time[audio.view == 0].tolist(), audio.person[audio.view == 0].tolist()


def other_future(clip: Clip, now: float) -> None:
    """Changes all that a clip holds later than ``now``."""
    for view in clip.views.values():
        assert view.frames is not None
        assert view.audio is not None
        view.frames[np.arange(len(view.frames)) / 8 >= now] = 0
        view.audio[:, np.arange(view.audio.shape[1]) / 16000 > now] = 0
        for rows in (view.face, view.pose):
            assert rows is not None
            later = rows["times"][rows["window"]] > now
            for name, values in rows.items():
                if name not in {"times", "window", "person"}:
                    values[later] = 0.5


@settings(deadline=None, max_examples=30)
@given(clip=clips, seed=SEEDS, alpha=st.sampled_from([0.1, 1.0, 100.0]))
def test_a_dirichlet_deals_out_as_many_tokens_as_there_were(clip, seed, alpha):
    tokens, fixed = masked(clip, seed)
    _, drawn = masked(clip, seed, dirichlet=alpha)
    streams = [name for name in tokens if name != "video"]
    counts = [sum(int((~mask.hidden[name]).sum()) for name in streams) for mask in (fixed, drawn)]
    assert counts[0] == counts[1]
    assert (~drawn.hidden["video"]).sum() == (~fixed.hidden["video"]).sum()


def test_a_dirichlet_varies_the_shares_the_more_the_smaller_it_is():
    clip = scene(0)
    spread = []
    for alpha in (0.2, 1.0, 1000.0):
        seen = [(~masked(clip, seed, dirichlet=alpha)[1].hidden["pose"]).sum() for seed in range(60)]
        spread.append(np.std(seen))
    assert spread[0] > spread[1] > spread[2]
    assert spread[2] < 1 < spread[1]


@given(
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=6),
    rooms=st.lists(st.integers(1, 40), min_size=6, max_size=6),
    total=st.floats(0, 1),
)
def test_apportioned_numbers_add_up_within_their_room(shares, rooms, total):
    room = np.array(rooms[: len(shares)])
    asked = int(total * room.sum())
    given_out = apportion(asked, np.array(shares), room)
    assert given_out.sum() == asked
    assert (given_out <= room).all()


@settings(deadline=None)
@given(seed=st.integers(0, 1000), looks=st.integers(1, 8))
def test_a_hull_holds_the_moving_box_at_every_instant(seed, looks):
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(0, 4, looks))
    boxes = np.sort(rng.random((looks, 2, 2)), 1).reshape(looks, 4)
    start = np.arange(0, 4, 0.16)
    found = hull(times, boxes, start, start + 0.16)
    for step, (x0, y0, x1, y1) in enumerate(found):
        instants = np.linspace(start[step], start[step] + 0.16, 50)
        path = np.stack([np.interp(instants, times, side) for side in boxes.T], 1)
        assert x0 <= path[:, 0].min() + 1e-9
        assert y0 <= path[:, 1].min() + 1e-9
        assert x1 >= path[:, 2].max() - 1e-9
        assert y1 >= path[:, 3].max() - 1e-9
        assert x0 >= boxes[:, 0].min()
        assert x1 <= boxes[:, 2].max()


def test_a_body_is_guessed_where_only_the_face_is_known():
    view = scene(0).views["cam0"]
    (_, body), (_, face) = boxes_of(view, 1)
    view.pose = None
    ((_, guessed),) = boxes_of(view, 1)
    width = face[:, 2] - face[:, 0]
    np.testing.assert_allclose(guessed[:, 2] - guessed[:, 0], 3 * width)
    assert (guessed[:, 3] == 1).all()
    assert (guessed[:, [0, 1]] <= body[:, [0, 1]]).all()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_of_the_video_that_each_kind_hides_the_asked_share_is_rebuilt(kind):
    whole, part = (masked(scene(0), 5, kinds={kind: 1.0}, decoded=share)[1] for share in (1.0, 0.25))
    for name in whole.hidden:
        np.testing.assert_array_equal(whole.hidden[name], part.hidden[name])
        for label in (kind, "random"):
            hidden = of_kind(whole, name, label).sum()
            asked = max(round(hidden / 4), 1) if name == "video" and hidden else hidden  # streams have few: all of them
            assert of_kind(part, name, label).sum() == asked


@pytest.mark.parametrize("target", ["pixels", "motion"])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_the_kinds_add_up_and_have_finite_gradients(kind, target):
    torch.manual_seed(0)
    mask = MaskConfig(video=0.5, kinds={kind: 1.0}, target=target, dirichlet=1.0)
    model = MaskedAutoencoder(MODEL, mask)
    clips = [scene(seed, views=2) for seed in range(3)]
    model.fit_statistics(clips)
    batch = model.collate(clips, [0, 1, 2])
    losses = model(batch)
    assert tuple(losses) == loss_names(MODEL, mask)
    if kind != "random":
        assert any(batch.counts[f"{kind}/{name}"] for name in MODEL.modalities)
        for name in MODEL.modalities:
            parts = [losses[f"{part}/{name}"] for part in mask.used_kinds]
            torch.testing.assert_close(torch.stack(parts).sum(), losses[name].detach())
            assert sum(batch.counts[f"{part}/{name}"] for part in mask.used_kinds) == batch.counts[name]
    torch.stack([losses[name] for name in MODEL.modalities]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_kinds_that_a_batch_lacks_come_as_zeros():
    model = MaskedAutoencoder(MODEL, MaskConfig(kinds=EVERY))
    clip = scene(0, people=1, seconds=1.0)
    clip.views["cam0"].face = clip.views["cam0"].pose = clip.views["cam0"].audio = None
    losses = model(model.collate([clip], [0]))
    assert tuple(losses) == loss_names(MODEL, model.mask)
    assert losses["random/video"] > 0
    assert losses["partner/face"] == losses["future/video"] == losses["face"] == 0


def test_one_kind_alone_has_no_losses_of_its_own():
    assert loss_names(MODEL, tiny_mask()) == MODEL.modalities


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": {"patner": 1.0}}, "mask.kinds: no kind 'patner'; did you mean partner?"),
        ({"kinds": {"random": -1.0}}, "mask.kinds: the weight of random, -1.0, is not 0 or more"),
        ({"kinds": {"partner": 0.0}}, "mask.kinds: no kind has a weight above 0"),
        ({"kinds": {}}, "mask.kinds: no kind has a weight above 0"),
        ({"dirichlet": 0.0}, "mask.dirichlet: 0.0 is not above 0"),
        ({"future_seconds": (2.0, 1.0)}, "mask.future_seconds: [2.0, 1.0] is no shortest and longest time above 0"),
        ({"partner_margin": -0.1}, "mask.partner_margin: -0.1 is less than 0"),
    ],
)
def test_impossible_kinds_are_refused(settings, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        MaskConfig(**settings)
    assert message in str(error.value)
