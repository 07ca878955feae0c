"""One view of a recording, read once from its first file to its last, given out clip by clip.

The readers of a recording's views run side by side: each decodes just as far as the clip that is asked for, so that a
recording of any length and any number of views takes the memory of a clip or two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
from data_prep.given import LANDMARKS, Arrays, GivenLandmarks, with_motion
from data_prep.manifest import Source, View
from data_prep.virtual import within

if TYPE_CHECKING:
    from data_prep.blur import FaceBlur
    from data_prep.landmarks import Look, ViewAnalyzer
    from data_prep.people import Track

Eye = Callable[[float, Shown], Any]
"""Looks at a picture at a time."""


@dataclass(frozen=True)
class PlannedFile:
    """A file of a view on the recording's clock: its time t is there offset + t * (1 + drift).

    ``confidence`` in these two as data_prep/sync.py measured them; None where the manifest or nobody says otherwise.
    """

    source: Source
    probed: Probe
    offset: float
    drift: float = 0.0
    confidence: float | None = None

    def at(self, time: float) -> float:
        """A time of the file on the recording's clock."""
        return self.offset + time * (1 + self.drift)

    @property
    def end(self) -> float:
        """When it is over on the recording's clock."""
        return self.at(self.probed.duration)


@dataclass(frozen=True)
class PlannedView:
    """A view whose files can all be read."""

    view: View
    files: tuple[PlannedFile, ...]


class ViewPart(NamedTuple):
    """What a view, or what a region of it becomes, gives to a clip: video and audio, and landmark arrays by stream."""

    part: Part
    landmarks: dict[str, Arrays]


class Looker:
    """Shows the picture at each instant, in the source's resolution, to who looks at it."""

    def __init__(self, instants: Iterator[Instant], open_eye: Callable[[Shown], Eye]) -> None:
        self._held, self._open_eye = Held(instants), open_eye
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
                self._eye = self._open_eye(shown)
            self._seen.setdefault(instant.clip, []).append((instant.time, self._eye(instant.time, shown)))
            self.complete = instant.clip


class ViewReader:
    """Gives the clips of a view in their order; ``damage`` tells what could not be decoded on the way."""

    def __init__(self, planned: PlannedView, clips: list[Window], config: BuildConfig, models: Path | None) -> None:
        self._planned, self._clips, self._config = planned, clips, config
        self.file = planned.files[0]
        """the one that is being read"""
        self.damage = {file.source.name: Damage() for file in planned.files}
        wanted = tuple(stream for stream in config.streams if stream in LANDMARKS)
        pictures = any(file.probed.video for file in planned.files)
        self._open: list[ViewAnalyzer | FaceBlur] = []
        self._analyzers: list[ViewAnalyzer] = []
        self._blur = self._open_blur(models) if config.blur_faces and pictures and "video" in config.streams else None
        self._video = VideoCutter(clips, config, blur=self._blur) if pictures and "video" in config.streams else None
        self._regions = planned.view.regions if pictures else ()
        self._region_videos = [
            VideoCutter(clips, config, region.box, self._blur) for region in self._regions if self._video
        ]
        sound = any(
            file.probed.audio for file in planned.files
        )  # waiting for sound, a silent film would be read to its end
        self._audio = (
            AudioCutter(clips, len(planned.view.participants)) if sound and "audio" in config.streams else None
        )
        self._given: list[GivenLandmarks] = []
        self._looker: Looker | None = None
        if config.landmarks == "given":
            self._given = [GivenLandmarks(file.source.path, file.at, wanted) for file in planned.files]
            if pictures and any(given.lacks_motion for given in self._given):
                instants = (
                    Instant(index, time)
                    for index, clip in enumerate(clips)
                    for given in self._given
                    for time in given.region_times(clip)
                )
                self._looker = Looker(instants, self._motion_meter)
        elif config.landmarks == "mediapipe" and (wanted or self._blur) and pictures:
            assert models is not None, "the models are found before the work starts"
            self._models = models
            self._looker = Looker(grid_instants(clips, config.landmark_rate), self._analyzer)
        self._steps = self._run()

    def parts(self, clip: int) -> list[ViewPart]:
        """A clip of the view, then of each view that a region of it becomes. Clips are asked for in order."""
        if self._blur:
            self._blur.forget(self._clips[clip].start)
        while self._complete() <= clip and next(self._steps, None) is not None:
            pass
        part = Part()
        for cutter in filter(None, (self._video, self._audio)):
            more = cutter.part(clip)
            part.members |= more.members
            part.streams |= more.streams
            part.quality |= more.quality
        seen = self._looker.seen(clip) if self._looker else []
        parts = [ViewPart(part, self._landmarks(clip, seen))]
        for number in range(len(self._regions)):
            part = self._region_videos[number].part(clip) if self._region_videos else Part()
            parts.append(ViewPart(part, self._region_landmarks(clip, seen, number, parts[0].landmarks)))
        return parts

    def _cutters(self) -> Iterator[VideoCutter | AudioCutter | Looker]:
        # the looker first: frames wait for the look after them where faces are blurred
        yield from filter(None, (self._looker, self._video, *self._region_videos, self._audio))

    def _complete(self) -> float:
        return min((cutter.complete for cutter in self._cutters()), default=math.inf)

    def _motion_meter(self, first: Shown) -> Eye:
        from data_prep.regions import MotionMeter

        meter = MotionMeter(*picture_size(first, self._config.short_side), self._config.people.cell)
        return lambda time, shown: meter.measure(time, pixels(shown, meter.work, "gray"))

    def _analyzer(self, first: Shown) -> Eye:
        from data_prep.landmarks import ViewAnalyzer

        short_side = self._config.short_side
        written = picture_size(first, short_side)
        regions = [(region.box, picture_size(first, short_side, region.box)) for region in self._regions]
        hands = "hands" in self._config.streams
        analyzer = ViewAnalyzer(self._config.people, self._models, self._config.landmark_rate, written, regions, hands)
        self._open.append(analyzer)
        self._analyzers.append(analyzer)

        def look(time: float, shown: Shown) -> Look:
            seen = analyzer.look(time, shown.upright)
            if self._blur:
                self._blur.note(seen, shown.upright)
            return seen

        return look

    def _open_blur(self, models: Path | None) -> FaceBlur:
        from data_prep.blur import FaceBlur

        assert models is not None, "the models are found before the work starts"
        blur = FaceBlur(models)
        self._open.append(blur)
        return blur

    @property
    def tracks(self) -> list[Track]:
        """The tracks of the people seen so far, by the number that face and pose rows carry."""
        return [track for analyzer in self._analyzers for track in analyzer.tracker.tracks]

    @property
    def wearer(self) -> int | None:
        """The track of the camera's wearer, where hands of nobody seen are that person's and some were."""
        return next((analyzer.tracker.wearer for analyzer in self._analyzers), None)

    def close(self) -> None:
        """Gives back the memory of the landmark models."""
        for one in self._open:
            one.close()

    def _landmarks(self, clip: int, seen: list[tuple[float, Any]]) -> dict[str, Arrays]:
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

    def _region_landmarks(
        self, clip: int, seen: list[tuple[float, Any]], number: int, whole: dict[str, Arrays]
    ) -> dict[str, Arrays]:
        """The view's landmarks as the region shows them; the cells of given landmarks are not known so fine."""
        box = self._regions[number].box
        landmarks = {stream: within(stream, arrays, box) for stream, arrays in whole.items() if stream != "regions"}
        if "regions" in whole and not self._given:
            from data_prep.landmarks import pack

            looks = [look for _, look in seen]
            landmarks["regions"] = pack(looks, self._clips[clip].start, region=number + 1)["regions"]
        return landmarks

    def _run(self) -> Iterator[bool]:
        """Decodes file after file into the cutters; yields after each frame."""
        for file in self._planned.files:
            self.file = file
            pictures = self._video is not None or self._looker is not None
            damage = self.damage[file.source.name]
            for event in read(file.source.path, file.probed, damage, pictures, self._audio is not None):
                self._push(event, file)
                yield True
            for cutter in self._cutters():
                if isinstance(cutter, AudioCutter):
                    cutter.pause()
                else:
                    cutter.pause(self._picture_end)

    _picture_end = 0.0

    def _push(self, event: Event, file: PlannedFile) -> None:
        time = file.at(event.time)
        if isinstance(event.frame, av.AudioFrame):
            assert self._audio is not None
            self._audio.push(time, event.frame, file.drift)
            return
        shown = Shown(event.frame, file.probed)
        self._picture_end = file.at(event.end)
        for cutter in self._cutters():
            if not isinstance(cutter, AudioCutter):
                cutter.push(time, shown)
