"""Tracks become persons: what joins them and what forbids it, on made embeddings."""

from __future__ import annotations

from collections import Counter

import numpy as np

from data_prep.manifest import Participant
from data_prep.people import Track
from data_prep.who_is_who import join_tracks, seats_taken

RANDOM = np.random.default_rng(0)
ANNA, BEN, CARLA = np.eye(128, dtype=np.float32)[:3] * 0.6  # 0.85 from one another


def track(
    first: float, last: float, face: np.ndarray | None = None, faces: int = 3, follows: int | None = None
) -> Track:
    """A track with embeddings about 0.25 apart, as dlib's of one person are."""
    made = [] if face is None else [face + RANDOM.normal(0, 0.015, 128).astype(np.float32) for _ in range(faces)]
    return Track(first, last, last, follows, faces=made)


def joined(*views: list[Track], seats: dict | None = None) -> list[list[tuple[int, int]]]:
    return join_tracks(views, seats or {}, 0.5)[0]


def test_faces_join_tracks_over_time_and_over_views() -> None:
    left = [track(0, 10, ANNA), track(0, 12, BEN), track(30, 40, BEN), track(30, 45, ANNA)]
    right = [track(5, 20, CARLA), track(5, 20, ANNA)]
    assert joined(left, right) == [[(0, 0), (0, 3), (1, 1)], [(0, 1), (0, 2)], [(1, 0)]]


def test_two_in_one_view_at_one_time_are_two_however_alike() -> None:
    twins = [track(0, 10, ANNA), track(4, 10, ANNA), track(20, 30, ANNA)]
    persons = joined(twins)
    assert len(persons) == 2
    assert sorted(place for places in persons for place in places) == [(0, 0), (0, 1), (0, 2)]
    assert joined([twins[0]], [twins[1]]) == [[(0, 0), (1, 0)]]  # in two views they may be one


def test_one_picture_joins_nobody() -> None:
    assert joined([track(0, 1, ANNA), track(9, 19, ANNA, faces=1)]) == [[(0, 0)], [(0, 1)]]
    assert joined([track(0, 1, ANNA), track(9, 19, ANNA, faces=2)]) == [[(0, 0), (0, 1)]]


def test_the_tracker_is_believed_unless_faces_differ() -> None:
    # Ben comes at once where Anna was; then something hides him for a look or two; then Anna is back.
    chain = [
        track(0, 5, ANNA),
        track(5.1, 9, BEN, follows=0),
        track(9.1, 9.2, follows=1),
        track(9.3, 12, BEN, follows=2),
        track(12.1, 15, ANNA, follows=3),
    ]
    assert joined(chain) == [[(0, 0), (0, 4)], [(0, 1), (0, 2), (0, 3)]]


def test_seats_join_those_without_faces_and_name_them() -> None:
    views = [[track(0, 5), track(0, 5), track(20, 30), track(22, 25)], [track(3, 9, ANNA)]]
    seats = {
        (0, 0): Counter(anna=40),
        (0, 1): Counter(ben=40, anna=3),
        (0, 2): Counter(ben=70, anna=2),
        (0, 3): Counter(ben=20),  # somebody leans over
        (1, 0): Counter(anna=50),
    }
    persons, names = join_tracks(views, seats, 0.5)
    assert persons == [[(0, 0), (1, 0)], [(0, 1), (0, 2)], [(0, 3)]]
    assert names == {0: "anna", 1: "ben"}


def test_faces_outweigh_seats() -> None:
    swapped = [track(0, 10, ANNA), track(0, 10, BEN), track(11, 20, BEN), track(11, 20, ANNA)]
    seats = {(0, 0): Counter(a=80), (0, 1): Counter(b=80), (0, 2): Counter(a=80), (0, 3): Counter(b=80)}
    persons, names = join_tracks([swapped], seats, 0.5)
    assert persons == [[(0, 0), (0, 3)], [(0, 1), (0, 2)]]
    assert names == {0: "a", 1: "b"}  # each is who took that seat first
    for alone in swapped:
        alone.faces = []
    assert joined(swapped, seats=seats) == [[(0, 0), (0, 2)], [(0, 1), (0, 3)]]


def test_ids_follow_the_first_appearance_whatever_the_view() -> None:
    assert joined([track(5, 9, ANNA), track(2, 3, BEN)], [track(1, 9, CARLA)]) == [[(1, 0)], [(0, 1)], [(0, 0)]]
    assert joined([], []) == []


def test_where_somebody_sits_is_counted_by_looks() -> None:
    windows = np.array([0, 0, 1, 1, 2])
    box = np.array([[0.1, 0.4, 0.2, 0.5], [0.7, 0.4, 0.8, 0.5]] * 2 + [[0.6, 0.4, 0.7, 0.5]])
    face = {"times": np.arange(3) / 8, "window": windows, "person": np.array([0, 1, 0, 1, 0]), "box": box}
    left, right = Participant("anna", (0, 0, 0.5, 1)), Participant("ben", (0.5, 0, 1, 1))
    assert seats_taken({"face": face}, [left, right]) == {0: Counter(anna=2, ben=1), 1: Counter(ben=2)}
    assert seats_taken({"face": face}, [Participant("anna")]) == {0: Counter(anna=1), 1: Counter()}
    assert seats_taken({"face": face}, [Participant("anna"), Participant("ben")]) == {0: Counter(), 1: Counter()}
