"""What predictions rest on: how much they change when one stream, or one stretch of time, is left out.

Occlusion (Zeiler and Fergus 2014, arXiv 1311.2901, section 4.2), by what means the same for every method and backbone:
a stream is left out as if the recording lacked it, before the encoder reads the clip; a stretch is left out of the tokens
that the head reads. (Silence or a picture that stands still, put into the clip, are a surprise to the encoder: on generated
scenes silent sound alone cost 1.4 to 3 nats in every stretch, where the whole of the sound's stream cost 0.35.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.report_timelines import view_and_stream
from finetune import training
from finetune.config import RunConfig
from finetune.features import readable
from finetune.heads import Head
from finetune.problem import Problem
from finetune.splits import Split
from pretrain.clips import Clip
from pretrain.encoder import Encoded, Encoder

STRETCHES = 6  # of equal length in a clip
LEAST, MOST = 4, 24  # examples that are looked at; no more between these than one pass over all clips costs
LEAST_SAID = (
    1e-3  # smallest probability whose logarithm is taken: less is as good as none, and would outweigh all others
)


@dataclass
class Evidence:
    """What was left out of the examples ``rows`` int [example] of the first seed's tests, and what came of it.

    streams: drop [example, stream], nan where the clip lacks the stream; stretches: drop [example, stretch]; both nan where
    nothing was looked at yet. The drop is in the log-probability of the most probable class, where a prediction is a
    distribution over classes; else it is the absolute change of the prediction, a mean over outputs.
    """

    problem: Problem
    rows: np.ndarray
    streams: np.ndarray = field(init=False)
    stretches: np.ndarray = field(init=False)
    said: dict[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.streams = np.full((len(self.rows), len(self.problem.streams)), np.nan)
        self.stretches = np.full((len(self.rows), STRETCHES), np.nan)

    def add(self, encoder: Encoder, head: Head, asked: np.ndarray, config: RunConfig) -> None:
        """Looks at those of its examples that are among ``asked`` int [example], with a fitted model."""
        here = np.flatnonzero(np.isin(self.rows, asked))
        if not len(here):
            return
        rows = self.rows[here]
        settings = replace(config, workers=0, method="linear")  # nothing kept of the clips stands in for them

        def predict(reading: Any) -> np.ndarray:
            return training.predict(reading, head, self.problem, rows, settings)

        whole = predict(encoder)
        if not np.isfinite(whole).all():
            return  # a clip that could be read before cannot be read now; a line said so
        self.said |= dict(zip(here.tolist(), whole, strict=True))
        for column, name in enumerate(self.problem.streams):
            found = np.array([name in self._members(row) for row in rows])
            drop = self._drop(whole, predict(WithoutStream(encoder, name)))
            self.streams[here, column] = np.where(found, drop, np.nan)
        for stretch in range(STRETCHES):
            self.stretches[here, stretch] = self._drop(whole, predict(WithoutStretch(encoder, stretch)))

    def found(self, asked: np.ndarray) -> dict[str, np.ndarray]:
        """What is known of its examples among ``asked``, as arrays for ``put``."""
        here = np.array(
            [number for number in np.flatnonzero(np.isin(self.rows, asked)) if number in self.said], np.int64
        )
        said = np.array([self.said[number] for number in here])
        return {"looked": here, "said": said, "streams": self.streams[here], "stretches": self.stretches[here]}

    def put(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes what ``found`` gave."""
        here = arrays["looked"]
        self.said |= dict(zip(here.tolist(), arrays["said"], strict=True))
        self.streams[here], self.stretches[here] = arrays["streams"], arrays["stretches"]

    def _members(self, row: int) -> set[str]:
        """The streams that the sample of an example holds."""
        about, more = self.problem.examples.iloc[row], self.problem.added
        members = self.problem.index["members"].iloc[about["row"]]
        added = set() if more is None else {name for name, rows in more.rows.items() if about["recording"] in rows}
        return {view_and_stream(member)[1] for member in members} | added

    def _drop(self, whole: np.ndarray, without: np.ndarray) -> np.ndarray:
        """Predictions [example, ...] of whole and of reduced clips -> drop [example]."""
        if not self._distribution(whole):
            return np.abs(whole - without).reshape(len(whole), -1).mean(1)
        chosen = whole.argmax(1)[:, None]
        before, after = (np.take_along_axis(values, chosen, 1)[:, 0].clip(LEAST_SAID) for values in (whole, without))
        return np.log(before) - np.log(after)

    def _distribution(self, said: np.ndarray) -> bool:
        """Whether predictions [..., class] say how probable each class is, one of which holds."""
        return bool(self.problem.task.classes) and np.allclose(said.sum(-1), 1, atol=1e-3)

    def record(self) -> dict[str, Any] | None:
        """Plain numbers for metrics.json; None where nothing was looked at."""
        if not self.said:
            return None
        distribution = self._distribution(np.stack(list(self.said.values())))
        streams = {}
        positive = np.nansum(self.streams.clip(0), 0)
        for column, name in enumerate(self.problem.streams):
            drops = self.streams[:, column]
            seen = int(np.isfinite(drops).sum())
            share = float(positive[column] / positive.sum()) if positive.sum() > 0 else None
            streams[name] = {"drop": float(np.nanmean(drops)) if seen else None, "share": share, "examples": seen}
        looked = np.array(sorted(self.said))
        return {
            "measure": "drop in the log-probability of the most probable class"
            if distribution
            else "absolute change of the prediction",
            "examples": len(looked),
            "streams": streams,
            "stretches": [float(drop) for drop in np.nanmean(self.stretches[looked], 0)],
            "each": [self._example(number) for number in looked],
        }

    def _example(self, number: int) -> dict[str, Any]:
        about = self.problem.examples.iloc[self.rows[number]]
        classes, said = self.problem.task.classes, self.said[number]
        drops = zip(self.problem.streams, self.streams[number], strict=True)
        return {
            **{name: str(about[name]) for name in ("recording", "participant")},
            **{name: float(about[name]) for name in ("start", "end")},
            "target": about["value"] if isinstance(about["value"], str) else float(about["value"]),
            "prediction": classes[int(said.argmax())]
            if self._distribution(said)
            else [float(value) for value in np.ravel(said)],
            "streams": {name: None if np.isnan(drop) else float(drop) for name, drop in drops},
            "stretches": [None if np.isnan(drop) else float(drop) for drop in self.stretches[number]],
        }


def evidence(problem: Problem, splits: Sequence[Split]) -> Evidence:
    """For some examples of all tests of one seed, evenly spread."""
    tested = np.unique(np.concatenate([rows for split in splits for rows in split.tests.values()]))
    passes = 1 + len(problem.streams) + STRETCHES
    count = min(max(len(problem.index) // passes, LEAST), MOST, len(tested))
    return Evidence(problem, tested[np.linspace(0, len(tested) - 1, count).round().astype(int)])


@dataclass
class WithoutStream:
    """An encoder that does not read one stream, as if no clip had it."""

    encoder: Encoder
    name: str

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def encode_clips(self, clips: Sequence[Clip], modalities: Collection[str] | None = None) -> Encoded:
        """As Encoder's; a clip that holds nothing else has no token."""
        known = self.encoder.modalities
        rest = [name for name in known if name != self.name and (modalities is None or name in modalities)]
        read = [number for number, clip in enumerate(clips) if readable(clip, rest)]
        if not read:
            encoded = self.encoder.encode_clips(clips, modalities)
            return kept(encoded, torch.zeros_like(encoded.clip, dtype=torch.bool))
        encoded = self.encoder.encode_clips([clips[number] for number in read], rest)
        return replace(encoded, clip=torch.tensor(read, device=encoded.clip.device)[encoded.clip])


@dataclass
class WithoutStretch:
    """An encoder of whose tokens those of one stretch are taken away, the stretch ``number`` of STRETCHES in each clip."""

    encoder: Encoder
    number: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def encode_clips(self, clips: Sequence[Clip], modalities: Collection[str] | None = None) -> Encoded:
        """As Encoder's."""
        encoded = self.encoder.encode_clips(clips, modalities)
        seconds = torch.tensor([max(clip.end - clip.start, 1e-6) for clip in clips], dtype=torch.float64)
        part = (encoded.time.double() * STRETCHES / seconds.to(encoded.time.device)[encoded.clip]).floor()
        return kept(encoded, part.clamp(0, STRETCHES - 1) != self.number)


def kept(encoded: Encoded, tokens: Tensor) -> Encoded:
    """Some of packed tokens; tokens: bool [token]."""
    return Encoded(*(getattr(encoded, column.name)[tokens] for column in fields(encoded)))
