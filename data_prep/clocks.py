"""Where the files of a recording lie on its clock: as the manifest says, or as their sound tells.

A view without an offset in the manifest is compared with one other view, the reference: the first one with sound of those
whose offset is given; where none is given, the first one with sound, whose clock is then the recording's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple
from itertools import takewhile
from pathlib import Path

from data_prep.decode import Probe
from data_prep.manifest import Recording, View
from data_prep.sync import Clock, Pair
from data_prep.views import PlannedFile

Probes = Mapping[Path, Probe | tuple[str, str]]
"""Of each file what it holds, or why it cannot be read and what to do."""
Clocks = Mapping[Pair, Clock | str]
"""What the comparison of two views gave: the clock of the second one, or why there is none."""


class NoClockError(Exception):
    """A view whose place on the recording's clock is not known: the reason."""


def place(view: View, probes: Probes, clock: Clock) -> tuple[PlannedFile, ...]:
    """The files of a view by its clock. A chapter file goes on where the one before it ended; a given offset holds."""
    files: list[PlannedFile] = []
    for source in view.sources:
        probed = probes[source.path]
        assert isinstance(probed, Probe)
        if source.offset is not None:
            files.append(PlannedFile(source, probed, source.offset))
        elif files:
            files.append(PlannedFile(source, probed, files[-1].end, files[-1].drift, files[-1].confidence))
        else:
            files.append(PlannedFile(source, probed, *astuple(clock)))
    return tuple(files)


def readable(recording: Recording, probes: Probes) -> list[View]:
    """The views whose files can all be read."""
    return [v for v in recording.views if all(isinstance(probes[source.path], Probe) for source in v.sources)]


def reference(views: list[View], probes: Probes) -> View | None:
    """The view that others are compared with, or whose clock is the recording's; None where it has to have sound."""
    given = [view for view in views if view.sources[0].offset is not None]
    heard = [view for view in given or views if any(file.probed.audio for file in place(view, probes, Clock(0.0)))]
    return heard[0] if heard else None if given else views[0]


def pair(view: View, views: list[View], probes: Probes) -> Pair | None:
    """What has to be compared to place a view; None where its offset is given or its clock is the recording's.

    Raises NoClockError where one of the two has no sound.
    """
    other = reference(views, probes)
    if view.sources[0].offset is not None or view is other:
        return None
    chain = place(view, probes, Clock(0.0))
    own = tuple(takewhile(lambda file: file.source.offset is None, chain))
    if not any(file.probed.audio for file in own):
        raise NoClockError("no offset is given, and it has no sound to find it by")
    against = place(other, probes, Clock(0.0)) if other else ()
    if not any(file.probed.audio for file in against):
        raise NoClockError("no offset is given, and no view with a known offset has sound to compare it with")
    return Pair(against, own)


def pairs(recordings: Iterable[Recording], probes: Probes) -> list[Pair]:
    """All that has to be compared, in the manifest's order."""
    found: dict[Pair, None] = {}
    for recording in recordings:
        views = readable(recording, probes)
        for view in views:
            try:
                if (one := pair(view, views, probes)) is not None:
                    found[one] = None
            except NoClockError:
                continue  # the plan makes a line of it
    return list(found)


def clock_of(view: View, views: list[View], probes: Probes, clocks: Clocks, min_confidence: float) -> Clock:
    """A view's clock. Raises NoClockError where it is not known well enough."""
    one = pair(view, views, probes)
    if one is None:
        return Clock(0.0)
    clock = clocks[one]
    if isinstance(clock, str):
        raise NoClockError(f"no offset is given, and comparing its sound failed ({clock})")
    if (clock.confidence or 0.0) < min_confidence:
        other = one.reference[0].source.name
        raise NoClockError(
            f"no offset is given, and its sound does not tell it: confidence {clock.confidence:.2f}, "
            f"less than {min_confidence:g}, when compared with {other}"
        )
    return clock
