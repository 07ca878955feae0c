"""Picture and sound of awkward files stay together: a flash and a tone that begin at the same moment, found in the clips."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.alignment import KINDS, Seen, build_flashes

Found = list[tuple[float, Seen]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """What is found of a short file of each kind."""
    return build_flashes(tmp_path_factory.mktemp("kinds"), 12.0, KINDS)


@pytest.mark.parametrize("kind", list(KINDS))
def test_picture_and_sound_stay_together(found: dict[str, Found], kind: str) -> None:
    assert len(found[kind]) == 3
    for wanted, seen in found[kind]:
        assert abs(seen.tone - seen.flash) <= 0.020, (wanted, seen)
        # a coded sound may begin a little before its first sample, and with it the file's clock
        assert abs(seen.tone - wanted) <= 0.025, (wanted, seen)


def test_two_hours_of_29_97_frames_a_second(tmp_path: Path) -> None:
    kind = "29.97 frames a second, sound 0.476 s late"
    (found,) = build_flashes(tmp_path, 7200.0, {kind: KINDS[kind]}).values()
    assert [round(wanted) for wanted, _ in found] == [2, 3600, 7199]
    for wanted, seen in found:
        assert abs(seen.tone - seen.flash) <= 0.020
        assert abs(seen.tone - wanted) <= 0.002
