"""One view of a recording, read once from its first file to its last, given out clip by clip.

The readers of a recording's views run side by side: each decodes just as far as the clip that is asked for, so that a
recording of any length and any number of views takes the memory of a clip or two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from data_prep.clips import (
    AudioCutter,
    Held,
    Instant,
    Part,
    Shown,
    VideoCutter,
    Window,
    grid_instants,
    picture_size,
    pixels,
)
from data_prep.config import BuildConfig
from data_prep.decode import Damage, Event, Probe, read
from data_prep.given import Arrays, GivenLandmarks, with_motion
from data_prep.manifest import Source, View

Eye = Callable[[float, Shown], Any]
"""Looks at a picture at a time."""
LANDMARKS = ("face", "pose", "regions")


@dataclass(frozen=True)
class PlannedFile:
    """A file of a view, and the seconds from its clock to the recording's."""

    source: Source
    probed: Probe
    offset: float

    @property
    def end(self) -> float:
        """When it is over on the recording's clock."""
        return self.offset + self.probed.duration


@dataclass(frozen=True)
class PlannedView:
    """A view whose files can all be read."""

    view: View
    files: tuple[PlannedFile, ...]


class Looker:
    """Shows the picture at each instant, in the source's resolution, to who looks at it."""

    def __init__(
        self, instants: Iterator[Instant], open_eye: Callable[[tuple[int, int]], Eye], short_side: int
    ) -> None:
        self._held, self._open_eye, self._short_side = Held(instants), open_eye, short_side
        self._eye: Eye | None = None
        self._seen: dict[int, list[tuple[float, Any]]] = {}
        self.complete = 0.0
        """Clips before this one are complete: somebody's first look is confirmed by the next one, even after the clip."""

    def push(self, time: float, shown: Shown) -> None:
        """Takes a frame that appears at ``time`` on the recording's clock."""
        self._look(self._held.push(time, shown))

    def pause(self, end: float) -> None:
        """The file is over, its last frame is seen until ``end``."""
        self._look(self._held.pause(end))

    def seen(self, clip: int) -> list[tuple[float, Any]]:
        """Takes out what was seen in a clip: (time, look)."""
        return self._seen.pop(clip, [])

    def _look(self, frames: Iterator[tuple[Instant, Shown]]) -> None:
        for instant, shown in frames:
            if self._eye is None:
                self._eye = self._open_eye(picture_size(shown, self._short_side))
            self._seen.setdefault(instant.clip, []).append((instant.time, self._eye(instant.time, shown)))
            self.complete = instant.clip


class ViewReader:
    """Gives the clips of a view in their order; ``damage`` tells what could not be decoded on the way."""

    def __init__(self, planned: PlannedView, clips: list[Window], config: BuildConfig, models: Path | None) -> None:
        self._planned, self._clips, self._config = planned, clips, config
        self.damage = {file.source.name: Damage() for file in planned.files}
        wanted = tuple(stream for stream in config.streams if stream in LANDMARKS)
        pictures = any(file.probed.video for file in planned.files)
        self._video = (
            VideoCutter(clips, config.fps, config.short_side, config.crf)
            if pictures and "video" in config.streams
            else None
        )
        self._audio = AudioCutter(clips, len(planned.view.participants)) if "audio" in config.streams else None
        self._open: list[Any] = []
        self._given: list[GivenLandmarks] = []
        self._looker: Looker | None = None
        if config.landmarks == "given":
            self._given = [GivenLandmarks(file.source.path, file.offset, wanted) for file in planned.files]
            if pictures and any(given.lacks_motion for given in self._given):
                instants = (
                    Instant(index, time)
                    for index, clip in enumerate(clips)
                    for given in self._given
                    for time in given.region_times(clip)
                )
                self._looker = Looker(instants, self._motion_meter, config.short_side)
        elif config.landmarks == "mediapipe" and wanted and pictures:
            assert models is not None, "the models are found before the work starts"
            self._models = models
            self._looker = Looker(grid_instants(clips, config.landmark_rate), self._analyzer, config.short_side)
        self._steps = self._run()

    def part(self, clip: int) -> tuple[Part, dict[str, Arrays]]:
        """Members and facts of a clip's video and audio, and its landmark arrays by stream. Clips are asked for in order."""
        while self._complete() <= clip and next(self._steps, None) is not None:
            pass
        part = Part()
        for cutter in filter(None, (self._video, self._audio)):
            more = cutter.part(clip)
            part.members |= more.members
            part.streams |= more.streams
        return part, self._landmarks(clip)

    def _complete(self) -> float:
        cutters = filter(None, (self._video, self._audio, self._looker))
        return min((cutter.complete for cutter in cutters), default=math.inf)

    def _motion_meter(self, written: tuple[int, int]) -> Eye:
        from data_prep.regions import MotionMeter

        meter = MotionMeter(*written, self._config.people.cell)
        return lambda time, shown: meter.measure(time, pixels(shown, meter.work, "gray"))

    def _analyzer(self, written: tuple[int, int]) -> Eye:
        from data_prep.landmarks import ViewAnalyzer

        analyzer = ViewAnalyzer(self._config.people, self._models, self._config.landmark_rate, written)
        self._open.append(analyzer)
        return lambda time, shown: analyzer.look(time, pixels(shown, picture_size(shown), "rgb24"))

    def close(self) -> None:
        """Gives back the memory of the landmark models."""
        for analyzer in self._open:
            analyzer.close()

    def _landmarks(self, clip: int) -> dict[str, Arrays]:
        seen = self._looker.seen(clip) if self._looker else []
        window = self._clips[clip]
        if self._given:
            cut = {stream: arrays for given in self._given for stream, arrays in given.cut(window).items()}
            if seen:
                cut["regions"] = with_motion(cut["regions"], window, seen, self._planned.files[0].source.name)
            return cut
        if not seen:
            return {}
        from data_prep.landmarks import pack

        packed = pack([look for _, look in seen], window.start)
        return {stream: packed[stream] for stream in LANDMARKS if stream in self._config.streams}

    def _run(self) -> Iterator[bool]:
        """Decodes file after file into the cutters; yields after each frame."""
        for file in self._planned.files:
            pictures = self._video is not None or self._looker is not None
            damage = self.damage[file.source.name]
            for event in read(file.source.path, file.probed, damage, pictures, self._audio is not None):
                self._push(event, file)
                yield True
            for cutter in filter(None, (self._video, self._looker)):
                cutter.pause(self._picture_end)
            if self._audio:
                self._audio.pause()

    _picture_end = 0.0

    def _push(self, event: Event, file: PlannedFile) -> None:
        time = event.time + file.offset
        if isinstance(event.frame, av.AudioFrame):
            assert self._audio is not None
            self._audio.push(time, event.frame)
            return
        shown = Shown(event.frame, file.probed)
        self._picture_end = event.end + file.offset
        for cutter in filter(None, (self._video, self._looker)):
            cutter.push(time, shown)
