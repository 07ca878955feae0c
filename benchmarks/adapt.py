"""Does ``finetune adapt`` bring an encoder back to what it could do, where the room or the camera is another one?

    python -m benchmarks.adapt --release RELEASE --shards OUT --labels labels.csv --out FOLDER [--decoder RUN] [--real VIDEOS]

A linear probe on video learns in the source setting and is tested in the target setting, on other people: the same kind of
recordings, their pictures changed as SHIFTS says. Rows: no adaptation; adapters from the target's unlabelled recordings
(``finetune adapt``); the masked objective on all of the encoder's weights, in the same steps; each as it is, and with the features
of each setting standardised by their own mean and deviation; and the ceiling, a probe that learns in the target setting with the
encoder as it is.
Recovered share of the drop = (row - no adaptation) / (ceiling - no adaptation).

Generated scenes (--shards, --labels): the source is the split train; of the recordings of split test, the first half is the
target's unlabelled data, the second half is tested. Real clips (--real, a folder of one talker a file): two side by side, one of
whom is held still; which one? Each seed keeps two talkers for the test; the others are the source and, in the target setting,
the unlabelled data. Seeds draw 80 % of the training recordings (generated) or the test's talkers (real), and what adaptation
draws. Writes table.md and table.json; what has been adapted is not adapted again.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pandas as pd
from safetensors.torch import load_file, save_file

from benchmarks.runs import header, spread
from data_prep.shards import ShardWriter, read_index, read_sample, sample_key, write_index
from finetune.adapt import Adaptation, adapt, with_decoder
from finetune.config import AdaptConfig
from finetune.data import open_encoder
from finetune.features import Features, as_features, cached, data_digest, digest_of, encoding, map_clips, weights_digest
from finetune.labels import read_labels
from finetune.methods import linear
from finetune.tasks import Task
from pretrain.clips import read_frames
from pretrain.config import DataConfig, MaskConfig
from pretrain.encoder import Encoder
from pretrain.stream import Clips

SHARE = 0.8  # of the generated training recordings, drawn for each seed
NONE, ADAPTERS, FULL, CEILING = (
    "no adaptation",
    "adapters, unlabelled target",
    "all weights, unlabelled target",
    "ceiling: labels in the target",
)
OWN = "; standardised in each setting"  # after any row but the ceiling
ROWS = (*(f"{name}{own}" for name in (NONE, ADAPTERS, FULL) for own in ("", OWN)), CEILING)
SIDE, RATE, SECONDS, EVERY = 64, 8, 1.0, 0.5  # of real clips: pixels, frames a second, length, from one to the next

Change = Callable[[np.ndarray], np.ndarray]


def dark_room(frames: np.ndarray) -> np.ndarray:
    """Less than half of the light, walls and shirts of other colours, a softer lens. uint8 [time, height, width, 3]."""
    dimmed = (frames[..., [2, 0, 1]] * 0.45).astype(np.uint8)
    return np.stack([cv2.GaussianBlur(frame, (0, 0), frame.shape[0] / 53) for frame in dimmed])


def far_camera(frames: np.ndarray) -> np.ndarray:
    """The camera stands farther away and aims past the people: they fill 60 % of the picture, low and to one side."""
    height, width = frames.shape[1:3]
    h, w = round(0.6 * height), round(0.6 * width)
    top, left = height - h - round(0.08 * height), round(0.16 * width)
    edge = (top, height - h - top, left, width - w - left, cv2.BORDER_REPLICATE)
    return np.stack([cv2.copyMakeBorder(cv2.resize(f, (w, h), interpolation=cv2.INTER_AREA), *edge) for f in frames])


SHIFTS: dict[str, Change] = {"room": dark_room, "camera": far_camera}


@dataclass
class Part:
    """Some clips of a folder of shards."""

    shards: Path
    index: pd.DataFrame

    def of(self, recordings: set[str]) -> Part:
        """The clips of some of its recordings."""
        return Part(self.shards, self.index[self.index["recording"].isin(recordings)].reset_index(drop=True))


@dataclass
class Trial:
    """One seed: what the probe learns from, in the source and in the target setting; what is tested, in the target."""

    train: Part
    target_train: Part
    unlabelled: Part
    test: Part


def main() -> None:
    """Reads the arguments, adapts, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", type=Path, required=True, help="release of a pretraining run")
    parser.add_argument("--shards", type=Path, required=True, help="shards with splits train and test")
    parser.add_argument("--labels", type=Path, required=True, help="labels.csv of the scenes")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the target's shards, runs, table.md, table.json"
    )
    parser.add_argument("--decoder", type=Path, help="the run that the release is of: its decoder goes on")
    parser.add_argument("--real", type=Path, help="folder of videos of one talker each, four or more")
    parser.add_argument("--target", default="gesture", help="column of the labels (default: gesture)")
    parser.add_argument("--shifts", nargs="+", default=["room"], choices=SHIFTS, help="(default: room)")
    parser.add_argument("--clips", type=int, default=8, help="labelled clips of a recording (default: 8)")
    parser.add_argument("--steps", type=int, default=80, help="of adaptation, 16 clips each (default: 80)")
    parser.add_argument("--lr", type=float, default=5e-3, help="of adapters (default: 5e-3)")
    parser.add_argument("--full_lr", type=float, default=3e-4, help="of all weights (default: 3e-4)")
    parser.add_argument("--seeds", type=int, default=3, help="(default: 3)")
    args = parser.parse_args()
    record: dict[str, dict[str, list[float]]] = {}
    for shift in args.shifts:
        sources = {"generated": generated(args, shift)} | ({"real": real(args, shift)} if args.real else {})
        for name, (trials, values) in sources.items():
            record[f"{name}, {shift}"] = measure(args, args.out / f"{name}-{shift}", trials, values)
    text = as_text(record, args, time.process_time() / 60)
    (args.out / "table.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    (args.out / "table.md").write_text(text, encoding="utf-8")
    print(text)


def generated(args: argparse.Namespace, shift: str) -> tuple[Iterator[Trial], dict[str, str]]:
    """The trials on generated scenes, and the label of each key."""
    index = read_index(args.shards)
    labels = read_labels(args.labels, args.target).set_index(["recording", "start"])["value"].astype(str).to_dict()
    places = zip(index["recording"], index["start"], strict=True)
    values = {key: labels[place] for key, place in zip(index["key"], places, strict=True) if place in labels}
    index = index[index["key"].isin(values)]
    train = Part(args.shards, _thinned(index[index["split"] == "train"], args.clips))
    test = index[index["split"] == "test"]
    first, second = _halves(test)
    folder = args.out / f"generated-{shift}"
    change = SHIFTS[shift]
    target_train = changed(train, folder / "train", change)
    unlabelled = changed(Part(args.shards, test).of(first), folder / "unlabelled", change)
    tested = changed(Part(args.shards, _thinned(test, args.clips)).of(second), folder / "test", change)

    def trials() -> Iterator[Trial]:
        recordings = sorted(set(train.index["recording"]))
        for seed in range(args.seeds):
            drawn = np.random.default_rng(seed).permutation(recordings)[: max(round(SHARE * len(recordings)), 2)]
            some = set(drawn.tolist())
            yield Trial(train.of(some), target_train.of(some), unlabelled, tested)

    return trials(), values


def _thinned(index: pd.DataFrame, clips: int) -> pd.DataFrame:
    """At most so many clips of a recording, evenly spread."""
    rows = [np.asarray(rows) for rows in index.groupby("recording", sort=False).indices.values()]
    kept = [some[np.unique(np.linspace(0, len(some) - 1, clips).astype(int))] for some in rows]
    return index.iloc[np.concatenate(kept)].reset_index(drop=True)


def _halves(index: pd.DataFrame) -> tuple[set[str], set[str]]:
    """The recordings in two halves that share nobody."""
    names = sorted(set(index["recording"]))
    people = index.groupby("recording")["people"].agg(lambda lists: {who for some in lists for who in some}).to_dict()
    for cut in sorted(range(1, len(names)), key=lambda cut: abs(cut - len(names) / 2)):
        first, second = names[:cut], names[cut:]
        if not set().union(*(people[name] for name in first)) & set().union(*(people[name] for name in second)):
            return set(first), set(second)
    raise SystemExit("the recordings of split test cannot be cut in two without somebody on both sides")


def real(args: argparse.Namespace, shift: str) -> tuple[Iterator[Trial], dict[str, str]]:
    """The trials on real talkers, and the label of each key."""
    talkers = {file.stem: _talker(file) for file in sorted(args.real.iterdir()) if file.is_file()}
    if len(talkers) < max(2 * args.seeds, 4):
        raise SystemExit(
            f"{args.real}: {len(talkers)} videos: two talkers for each seed are needed, and two to learn from"
        )
    folder = args.out / f"real-{shift}"
    source = write_part(folder / "source", _dyads(talkers))
    values = dict(zip(source.index["key"], source.index["recording"].str.rsplit("_", n=1).str[1], strict=True))
    target = changed(source, folder / "target", SHIFTS[shift])

    def trials() -> Iterator[Trial]:
        names = sorted(talkers)
        for seed in range(args.seeds):
            kept = set(names[2 * seed : 2 * seed + 2])
            of = dict(zip(source.index["recording"], source.index["people"], strict=True))
            learnt = {name for name, people in of.items() if not kept & set(people)}
            tested = {name for name, people in of.items() if set(people) <= kept}
            unlabelled = changed(source.of(learnt), folder / f"unlabelled-{seed}", SHIFTS[shift])
            yield Trial(source.of(learnt), target.of(learnt), unlabelled, target.of(tested))

    return trials(), values


def _talker(file: Path) -> np.ndarray:
    """Frames of a video, the middle of the picture: uint8 [time, SIDE, SIDE / 2, 3] at RATE frames a second."""
    frames = []
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        for frame in container.decode(stream):
            picture = frame.to_ndarray(format="rgb24")
            height, width = picture.shape[:2]
            left = (width - height // 2) // 2
            cut = picture[:, left : left + height // 2]
            frames.append(cv2.resize(cut, (SIDE // 2, SIDE), interpolation=cv2.INTER_AREA))
        rate = float(stream.average_rate or 25)
    return np.stack(frames)[np.arange(0, len(frames), rate / RATE).astype(int)]


def _dyads(talkers: dict[str, np.ndarray]) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Two talkers side by side, one of them held still from the clip's start: what meta.json says of each clip, and its frames."""
    length = round(SECONDS * RATE)
    for (left, a), (right, b) in itertools.permutations(talkers.items(), 2):
        for moving in ("left", "right"):
            for number in range(int((min(len(a), len(b)) - length) / (EVERY * RATE)) + 1):
                at = round(number * EVERY * RATE)
                halves = [frames[at : at + length] for frames in (a, b)]
                still = 1 if moving == "left" else 0
                halves[still] = np.repeat(halves[still][:1], length, axis=0)
                yield _about(f"{left}_{right}_{moving}", number * EVERY, (left, right)), np.concatenate(halves, axis=2)


def _about(recording: str, start: float, people: tuple[str, ...]) -> dict[str, Any]:
    """meta.json of a clip that shows some people, without any stream but video."""
    view = {"source": recording, "sha256": "0" * 64, "offset": 0.0, "drift": 0.0, "confidence": None}
    video = {"start": 0.0, "rate": RATE, "width": SIDE, "height": SIDE}
    return {
        "schema": 1,
        "key": sample_key(recording, start),
        "recording": recording,
        "start": start,
        "end": start + SECONDS,
        "split": None,
        "people": [{"id": number, "participant": name} for number, name in enumerate(people)],
        "extra": {},
        "views": {"main": {**view, "streams": {"video": video}}},
        "versions": {},
    }


def write_part(folder: Path, clips: Iterator[tuple[dict[str, Any], np.ndarray]]) -> Part:
    """Clips of frames [time, height, width, 3] as shards, unless they are there."""
    if not (folder / "index.parquet").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        writer = ShardWriter(folder / "shard-0.tar", folder / ".shard.tmp")
        for meta, frames in clips:
            members = {"main.video.mp4": encoded(frames, RATE), "meta.json": json.dumps(meta).encode()}
            row = {name: meta[name] for name in ("recording", "start", "end", "split")}
            writer.write(meta["key"], members, row | {"people": [p["participant"] for p in meta["people"]]})
        writer.publish()
        write_index(folder, writer.rows)
    return Part(folder, read_index(folder))


def changed(part: Part, folder: Path, change: Change) -> Part:
    """The same clips with other pictures, as shards, unless they are there."""
    if not (folder / "index.parquet").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        writer = ShardWriter(folder / "shard-0.tar", folder / ".shard.tmp")
        for row in part.index.to_dict("records"):
            sample = {name: data for name, data in read_sample(part.shards, row).items() if name != "__key__"}
            views = json.loads(sample["meta.json"])["views"]
            for name in [name for name in sample if name.endswith("video.mp4")]:
                rate = views[name.partition(".")[0]]["streams"]["video"]["rate"]
                sample[name] = encoded(change(read_frames(sample[name])), rate)
            about = {name: row[name] for name in ("recording", "start", "end")} | {"people": list(row["people"])}
            writer.write(
                row["key"], sample, {**about, "split": row["split"] if isinstance(row["split"], str) else None}
            )
        writer.publish()
        write_index(folder, writer.rows)
    return Part(folder, read_index(folder))


def encoded(frames: np.ndarray, rate: float) -> bytes:
    """Frames as an H.264 file."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        options = {"preset": "ultrafast", "crf": "12", "threads": "1"}
        stream = container.add_stream("libx264", Fraction(rate).limit_denominator(1001), options=options)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def measure(
    args: argparse.Namespace, folder: Path, trials: Iterator[Trial], values: dict[str, str]
) -> dict[str, list[float]]:
    """Accuracy by row, one a seed; "source" is the drop's upper end as it is often told: tested in the source setting."""
    task = Task("classification", tuple(sorted(set(values.values()))))
    found: dict[str, list[float]] = {name: [] for name in ROWS}
    released = open_encoder(args.release, "cpu").requires_grad_(False)

    def accuracy(train: Features, learnt: Part, tested: Features, test: Part, seed: int) -> float:
        targets = {part: task.targets([values[key] for key in index]) for part, index in _keys(learnt, test).items()}
        groups = np.unique(learnt.index["recording"], return_inverse=True)[1]
        head = linear.fit(train, targets["train"], groups, task, seed)
        return float((head.predict(tested.values, task).argmax(1) == targets["test"]).mean())

    for seed, trial in enumerate(trials):
        learnt, tested = (video_features(released, part, folder) for part in (trial.target_train, trial.test))
        found[CEILING].append(accuracy(learnt, trial.target_train, tested, trial.test, seed))
        for name, encoder in (
            (NONE, released),
            (ADAPTERS, with_adapters(args, folder / f"adapters-{seed}", trial.unlabelled, seed)),
            (FULL, with_all_weights(args, folder / f"full-{seed}", trial.unlabelled, seed)),
        ):
            train, test = (video_features(encoder, part, folder) for part in (trial.train, trial.test))
            found[name].append(accuracy(train, trial.train, test, trial.test, seed))
            found[f"{name}{OWN}"].append(accuracy(_own(train), trial.train, _own(test), trial.test, seed))
        print(folder.name, f"seed {seed}", {name: round(values[-1], 3) for name, values in found.items()})
    return found


def _keys(train: Part, test: Part) -> dict[str, list[str]]:
    return {"train": train.index["key"].tolist(), "test": test.index["key"].tolist()}


def _own(features: Features) -> Features:
    """Features standardised by their own mean and deviation: what needs no training and no masks."""
    values = features.values
    scale = values.std(0)
    standardised = (values - values.mean(0)) / np.where(scale > 1e-6, scale, 1)
    return Features(standardised.astype(np.float32), features.stream)


def video_features(encoder: Encoder, part: Part, folder: Path) -> Features:
    """What a probe reads of the clips of a part: video alone, in the order of its index."""
    parts = (weights_digest(encoder), data_digest(part.shards), *part.index["key"])

    def compute() -> dict[str, np.ndarray]:
        function, title = encoding(encoder, ("video",)), f"{len(part.index)} clips"
        return map_clips(part.shards, part.index, [function], ("video",), batch_size=32, workers=0, title=title)

    table = cached(folder / f"features-{digest_of(*parts)}.npz", compute)
    return as_features(table["values"], table["present"])


def adapt_config(args: argparse.Namespace, out: Path, unlabelled: Part, lr: float, seed: int) -> AdaptConfig:
    """All streams that there are; masked as in the run of --decoder, else as the demo's small pictures are."""
    mask = None if args.decoder else MaskConfig(video=0.875, decoded=0.25, pixel_floor=0.05)
    given = {"encoder": args.release, "decoder": args.decoder, "data": unlabelled.shards, "out": out}
    return AdaptConfig(**given, mask=mask, steps=args.steps, lr=lr, seed=seed, workers=0)


def with_adapters(args: argparse.Namespace, out: Path, unlabelled: Part, seed: int) -> Encoder:
    """The encoder with the adapters of ``finetune adapt``."""
    if code := adapt(adapt_config(args, out, unlabelled, args.lr, seed)):
        raise SystemExit(code)
    return open_encoder(args.release, "cpu", adapted=out).requires_grad_(False)


def with_all_weights(args: argparse.Namespace, out: Path, unlabelled: Part, seed: int) -> Encoder:
    """The encoder after as many steps of the same objective on all of its weights."""
    config = adapt_config(args, out, unlabelled, args.full_lr, seed)
    encoder = open_encoder(args.release, "cpu").requires_grad_(False)
    file = out / "encoder.safetensors"
    if not file.is_file():
        out.mkdir(parents=True, exist_ok=True)
        model, fresh = with_decoder(encoder, config)
        clips = Clips(DataConfig(unlabelled.shards, workers=0), encoder.modalities)
        Adaptation(config, model, list(encoder.parameters()), clips, {}, fresh).train(lambda: False)
        save_file({name: value.contiguous() for name, value in encoder.state_dict().items()}, file)
    encoder.load_state_dict(load_file(file))
    return encoder.requires_grad_(False)


def as_text(record: dict[str, dict[str, list[float]]], args: argparse.Namespace, minutes: float) -> str:
    """The table in Markdown."""
    lines = [
        f"Accuracy of a linear probe on video in the target setting, and recovered share of the drop; mean ± deviation over "
        f"{args.seeds} seeds. {args.steps} steps of 16 clips; {minutes:.0f} minutes of one core.",
        "",
        *header([f"{name}{what}" for name in record for what in ("", ": recovered")]),
    ]
    for row in ROWS:
        cells = []
        for found in record.values():
            cells += [spread(found[row]), recovered(found, row)]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def recovered(found: dict[str, list[float]], row: str) -> str:
    """Share of the drop in per cent, each seed by itself; none where no seed has a drop of two points."""
    low, high, mine = (np.array(found[name]) for name in (NONE, CEILING, row))
    drop = high - low
    if row in {NONE, CEILING}:
        return ""
    if not (drop > 0.02).all():
        return "no drop"
    return f"{spread(100 * (mine - low) / drop, 0)} %"


if __name__ == "__main__":
    main()
