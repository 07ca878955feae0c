"""A recording fed in pieces, cut anywhere, gives the features of the recording as a whole, in constant memory."""

import itertools
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from clips_for_tests import HANDS, make_clip, tiny_model, with_hands

from pretrain.clips import Clip, View
from pretrain.config import StreamConfig
from pretrain.encoder import Encoder
from pretrain.streaming import StreamingEncoder

OWN = {"gaze": StreamConfig(2, 0.1, 5), "room": StreamConfig(1, 0.5, 2)}


def open_encoder(**changes) -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(tiny_model(**changes)).double().eval()
    for parameter in encoder.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, float(parameter.mean() > 0.5), 0.3)
    return encoder


def rows_between(rows, start, end):
    """face or pose rows of a piece, their times from its start."""
    if rows is None:
        return None
    there = (rows["times"] >= start - 1e-9) & (rows["times"] < end - 1e-9)
    mine = there[rows["window"]]
    cut = {name: values[mine] for name, values in rows.items() if name != "times"}
    cut["window"] = cut["window"] - np.flatnonzero(there)[0] if there.any() else cut["window"]
    return cut | {"times": rows["times"][there] - start}


def samples_between(rows, start, end):
    """Rows of a user's stream of a piece, their times from its start."""
    there = (rows["times"] >= start - 1e-9) & (rows["times"] < end - 1e-9)
    return {name: values[there] - (start if name == "times" else 0) for name, values in rows.items()}


def with_own_streams(clip):
    """A look of each person 13 times a second, and a room's temperature 3 times: neither is aligned with anything."""
    rng = np.random.default_rng(5)
    times = np.repeat(np.arange(0.02, clip.end, 1 / 13), 2)
    clip.streams["gaze"] = {
        "times": times,
        "values": rng.normal(0, 1, (len(times), 2)),
        "person": np.arange(len(times)) % 2,
    }
    times = np.arange(0.05, clip.end, 1 / 3)
    clip.streams["room"] = {"times": times, "values": rng.normal(0, 1, (len(times), 1))}
    return clip


def speech_between(clip, start, end):
    said = [{**s, "start": max(s["start"], start), "end": min(s["end"], end)} for s in clip.meta["speech"]]
    return {
        "speech": [{**s, "start": s["start"] - start, "end": s["end"] - start} for s in said if s["end"] > s["start"]]
    }


def talking_clip(**changes):
    """Two people who talk by turns."""
    clip = make_clip(**changes)
    turns = np.arange(0, clip.end, 2.7)
    clip.meta["speech"] = [
        {"view": "cam0", "channel": 0, "start": float(t), "end": float(t) + 2.5, "person": n % 2}
        for n, t in enumerate(turns)
    ]
    return clip


def pieces_of(clip, cuts):
    """A clip cut at these times (seconds): frames, samples and rows are nowhere aligned with the encoder's grids."""
    edges = [0.0, *cuts, clip.end]
    for number, (start, end) in enumerate(itertools.pairwise(edges)):
        views = {}
        for name, view in clip.views.items():
            first, last = (int(np.ceil(edge * view.frame_rate - 1e-9)) for edge in (start, end))
            left, right = (int(np.ceil(edge * view.audio_rate - 1e-9)) for edge in (start, end))
            views[name] = View(
                frames=view.frames[first:last] if last > first else None,
                frame_start=first / view.frame_rate - start,
                frame_rate=view.frame_rate,
                audio=view.audio[:, left:right],
                audio_start=left / view.audio_rate - start,
                audio_rate=view.audio_rate,
                face=rows_between(view.face, start, end),
                pose=rows_between(view.pose, start, end),
                hands=rows_between(view.hands, start, end),
                aspect=view.aspect,
            )
        yield Clip(
            f"{clip.key}{number}",
            clip.key,
            100 + start,
            100 + end,
            clip.people,
            views,
            {name: samples_between(rows, start, end) for name, rows in clip.streams.items()},
            speech_between(clip, start, end),
        )


def in_one_order(parts):
    """Features and what they are, sorted by modality, view, person, time and place."""
    columns = {n: torch.cat([getattr(p, n) for p in parts]).numpy() for n in ("modality", "view", "person", "place")}
    time = torch.cat([p.time for p in parts]).numpy().round(6)
    order = np.lexsort([columns["place"], time, columns["person"], columns["view"], columns["modality"]])
    what = np.stack([*columns.values(), time], 1)[order]
    return what, torch.cat([p.tokens for p in parts])[torch.from_numpy(order)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"causal": True, "reach_chunks": 2},
        {"pooling": "attention", "pool_seconds": 1.0},
        {"upper_layers": 1, "upper_rate": 2, "final_norm": False},
        {"frame_rate": 5.0, "segment_frames": 8},
        {"streams": tiny_model().streams | {"hands": HANDS}},
        {"streams": {"audio": tiny_model().streams["audio"], **OWN}},
    ],
)
def test_pieces_give_what_the_whole_gives(changes):
    encoder = open_encoder(**changes)
    clip = with_own_streams(with_hands(talking_clip(seconds=23.0, views=2)))
    clip.views["cam1"].face = None
    clip.views["cam0"].aspect = 1.5
    with torch.no_grad():
        expected = in_one_order([encoder.encode_clips([clip])])
    for cuts in ([], [0.31, 0.9, 7.77, 8.0, 8.01, 20.2], list(np.arange(1.0, 23.0))):
        streaming = StreamingEncoder(encoder)
        pieces = list(pieces_of(clip, cuts))
        got = [features for piece in pieces for features in streaming.feed(piece)]
        early = len(got)
        got += streaming.finish()
        assert early < len(got)
        what, tokens = in_one_order(got)
        assert np.array_equal(what, expected[0])
        assert (tokens - expected[1]).abs().max() / expected[1].abs().max() < 1e-9


def test_features_come_out_when_what_follows_is_known():
    clip = talking_clip(seconds=30.0)
    for changes, wait in (({}, 2 * 2.0), ({"causal": True}, 0.0)):
        encoder = open_encoder(**changes)
        assert encoder.config.context_seconds == (4.0, wait)
        streaming = StreamingEncoder(encoder)
        for piece in pieces_of(clip, list(np.arange(1.0, 30.0))):
            for features in streaming.feed(piece):
                assert float(features.time.max()) <= piece.end - 100
                last = float(features.time.min())
        assert 30.0 - last <= wait + 2 * 2.0 + 2.0 + 1.0  # look-ahead, own chunk, a segment that begins in it, a piece


def test_what_is_kept_does_not_grow():
    encoder = open_encoder().float()
    clip = make_clip(seconds=8.0)
    streaming = StreamingEncoder(encoder)

    def kept():
        view = streaming._pieces.clip.views["cam0"]
        numbers = view.frames.size + view.audio.size + view.face["landmarks"].size
        for chunk in streaming._chunks.values():
            numbers += chunk.x.numel() + sum(r.numel() for level in chunk.levels for r in level.read.values())
        return numbers

    sizes = []
    for repeat in range(12):
        clip.start, clip.end = 8.0 * repeat, 8.0 * repeat + 8
        list(streaming.feed(clip))
        sizes.append(kept())
    assert max(sizes[3:]) <= 1.01 * sizes[3]


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_holes_in_the_heap_go_back_to_the_system():
    """Small blocks, so that they come from the heap; every other one is freed when a piece is fed."""
    encoder = open_encoder()
    blocks = [torch.ones(8192) for _ in range(8000)]  # 32 KB each
    list(StreamingEncoder(encoder).feed(make_clip(seconds=4.0)))
    full = resident()
    del blocks[::2]
    assert resident() > full - 2**25
    list(StreamingEncoder(encoder).feed(make_clip(seconds=4.0)))
    assert resident() < full - 2**26


def test_a_gap_is_named():
    encoder = open_encoder()
    streaming = StreamingEncoder(encoder)
    first, _, third = pieces_of(talking_clip(seconds=9.0), [3.0, 6.0])
    list(streaming.feed(first))
    with pytest.raises(ValueError, match=r"a2: begins at 6\.000 s, and the piece before it ended at 3\.000 s"):
        list(streaming.feed(third))
