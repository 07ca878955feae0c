"""What a build is expected to take and to write, from figures that were measured."""

from __future__ import annotations

from typing import NamedTuple

# `python -m benchmarks.cost VIDEO`: 720p, one person a view, default settings, 2026-11-24, 2 CPU cores (docs/data.md, Scale)
CORE_HOURS_PER_VIDEO_HOUR = 0.72
CORE_HOURS_PER_SOUND_HOUR = 0.009
GB_PER_VIDEO_HOUR = 0.37
GB_PER_SOUND_HOUR = 0.087


class Cost(NamedTuple):
    """Time of one CPU core in hours, and size of the shards in GB (10^9 bytes)."""

    core_hours: float
    gigabytes: float


def estimate(video_hours: float, sound_hours: float) -> Cost:
    """The cost of a build with the default settings: hours of views with pictures and of views with sound."""
    return Cost(
        CORE_HOURS_PER_VIDEO_HOUR * video_hours + CORE_HOURS_PER_SOUND_HOUR * sound_hours,
        GB_PER_VIDEO_HOUR * video_hours + GB_PER_SOUND_HOUR * sound_hours,
    )
