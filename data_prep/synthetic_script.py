"""The script of a generated scene: who sits where, who does what, when, and who answers.

- Everything that a camera or a microphone would catch follows from this script; nothing is drawn here.
- A recording is a row of slots as long as a clip. In every slot exactly one person makes one of four gestures; the
  others answer 0.5 to 1.5 s later, and everybody speaks, looks around, drinks, scratches and gesticulates meanwhile.
- Shirts and wall change colour with the slots. How often their colours tell the gesture is the nuisance's strength
  ``rho``. Colours are drawn apart from the events: the same events can be had with other colours.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

GESTURES = ("wave", "point", "nod", "hand_over")
"""The labelled classes. Reversing the nuisance maps class c to the colours of class 3 - c."""

PALETTE = len(GESTURES)
REACH = 1.1
"""Metres between two people's chests at which one can still hand the other something."""


@dataclass(frozen=True)
class Person:
    """How a participant looks and sounds. Colours are RGB, 0 to 255; lengths are shares of the ordinary ones."""

    participant: str
    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    long_hair: bool
    stripes: int
    size: float
    face_width: float
    pitch_hz: float
    formants: float


@dataclass(frozen=True)
class Event:
    """Something that one person does from ``start`` on for ``seconds``.

    side: the arm, -1 left or 1 right in the picture, 0 none. target: the person it is meant for, -1 nobody.
    size: amplitude, 1 = as the labelled gestures. meet: when a thing changes hands, in seconds (hand_over and take).
    """

    person: int
    kind: str
    start: float
    seconds: float
    side: int = 0
    target: int = -1
    size: float = 1.0
    meet: float = 0.0

    @property
    def end(self) -> float:
        return self.start + self.seconds


@dataclass(frozen=True)
class Turn:
    """One person speaks: each syllable has a start, a length (s), a loudness (0 to 1) and a vowel's number."""

    person: int
    start: float
    end: float
    syllables: np.ndarray


@dataclass(frozen=True)
class Slot:
    """One clip's worth of the script: the labelled event, and the numbers of the colours of wall and shirts."""

    start: float
    end: float
    gesture: int
    event: Event
    wall: int
    shirts: tuple[int, ...]


@dataclass
class Script:
    """All that happens in a recording. seats [person, 2]: metres, x to the right, y down, of the point between the
    shoulders. looks: per person, (second, whom: person, or -1 ahead, -2 down), in order of time."""

    people: list[Person]
    seats: np.ndarray
    seconds: float
    slots: list[Slot] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    looks: list[list[tuple[float, int]]] = field(default_factory=list)

    def speaker(self, slot: Slot) -> int:
        """The person who speaks most in a slot."""
        spoken = np.zeros(len(self.people))
        for turn in self.turns:
            spoken[turn.person] += max(0.0, min(turn.end, slot.end) - max(turn.start, slot.start))
        return int(spoken.argmax())


SKINS = ((245, 205, 175), (225, 175, 140), (190, 135, 100), (150, 100, 70), (110, 72, 52))
HAIRS = ((35, 28, 25), (80, 50, 30), (130, 85, 40), (205, 170, 100), (150, 150, 150))


def draw_people(rng: np.random.Generator, names: list[str]) -> list[Person]:
    """People of these names, each of an own look and voice."""
    people = []
    for number, name in enumerate(names):
        low = (number + rng.integers(2)) % 2 == 0  # low and high voices take turns, so that two people differ
        people.append(
            Person(
                participant=name,
                skin=SKINS[rng.integers(len(SKINS))],
                hair=HAIRS[rng.integers(len(HAIRS))],
                long_hair=bool(rng.random() < 0.5),
                stripes=int(rng.integers(3)),
                size=float(rng.uniform(0.95, 1.06)),
                face_width=float(rng.uniform(0.9, 1.08)),
                pitch_hz=float(rng.uniform(95, 145) if low else rng.uniform(175, 250)),
                formants=float(rng.uniform(0.85, 1.0) if low else rng.uniform(1.05, 1.25)),
            )
        )
    return people


def place_people(rng: np.random.Generator, count: int, rows: bool) -> np.ndarray:
    """Seats [person, 2] in metres from left to right: side by side, or in rows, the third and fourth higher, behind."""
    if rows and count > 2:
        seats = [(-0.43, 0.0), (0.43, 0.0)] + ([(0.0, -0.6)] if count == 3 else [(-0.4, -0.62), (0.4, -0.62)])
    else:
        seats = [(0.86 * (person - (count - 1) / 2), 0.0) for person in range(count)]
    return np.array(sorted(seats)) + rng.uniform(-0.06, 0.06, (count, 2))


def write_script(
    rng: np.random.Generator,
    people: list[Person],
    slots: int,
    slot_seconds: float,
    together: bool,
    imitation: bool = False,
) -> Script:
    """The events of a recording of ``slots`` slots; colours are still all zero (see ``colour_script``).

    together: one camera has to see everybody, so that more than two sit in rows. imitation: the others answer by the gesture.
    """
    count, seconds = len(people), slots * slot_seconds
    script = Script(people, place_people(rng, count, together), seconds, looks=[[(0.0, -1)] for _ in people])
    gestures = rng.permutation(np.arange(slots) % len(GESTURES))  # as often as one another, in any order
    for number, gesture in enumerate(gestures):
        start = number * slot_seconds
        event = _labelled_event(rng, script, int(gesture), start, slot_seconds)
        script.slots.append(Slot(start, start + slot_seconds, int(gesture), event, 0, (0,) * count))
        script.events.append(event)
        (_imitations if imitation else _answers)(rng, script, event)
    _conversation(rng, script)
    _distractions(rng, script)
    for looks in script.looks:
        looks.sort()
    script.events.sort(key=lambda event: event.start)
    return script


def unrelated(script: Script, others: list[Script]) -> Script:
    """The first person of ``script``, and each of the next ones out of a script of ``others``: whatever anybody does has
    nothing to do with what the rest do. The labelled gestures are those of ``script``, as far as its first person makes them."""
    own = [script, *others]
    return replace(
        script,
        events=sorted((e for p, of in enumerate(own) for e in of.events if e.person == p), key=lambda e: e.start),
        turns=[turn for p, of in enumerate(own) for turn in of.turns if turn.person == p],
        looks=[of.looks[p] for p, of in enumerate(own)],
    )


def colour_script(rng: np.random.Generator, script: Script, rho: float, reverse: bool) -> Script:
    """The same events with colours drawn: with probability ``rho`` the wall's and the acting person's shirt's are the
    gesture's own (reversed: those of class 3 - c), else any; the other shirts' are always any."""
    slots = []
    for slot in script.slots:
        telling = rng.random() < rho
        wall, *shirts = (int(c) for c in rng.integers(PALETTE, size=1 + len(script.people)))
        if telling:
            wall = PALETTE - 1 - slot.gesture if reverse else slot.gesture
            shirts[slot.event.person] = wall
        slots.append(Slot(slot.start, slot.end, slot.gesture, slot.event, wall, tuple(shirts)))
    return Script(script.people, script.seats, script.seconds, slots, script.events, script.turns, script.looks)


def _labelled_event(rng: np.random.Generator, script: Script, gesture: int, start: float, slot_seconds: float) -> Event:
    person = int(rng.integers(len(script.people)))
    seconds = min(float(rng.uniform(1.5, 2.5)), slot_seconds - 0.3)
    start += rng.uniform(0.1, slot_seconds - seconds - 0.1)
    distance = np.linalg.norm(script.seats - script.seats[person], axis=1)
    near = [p for p in range(len(script.people)) if p != person and distance[p] < REACH]
    target = int(rng.choice(near))
    side = _side_towards(script, person, target)
    if GESTURES[gesture] == "wave":
        side = int(rng.choice([-1, 1]))
    if GESTURES[gesture] == "nod":
        side = 0
    meet = start + rng.uniform(0.85, 1.2)
    return Event(person, GESTURES[gesture], start, seconds, side, target, float(rng.uniform(0.65, 1.15)), meet)


def _side_towards(script: Script, person: int, target: int) -> int:
    return 1 if script.seats[target, 0] >= script.seats[person, 0] else -1


def _answers(rng: np.random.Generator, script: Script, event: Event) -> None:
    """What the others do about a gesture: mostly look, then nod, wave, speak or nothing, half of the time in kind."""
    looks = script.looks
    if rng.random() < 0.8:
        looks[event.person].append((event.start - 0.2, event.target))
    for person in range(len(script.people)):
        if person == event.person:
            continue
        delay = rng.uniform(0.5, 1.5)
        at = event.start + delay
        if event.kind == "hand_over" and person == event.target:
            _take(rng, script, event)
            continue
        if rng.random() < 0.8:
            looks[person].append((at, event.target if event.kind == "point" else event.person))
        kind = str(rng.choice(["nod", "wave", "speak", "nothing"]))
        if event.kind in {"wave", "nod"} and rng.random() < 0.5:
            kind = event.kind
        side = int(rng.choice([-1, 1])) if kind == "wave" else 0
        if kind in {"nod", "wave"}:
            size, seconds = float(rng.uniform(0.5, 0.75)), float(rng.uniform(0.8, 1.2))
            script.events.append(Event(person, kind, at, seconds, side, event.person, size))
        elif kind == "speak":
            script.turns.append(_turn(rng, script, person, at, at + rng.uniform(0.4, 0.8)))


def _imitations(rng: np.random.Generator, script: Script, event: Event) -> None:
    """Everybody does what was done, as large and as long, 0.5 to 1.5 s later and looking at who did it; what is handed over is
    taken by whom it is for."""
    script.looks[event.person].append((event.start - 0.2, event.target))
    for person in range(len(script.people)):
        if event.kind == "hand_over" and person == event.target:
            _take(rng, script, event)
        elif event.kind != "hand_over" and person != event.person:
            at = event.start + rng.uniform(0.5, 1.5)
            side = _side_towards(script, person, event.person) if event.side else 0
            script.looks[person].append((at, event.person))
            script.events.append(Event(person, event.kind, at, event.seconds, side, event.person, event.size))


def _take(rng: np.random.Generator, script: Script, event: Event) -> None:
    """The one whom a thing is handed takes it."""
    side = _side_towards(script, event.target, event.person)
    reach = event.meet - rng.uniform(0.35, 0.5)
    script.events.append(Event(event.target, "take", reach, 1.4, side, event.person, 1.0, event.meet))
    script.looks[event.target].append((reach - 0.1, event.person))


def _turn(rng: np.random.Generator, script: Script, person: int, start: float, end: float) -> Turn:
    """A turn filled with syllables, about four a second; it ends with the last one."""
    lengths = rng.uniform(0.16, 0.3, size=1 + int(max(min(end, script.seconds) - start, 0.16) / 0.23))
    starts = start + np.concatenate([[0], np.cumsum(lengths)[:-1]])
    loud, vowel = rng.uniform(0.55, 1.0, len(starts)), rng.integers(4, size=len(starts))
    return Turn(person, start, float(start + lengths.sum()), np.stack([starts, lengths, loud, vowel], axis=1))


def _conversation(rng: np.random.Generator, script: Script) -> None:
    """Turns of speech, one after another with short gaps; who listens looks at who speaks, often."""
    count, at, speaker = len(script.people), rng.uniform(0, 0.5), int(rng.integers(len(script.people)))
    while at < script.seconds - 0.5:
        turn = _turn(rng, script, speaker, at, at + rng.uniform(1.0, 3.2))
        script.turns.append(turn)
        addressed = (speaker + int(rng.integers(1, count))) % count
        script.looks[speaker].append((at, addressed if rng.random() < 0.6 else -1))
        for person in range(count):
            if person != speaker and rng.random() < 0.6:
                script.looks[person].append((at + rng.uniform(0.2, 0.9), speaker))
        if rng.random() < 0.5:
            beat = Event(
                speaker, "beat", at + 0.1, turn.end - at - 0.1, int(rng.choice([-1, 1])), -1, rng.uniform(0.6, 1)
            )
            _add_if_free(script, beat)
        at = turn.end + rng.uniform(0.3, 0.8)
        speaker = addressed if rng.random() < 0.7 else int(rng.integers(count))  # who is addressed mostly answers


def _distractions(rng: np.random.Generator, script: Script) -> None:
    """What people do for themselves, whatever the gesture. Each of it moves much like one of the gestures: scratching
    or raising a hand like waving, stretching like pointing, shaking the head like nodding, reaching like handing over."""
    for person in range(len(script.people)):
        at = rng.uniform(0, 2)
        while at < script.seconds - 2:
            kind = str(rng.choice(["drink", "reach", "scratch", "raise", "stretch", "shake", "away"]))
            if kind == "away":
                script.looks[person].append((at, int(rng.choice([-2, -1]))))
            else:
                side = 0 if kind == "shake" else int(rng.choice([-1, 1]))
                seconds, size = float(rng.uniform(1.0, 2.2)), float(rng.uniform(0.7, 1.1))
                _add_if_free(script, Event(person, kind, at, seconds, side, -1, size))
            at += rng.uniform(0.8, 3.2)


def _add_if_free(script: Script, event: Event) -> None:
    """Adds an event unless the same arm (or head) of that person is busy: a person has two hands."""
    for other in script.events:
        same = other.person == event.person and other.side == event.side
        if same and other.start < event.end + 0.2 and event.start < other.end + 0.2:
            return
    script.events.append(event)
