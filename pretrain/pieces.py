"""The end of a recording that is not encoded yet: pieces go in at one side, chunks are taken off at the other.

Everything is put on one clock, in seconds from the first piece's start, and cut off only where frames are cut into segments,
sound into cells and rows into chunks: what is tokenized from here is what would have been tokenized from the whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from einops import rearrange

from pretrain.clips import PERSON_STREAMS, Clip, View
from pretrain.config import ModelConfig
from pretrain.stream_vectors import PLACE_SECONDS, WINDOW_SECONDS
from pretrain.tokens import model_frames

JITTER = 0.01  # seconds by which a piece may begin beside the end of the one before: sound is cut at whole samples


@dataclass
class _Counted:
    """How far a view has come: when its pictures and its sound began (seconds), what of them has come and gone."""

    video_start: float = 0.0
    frames_seen: int = 0  # of the source
    frames_taken: int = 0  # at the encoder's rate
    frames_gone: int = 0  # of those, encoded already
    audio_start: float = 0.0
    samples_seen: int = 0
    samples_gone: int = 0


@dataclass
class Pieces:
    """What is still needed of a recording; ``clip`` is its end as a clip."""

    config: ModelConfig
    clip: Clip | None = None
    end: float = 0.0
    _counted: dict[str, _Counted] = field(default_factory=dict)

    def add(self, piece: Clip) -> None:
        """Takes the next piece. Raises ValueError where it does not begin where the one before ended."""
        if self.clip is None:
            self.clip = replace(piece, views={}, streams={}, meta={"speech": []})
        shift = piece.start - self.clip.start
        if abs(shift - self.end) > JITTER:
            raise ValueError(
                f"{piece.key}: begins at {shift:.3f} s, and the piece before it ended at {self.end:.3f} s: pieces follow "
                "each other; after a gap begin anew"
            )
        self.end = piece.end - self.clip.start
        for name, view in piece.views.items():
            mine = self.clip.views.setdefault(name, View(aspect=view.picture_aspect))
            counted = self._counted.setdefault(name, _Counted())
            place = f"{piece.key}, view {name}"
            if view.frames is not None:
                self._add_frames(mine, counted, view, shift, place)
            if view.audio is not None:
                self._add_audio(mine, counted, view, shift, place)
            for stream in PERSON_STREAMS:
                setattr(mine, stream, _longer(getattr(mine, stream), getattr(view, stream), shift))
        for said in piece.meta.get("speech", ()):
            self.clip.meta["speech"].append({**said, "start": said["start"] + shift, "end": said["end"] + shift})
        for name, rows in piece.streams.items():
            self.clip.streams[name] = _longer(self.clip.streams.get(name), rows, shift) or {}

    def complete_chunks(self) -> int:
        """How many chunks are there as a whole: with the segments that begin in them, and the window of their last sound."""
        segment = self.config.segment_frames / self.config.frame_rate
        late = max(segment, WINDOW_SECONDS) + JITTER
        return max(math.floor((self.end - late) / self.config.chunk_seconds), 0)

    def all_chunks(self) -> int:
        """How many chunks are there when nothing more comes."""
        return math.ceil(self.end / self.config.chunk_seconds) + 1

    def forget(self, chunk: int) -> None:
        """Drops what only chunks before this one need."""
        assert self.clip is not None
        start = chunk * self.config.chunk_seconds
        for name, view in self.clip.views.items():
            self._forget_view(view, self._counted[name], start)
            for stream, rows in view.detections().items():
                setattr(view, stream, _later(rows, start - PLACE_SECONDS))
        self.clip.meta["speech"] = [said for said in self.clip.meta["speech"] if said["end"] > start]
        self.clip.streams = {name: _later(rows, start) or {} for name, rows in self.clip.streams.items()}

    def _add_frames(self, mine: View, counted: _Counted, view: View, shift: float, place: str) -> None:
        assert view.frames is not None
        if not counted.frames_seen:
            counted.video_start = mine.frame_start = shift + view.frame_start
        _check(counted.video_start + counted.frames_seen / view.frame_rate, shift + view.frame_start, "video", place)
        step = view.frame_rate / self.config.frame_rate
        seen = counted.frames_seen + len(view.frames)
        last = math.ceil(seen / step) + 1
        wanted = np.round(np.arange(counted.frames_taken, last) * step).astype(int)
        wanted = wanted[wanted < seen] - counted.frames_seen
        counted.frames_seen, counted.frames_taken = seen, counted.frames_taken + len(wanted)
        if not len(wanted):
            return
        taken = model_frames(View(view.frames[wanted], frame_rate=self.config.frame_rate), self.config)
        frames = rearrange(taken, "time channel height width -> time height width channel").numpy()
        mine.frame_rate = self.config.frame_rate
        mine.frames = frames if mine.frames is None else np.concatenate([mine.frames, frames])

    def _add_audio(self, mine: View, counted: _Counted, view: View, shift: float, place: str) -> None:
        assert view.audio is not None
        if not counted.samples_seen:
            counted.audio_start = mine.audio_start = shift + view.audio_start
        _check(counted.audio_start + counted.samples_seen / view.audio_rate, shift + view.audio_start, "sound", place)
        counted.samples_seen += view.audio.shape[1]
        mine.audio_rate = view.audio_rate
        mine.audio = view.audio if mine.audio is None else np.concatenate([mine.audio, view.audio], 1)

    def _forget_view(self, view: View, counted: _Counted, start: float) -> None:
        if view.frames is not None:
            length = self.config.segment_frames
            seconds = length / self.config.frame_rate
            # the first segment that begins in the chunk, by the sum that gives tokens their chunk
            gone = length * max(
                math.ceil((start - 1e-6 * self.config.chunk_seconds - counted.video_start) / seconds), 0
            )
            gone = min(gone, counted.frames_taken // length * length)
            view.frames = view.frames[max(gone - counted.frames_gone, 0) :]
            counted.frames_gone = max(gone, counted.frames_gone)
            view.frame_start = counted.video_start + counted.frames_gone / self.config.frame_rate
        if view.audio is not None and "audio" in self.config.streams:
            hop = round(self.config.streams["audio"].cell_seconds * view.audio_rate)
            gone = max(math.floor((start - counted.audio_start) * view.audio_rate / hop) - 8, 0) * hop
            gone = min(gone, counted.samples_seen // hop * hop)
            view.audio = view.audio[:, max(gone - counted.samples_gone, 0) :]
            counted.samples_gone = max(gone, counted.samples_gone)
            view.audio_start = counted.audio_start + counted.samples_gone / view.audio_rate


def _check(expected: float, given: float, what: str, place: str) -> None:
    if abs(expected - given) > JITTER:
        raise ValueError(
            f"{place}: its {what} goes on at {given:.3f} s instead of {expected:.3f} s; after a gap begin anew"
        )


Rows = Mapping[str, np.ndarray]


def _longer(rows: Rows | None, more: Rows | None, shift: float) -> dict[str, np.ndarray] | None:
    """Rows of a stream and those of the next piece, whose times begin ``shift`` seconds later."""
    if more is None:
        return None if rows is None else dict(rows)
    shifted = {**more, "times": more["times"] + shift}
    if rows is None:
        return shifted
    if "window" in shifted:
        shifted["window"] = shifted["window"] + len(rows["times"])
    return {name: np.concatenate([rows[name], shifted[name]]) for name in rows}


def _later(rows: Rows | None, start: float) -> dict[str, np.ndarray] | None:
    """Rows of a stream from ``start`` seconds on."""
    if rows is None:
        return None
    late = rows["times"] >= start - JITTER
    if "window" not in rows:
        return {name: values[late] for name, values in rows.items()}
    mine = late[rows["window"]]
    kept = {name: values[mine] for name, values in rows.items() if name != "times"}
    return kept | {"times": rows["times"][late], "window": kept["window"] - np.count_nonzero(~late)}
