"""The benchmark of two events far apart: what its clips tell and what not, what reaches far, and a small run of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.distance import (
    EVENT,
    RATE,
    ROWS,
    SEGMENT,
    Reader,
    Stage,
    State,
    Task,
    benchmark,
    first_weights,
    measure,
    one_at_a_time,
    pair,
)
from pretrain.clips import Clip

LONG = Task().stages[-1]


def events(clip: Clip) -> np.ndarray:
    """Where an event is: bool [frame, row, column]; nothing else is as bright."""
    return (clip.views["main"].frames == EVENT).all(-1)


def segments(clip: Clip) -> list[bytes]:
    """What the segments show of events, without their order."""
    where = events(clip)
    return sorted(part.tobytes() for part in np.split(where, len(where) // round(SEGMENT * RATE)))


def kinds(clip: Clip) -> list[str]:
    """The events in their order, told by the way that they move."""
    found = []
    for start in np.flatnonzero(np.diff(events(clip).any((1, 2)).astype(int), prepend=0) == 1):
        moved = [np.argwhere(events(clip)[start + n]).mean(0) for n in (0, RATE - 1)]
        found.append("A" if moved[1][1] > moved[0][1] and moved[1][0] == moved[0][0] else "B")
    return found


@pytest.mark.parametrize("distance", [8.0, 20.0, 120.0])
def test_segments_do_not_tell_the_label_and_the_order_of_events_does(distance: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(8):
        a_first, b_first = pair(rng, LONG, distance)
        assert kinds(a_first) == ["A", "B"]
        assert kinds(b_first) == ["B", "A"]
        assert segments(a_first) == segments(b_first)
        assert (events(a_first).any((1, 2)) == events(b_first).any((1, 2))).all()  # nor does the time of an event


def test_one_event_alone_is_of_either_kind_at_any_time() -> None:
    rng = np.random.default_rng(0)
    alone = [pair(rng, LONG, 0.0) for _ in range(32)]
    assert all([kinds(clip) for clip in clips] == [["A"], ["B"]] for clips in alone)
    seconds = [np.flatnonzero(events(clips[0]).any((1, 2)))[0] / RATE for clips in alone]
    assert min(seconds) < 60 < 120 < max(seconds)


def opened(name: str) -> Reader:
    """A model of a row, not trained, with open gates."""
    torch.manual_seed(0)
    model = Reader(Task().model(ROWS[name]), ROWS[name].state).eval()
    for parameter, value in model.named_parameters():
        if "gate" in parameter:
            value.data.fill_(1.0)
    return model


def changed(name: str, of: int) -> np.ndarray:
    """Which segments' features change with event 0 or 1, 120 s apart from the other one: bool [segment]."""
    clips = [pair(np.random.default_rng(0), LONG, 120.0, shown)[0] for shown in ((0, 1), (1 - of,))]
    with torch.inference_mode():
        with_it, without = opened(name).features(clips)
    return ((with_it - without).abs().amax(1).view(-1, round(SEGMENT)).amax(1) > 0).numpy()


def test_reading_ends_where_it_says_and_the_state_goes_on() -> None:
    seconds = Task().model(ROWS["reading, 2 chunks"]).context_seconds[0]
    assert LONG.margin >= seconds  # so that no token sees an event and an edge of the clip
    for of in (0, 1):
        alone, near = changed("segments alone", of), changed("reading, 2 chunks", of)
        assert 1 <= alone.sum() <= 2  # the event may lie across an edge
        assert near.sum() == alone.sum() + seconds / SEGMENT
        first = int(np.flatnonzero(alone)[0])
        for name in ("reading, 30 chunks", "reading, 2 chunks, and a state"):
            far = changed(name, of)
            assert not far[:first].any()
            assert far[first:].all()


def test_logits_add_up_where_nothing_reaches_from_one_event_to_the_other() -> None:
    for name in ("segments alone", "reading, 2 chunks"):
        assert one_at_a_time(opened(name), LONG, 4, 0)[1] == pytest.approx(1, abs=1e-4)


def test_the_state_does_not_depend_on_how_a_recording_is_cut_and_starts_closed() -> None:
    torch.manual_seed(0)
    state, x = State(16).double(), torch.randn(2, 9, 4, 16).double()
    assert torch.equal(state(x), x)
    state.gate.data.fill_(1.0)
    assert torch.allclose(state(x)[:, :6], state(x[:, :6]), rtol=1e-12)


def test_the_order_is_learnt_within_reach() -> None:
    stage = Stage(64.0, (0.0, 4.0, 8.0), 24.0, 250)
    task = replace(Task(), stages=(stage,), tested=32)
    found = measure(task, ROWS["reading, 2 chunks"], 6e-3, 0, first_weights(task, 0))
    assert np.mean(found["right"]["8"]) > 0.8
    assert found["left"] < 0.6


def test_a_small_run_writes_the_table_and_repeats_nothing(tmp_path: Path) -> None:
    stage = Stage(12.0, (2.0, 4.0), 0.0, 2)
    task = Task((replace(stage, distances=(0.0,)),), (stage,), 2, 4, (1e-3, 2e-3), 2)
    table = benchmark(task, tmp_path, processes=1)
    runs = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json") if path.name != "table.json"}
    assert len(runs) == len(ROWS) * (2 + 2)
    assert benchmark(task, tmp_path, processes=1) == table
    assert {path: path.stat().st_mtime_ns for path in runs} == runs
    assert list(json.loads((tmp_path / "table.json").read_text())["rows"]) == list(ROWS)
    assert all(name in (tmp_path / "table.md").read_text() for name in ROWS)
    assert (tmp_path / "distance.png").stat().st_size > 0
