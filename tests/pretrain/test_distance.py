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
    draws,
    first_weights,
    measure,
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


@pytest.mark.parametrize("distance", [4.0, 20.0, 120.0])
def test_segments_do_not_tell_the_label_and_the_order_of_events_does(distance: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(8):
        a_first, b_first = pair(rng, LONG, distance)
        assert kinds(a_first) == ["A", "B"]
        assert kinds(b_first) == ["B", "A"]
        assert segments(a_first) == segments(b_first)
        assert (events(a_first).any((1, 2)) == events(b_first).any((1, 2))).all()  # nor does the time of an event


def test_one_event_alone_is_as_often_of_either_kind_in_either_place() -> None:
    rng = np.random.default_rng(0)
    for hidden in (0, 1):
        assert [kinds(clip) for clip in pair(rng, LONG, 120.0, hidden)] == ([["A"], ["B"]], [["B"], ["A"]])[1 - hidden]


def test_no_token_of_the_default_reading_sees_an_event_and_an_edge() -> None:
    task = Task()
    assert LONG.margin >= 2 * task.model(ROWS["reading, 1 chunk"]).context_seconds[0]


def changed(name: str, of: int) -> np.ndarray:
    """Which segments' features change with an event (number ``of``) 120 s from the other one, with open gates."""
    task = Task()
    torch.manual_seed(0)
    model = Reader(task.model(ROWS[name]), ROWS[name].state).eval()
    for parameter, value in model.named_parameters():
        if "gate" in parameter:
            value.data.fill_(1.0)
    rng = [np.random.default_rng(0) for _ in range(2)]
    with torch.inference_mode():
        with_it = model.features(pair(rng[0], LONG, 120.0))[0]
        without = model.features(pair(rng[1], LONG, 120.0, hidden=of))[0]
    return (with_it - without).abs().amax(1).view(-1, round(SEGMENT)).amax(1).numpy() > 0


def test_reading_ends_where_it_says_and_the_state_goes_on_forwards_alone() -> None:
    for of in (0, 1):
        alone, near = changed("segments alone", of), changed("reading, 1 chunk", of)
        assert alone.sum() <= 2  # the event may lie across an edge
        assert near.sum() == alone.sum() + 2 * Task().layers
        assert changed("reading, 30 chunks", of).all()
        carried = changed("reading, 1 chunk, and a state", of)
        first = int(np.flatnonzero(near)[0])
        assert not carried[:first].any()
        assert carried[first:].all()


def test_the_state_does_not_depend_on_how_a_recording_is_cut_and_starts_closed() -> None:
    torch.manual_seed(0)
    state, x = State(16).double(), torch.randn(2, 9, 4, 16).double()
    assert torch.equal(state(x), x)
    state.gate.data.fill_(1.0)
    assert torch.allclose(state(x)[:, :6], state(x[:, :6]), rtol=1e-12)


def test_the_order_is_learnt_from_what_reaches_and_not_from_segments() -> None:
    stage = Stage(16.0, (4.0, 8.0), 0.0, 150)
    task = replace(Task(), stages=(stage,), tested=48)
    first = first_weights(task, 0)
    found = {
        name: measure(task, ROWS[name], 6e-3, 0, first)["right"]
        for name in ("segments alone", "reading, 1 chunk, and a state")
    }
    assert abs(np.mean(found["segments alone"]["8"]) - 0.5) < 0.15
    assert np.mean(found["reading, 1 chunk, and a state"]["8"]) > 0.85


def test_a_small_run_writes_the_table_and_repeats_nothing(tmp_path: Path) -> None:
    stage = Stage(12.0, (2.0, 4.0), 0.0, 2)
    task = Task(replace(stage, seconds=SEGMENT, distances=(0.0,)), (stage,), 2, 4, (1e-3, 2e-3), 2)
    table = benchmark(task, tmp_path, processes=1)
    runs = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json") if path.name != "table.json"}
    assert len(runs) == len(ROWS) * (2 + 2)
    assert benchmark(task, tmp_path, processes=1) == table
    assert {path: path.stat().st_mtime_ns for path in runs} == runs
    assert list(json.loads((tmp_path / "table.json").read_text())["rows"]) == list(ROWS)
    assert all(name in (tmp_path / "table.md").read_text() for name in ROWS)
    assert (tmp_path / "distance.png").stat().st_size > 0
    assert len(draws(np.random.default_rng(0), task, stage)) == task.pairs
