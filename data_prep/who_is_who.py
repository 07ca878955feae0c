"""Who is who in a recording: the tracks of all its views become persons, and persons become participants.

What speaks for one person, the strongest first: the faces of two tracks are alike; the tracker went on from one to the
other; the manifest's seat is the same. What forbids it: two tracks are in one view at one time, or their faces differ.
Where faces say nothing (too small, turned away, people.face_identity off) tracks stay apart but for the tracker's word and
the seats. The outcome follows from the tracks alone: the same recording gives the same ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data_prep.given import Arrays
from data_prep.manifest import Participant

if TYPE_CHECKING:
    from data_prep.people import Track

Place = tuple[int, int]
"""A track: the number of its view, its number there."""
FEWEST = 2
"""Embeddings that each side needs to be joined by faces: never on one picture alone."""
MOST = 32
"""Embeddings of a person that are compared."""


@dataclass
class Person:
    """Tracks that are one person's so far.

    spans: per view the seconds from first to last look of each track. faces [row, 128]: embeddings. seats: in how many
    looks the person sat where a participant sits, in the order in which the seats were taken.
    """

    first: tuple[float, int, int]
    places: list[Place]
    spans: dict[int, NDArray[np.float64]]
    faces: NDArray[np.float32]
    seats: Counter[str] = field(default_factory=Counter)

    def distance(self, other: Person) -> float:
        """Median distance of the embeddings of two; infinite where one has none."""
        if not len(self.faces) or not len(other.faces):
            return np.inf
        return float(np.median(np.linalg.norm(self.faces[:, None] - other.faces[None], axis=-1)))

    def meets(self, other: Person) -> bool:
        """Whether both are in one view at one time."""
        for view in self.spans.keys() & other.spans.keys():
            spans = np.concatenate([self.spans[view], other.spans[view]])
            spans = spans[np.argsort(spans[:, 0], kind="stable")]
            if (spans[1:, 0] <= spans[:-1, 1]).any():
                return True
        return False

    def join(self, other: Person) -> None:
        """Takes over the tracks of another one."""
        self.first = min(self.first, other.first)
        self.places += other.places
        for view, spans in other.spans.items():
            self.spans[view] = np.concatenate([self.spans.get(view, spans[:0]), spans])
        faces = np.concatenate([self.faces, other.faces])
        self.faces = faces[np.unique(np.linspace(0, len(faces) - 1, min(len(faces), MOST)).round().astype(int))]
        self.seats += other.seats


def join_tracks(
    tracks: Sequence[Sequence[Track]], seats: dict[Place, Counter[str]], distance: float
) -> tuple[list[list[Place]], dict[int, str]]:
    """The tracks of each person, in the order in which people appear; and the participant of a person, where known.

    tracks: of each view. seats: of a track, in how many looks it was in which participant's seat. distance: of two
    faces' embeddings, below which they are one person's.
    """
    persons = {
        (view, number): _alone(view, number, track, seats.get((view, number), Counter()))
        for view, some in enumerate(tracks)
        for number, track in enumerate(some)
    }
    _follow_the_tracker(persons, tracks, distance)
    _join_by_faces(persons, distance)
    _join_by_seats(persons, distance)
    found = sorted(_distinct(persons), key=lambda person: person.first)
    return [sorted(person.places) for person in found], _participants(found)


def _alone(view: int, number: int, track: Track, seats: Counter[str]) -> Person:
    faces = np.array(track.faces, np.float32).reshape(-1, 128)
    spans = {view: np.array([[track.first, track.last]])}
    return Person((track.first, view, number), [(view, number)], spans, faces, Counter(seats))


def _distinct(persons: dict[Place, Person]) -> Iterator[Person]:
    yield from {id(person): person for person in persons.values()}.values()


def _merge(persons: dict[Place, Person], one: Person, two: Person) -> None:
    one.join(two)
    persons |= dict.fromkeys(two.places, one)


def _differ(one: Person, two: Person, distance: float) -> bool:
    """Whether two cannot be one person: they meet, or their faces are not alike."""
    apart = one.distance(two)
    return (np.isfinite(apart) and apart >= distance) or one.meets(two)


def _follow_the_tracker(persons: dict[Place, Person], tracks: Sequence[Sequence[Track]], distance: float) -> None:
    """Joins a track with the one that it follows, those with alike faces first, then in the order of time."""
    links = [
        (persons[view, track.follows].distance(persons[view, number]), track.first, view, number, track.follows)
        for view, some in enumerate(tracks)
        for number, track in enumerate(some)
        if track.follows is not None
    ]
    for _, _, view, number, follows in sorted(links):
        one, two = persons[view, follows], persons[view, number]
        if one is not two and not _differ(one, two, distance):
            _merge(persons, one, two)


def _join_by_faces(persons: dict[Place, Person], distance: float) -> None:
    """Joins the two whose faces are most alike, again and again, as long as any are alike enough."""
    known = sorted((p for p in _distinct(persons) if len(p.faces) >= FEWEST), key=lambda p: p.first)
    apart = np.full((len(known), len(known)), np.inf)

    def compare(i: int) -> None:
        for j, other in enumerate(known):
            if j != i and persons[other.places[0]] is other:
                far = known[i].distance(other)
                apart[i, j] = apart[j, i] = np.inf if far >= distance or known[i].meets(other) else far

    for i in range(len(known)):
        compare(i)
    while len(known) and np.isfinite(apart.min()):
        i, j = divmod(int(apart.argmin()), len(known))
        i, j = min(i, j), max(i, j)
        _merge(persons, known[i], known[j])
        apart[j] = apart[:, j] = np.inf
        apart[i] = apart[:, i] = np.inf
        compare(i)


def _join_by_seats(persons: dict[Place, Person], distance: float) -> None:
    """Joins those of one participant whom faces have not joined: across views, and after an absence."""
    by_name: dict[str, list[Person]] = {}
    for person in sorted(_distinct(persons), key=lambda p: (-p.seats.total(), p.first)):  # who sat longest comes first
        if (name := participant_of(person)) is not None:
            same = next((p for p in by_name.get(name, []) if not _differ(p, person, distance)), None)
            if same is None:
                by_name.setdefault(name, []).append(person)
            else:
                _merge(persons, same, person)


def participant_of(person: Person) -> str | None:
    """Whose seat somebody sat in most often; of two seats as often, the one that was taken first."""
    return max(person.seats, key=lambda name: person.seats[name]) if person.seats else None


def _participants(persons: list[Person]) -> dict[int, str]:
    """Each participant is the one who sat longest in that seat; nobody is two."""
    names: dict[int, str] = {}
    for number in sorted(range(len(persons)), key=lambda n: -persons[n].seats.total()):
        name = participant_of(persons[number])
        if name is not None and name not in names.values():
            names[number] = name
    return names


def seats_taken(landmarks: dict[str, Arrays], participants: Sequence[Participant]) -> dict[int, Counter[str]]:
    """In how many looks of a clip each track of a view was where which participant sits.

    A view that shows one participant, without a seat, is that one's seat as a whole, as long as nobody else is there.
    """
    seats = [participant for participant in participants if participant.seat]
    taken: dict[int, Counter[str]] = {}
    for person in sorted({int(p) for arrays in landmarks.values() for p in np.unique(arrays.get("person", []))}):
        counts = Counter[str]()
        if seats:
            centres = _centres(landmarks, person)
            for participant in seats:
                x0, y0, x1, y1 = participant.seat or (0, 0, 0, 0)
                inside = (centres >= [x0, y0]).all(axis=1) & (centres <= [x1, y1]).all(axis=1)
                counts[participant.id] += int(inside.sum())
        elif len(participants) == 1:
            counts[participants[0].id] += _looks_alone(landmarks, person)
        taken[person] = +counts
    return taken


def _centres(landmarks: dict[str, Arrays], person: int) -> NDArray:
    """Where a person's face is, [row, 2]; without a face, the nose of the pose."""
    face, pose = landmarks.get("face"), landmarks.get("pose")
    if face is not None and (rows := face["person"] == person).any():
        box = face["box"][rows]
        return (box[:, :2] + box[:, 2:]) / 2
    if pose is not None:
        return pose["keypoints"][pose["person"] == person, 0, :2]
    return np.empty((0, 2))


def _looks_alone(landmarks: dict[str, Arrays], person: int) -> int:
    """In how many looks a person is the only one."""
    rows = [(arrays["window"], arrays["person"]) for arrays in landmarks.values() if "person" in arrays]
    pairs = np.unique(np.concatenate([np.stack(pair, axis=1) for pair in rows]), axis=0)
    windows, counts = np.unique(pairs[:, 0], return_counts=True)
    mine = pairs[pairs[:, 1] == person, 0]
    return int(np.isin(mine, windows[counts == 1]).sum())
