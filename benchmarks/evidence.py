"""Does pretraining look across people, streams and time, or does it fill gaps?

    python -m benchmarks.evidence --runs RUN [RUN ...] --shards OUT --out FOLDER [--independent OUT2]

For every kind of masking and every modality: the error of what the model rebuilds of held-out clips, beside

- mean: the mean of what is visible of the same track (person and view; of pixels: of the same place), a tubelet's own mean where
  nothing of it is visible;
- line: straight from one visible instant of the track to the next;
- swapped: the model itself, with what it should look at taken from a clip of another recording, at the same times and places:
  for the kinds random and stream all other streams, for partner and future the other people's streams.

``--independent``: shards of scenes in which nobody answers anybody (``kinesic data_prep synthetic --independent true``). There the
kinds partner and future can gain nothing from the other people.

Errors are those of the loss (squared, of standardised numbers and of pixels normalised tubelet by tubelet). Differences are
paired, over the seeds' mean, with 95 % intervals (recordings resampled). Writes table.md and table.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from data_prep.shards import read_index
from finetune.features import batches
from finetune.metrics import bootstrap_recordings
from pretrain.clips import Clip
from pretrain.config import KINDS
from pretrain.masking import NOT_REBUILT, Mask, draw_mask
from pretrain.objective import MaskedAutoencoder, pixel_targets
from pretrain.tokens import SCENE, StreamTokenizer, Tokens, tokenize
from pretrain.traces import people_of
from pretrain.trained import load_autoencoder

COUNT, OURS, MEAN, LINE, PAIRED, OURS_PAIRED, SWAPPED = range(
    7
)  # sums over targets; the last three where a swap was possible
BATCH = 16
SEED = 1000  # of the masks
Swap = dict[str, np.ndarray]


def main() -> None:
    """Reads the arguments, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", type=Path, nargs="+", required=True, help="pretraining runs that differ in their seed"
    )
    parser.add_argument("--shards", type=Path, required=True, help="shards with held-out clips")
    parser.add_argument("--split", default="test", help="their split (default: test)")
    parser.add_argument("--independent", type=Path, help="shards of scenes of independent people")
    parser.add_argument("--recordings", type=int, default=64, help="at most (default: 64)")
    parser.add_argument("--out", type=Path, required=True, help="folder for table.md and table.json")
    args = parser.parse_args()
    models = [load_autoencoder(run) for run in args.runs]
    table = rows(sums_of(models, args.shards, args.split, args.recordings, KINDS))
    apart: dict[str, Any] = {}
    if args.independent:
        apart = rows(sums_of(models, args.independent, args.split, args.recordings, ("partner", "future")))
    args.out.mkdir(parents=True, exist_ok=True)
    text = as_markdown(table, apart, len(models))
    (args.out / "table.md").write_text(text, encoding="utf-8")
    (args.out / "table.json").write_text(
        json.dumps({"scenes": table, "independent": apart}, indent=1), encoding="utf-8"
    )
    print(text)


def sums_of(
    models: Sequence[MaskedAutoencoder], shards: Path, split: str, recordings: int, kinds: Sequence[str]
) -> dict[str, np.ndarray]:
    """Sums of errors of each "kind/modality": [seed, recording, 7], over all clips of a split."""
    index = read_index(shards)
    index = index[index["split"] == split]
    names = index["recording"].unique()[:recordings]
    index = index[index["recording"].isin(names)].reset_index(drop=True)
    modalities = models[0].config.modalities
    sums = {f"{k}/{m}": np.zeros((len(models), len(names), 7)) for k in kinds for m in modalities}
    read = [clip for batch in batches(shards, index, modalities, BATCH, 0) for clip in batch if clip is not None]
    starts = range(0, len(read), BATCH)
    for start in track(starts, f"{len(read)} clips of {split}"):
        clips = read[start : start + BATCH]
        donors = [_donor(read, start + number) for number in range(len(clips))]
        where = np.array([names.tolist().index(clip.recording) for clip in clips])
        for seed, model in enumerate(models):
            for kind in kinds:
                for name, errors in measure(model, clips, donors, kind, SEED + start):
                    np.add.at(sums[f"{kind}/{name}"][seed], where[errors[:, 0].astype(int)], errors[:, 1:])
    return sums


def _donor(clips: Sequence[Clip], number: int) -> Clip:
    """A clip of the next recording, from as far into it."""
    others = [clip for clip in clips if clip.recording != clips[number].recording]
    return others[(number * 17) % len(others)]


@torch.inference_mode()
def measure(
    model: MaskedAutoencoder, clips: Sequence[Clip], donors: Sequence[Clip], kind: str, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Errors of what is rebuilt for a kind of masking: (modality, [target, 8]: number of the clip, then COUNT to SWAPPED)."""
    mask = replace(model.mask, kinds={kind: 1.0})
    given = [tokenize(clip, number, model.config, model.config.modalities) for number, clip in enumerate(clips)]
    other = [tokenize(clip, number, model.config, model.config.modalities) for number, clip in enumerate(donors)]
    drawn = [
        draw_mask(*pair, model.config, mask, seed + number)
        for number, pair in enumerate(zip(clips, given, strict=True))
    ]
    everything, truth = _errors(model, given, drawn)
    wholes: dict[tuple[str, ...], dict[str, np.ndarray]] = {}
    for name, (rows, errors) in everything.items():
        asked = rows[:, 1] == KINDS.index(kind)
        if not asked.any():
            continue
        out = np.zeros((len(rows), 8))
        out[:, 0], out[:, 1 + COUNT], out[:, 1 + OURS] = rows[:, 0], 1, errors
        out[:, 1 + MEAN], out[:, 1 + LINE] = _fillings(model, name, given, drawn, *truth[name])
        swaps = [swap_of(kind, name, tokens, mask_) for tokens, mask_ in zip(given, drawn, strict=True)]
        key = (name,) if kind in ("random", "stream") else ()  # the others swap the same for all modalities
        if key not in wholes:
            wholes[key] = _swapped_errors(model, given, other, drawn, swaps)
        paired = np.array([swap is not None for swap in swaps])[rows[:, 0]]
        out[paired, 1 + PAIRED] = 1
        out[paired, 1 + OURS_PAIRED] = errors[paired]
        out[paired, 1 + SWAPPED] = wholes[key][name][paired]
        yield name, out[asked]


def _errors(
    model: MaskedAutoencoder, tokens: Sequence[dict[str, Tokens]], drawn: Sequence[Mask]
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, tuple[Tensor, Tensor | None]]]:
    """By modality: (clip and kind [target, 2], error [target]); and (targets [target, number], which of them count)."""
    batch = model.pack([model.used("", t, d) for t, d in zip(tokens, drawn, strict=True)], [])
    predictions = model.rebuild(batch)
    found, truth = {}, {}
    for name, predicted in predictions.items():
        rows = np.stack([batch.both[name].clip[batch.queries[name]], batch.kinds[name]], 1)
        found[name] = rows, model.errors(name, batch, predicted).numpy()
        truth[name] = model.targets(name, batch)[:2]
    return found, truth


def _swapped_errors(
    model: MaskedAutoencoder,
    tokens: Sequence[dict[str, Tokens]],
    donors: Sequence[dict[str, Tokens]],
    drawn: Sequence[Mask],
    swaps: Sequence[Swap | None],
) -> dict[str, np.ndarray]:
    """Errors [target] by modality with the donors' tokens in place of those that ``swaps`` names, clip by clip."""
    pairs = [
        (own, mask) if swap is None else swapped(own, donor, mask, swap)
        for own, donor, mask, swap in zip(tokens, donors, drawn, swaps, strict=True)
    ]
    errors = _errors(model, [own for own, _ in pairs], [mask for _, mask in pairs])[0]
    return {name: values for name, (_, values) in errors.items()}


def swap_of(kind: str, name: str, tokens: dict[str, Tokens], drawn: Mask) -> Swap | None:
    """What is to be looked at, bool [token] by modality; None where a clip has nothing of it.

    random and stream: all streams but ``name``, the one that is judged; partner and future: the other people.
    """
    if kind in ("random", "stream"):
        swap = {other: np.full(len(part), other != name) for other, part in tokens.items()}
    else:
        asked = [part.person[drawn.rebuilt[other] == KINDS.index(kind)] for other, part in tokens.items()]
        hidden = np.setdiff1d(np.concatenate(asked), [SCENE])
        if not len(hidden):
            return None
        swap = {other: ~np.isin(part.person, [*hidden, SCENE]) for other, part in tokens.items()}
    return swap if any((rows & ~drawn.hidden[other]).any() for other, rows in swap.items()) else None


def swapped(
    tokens: dict[str, Tokens], donor: dict[str, Tokens], drawn: Mask, swap: Swap
) -> tuple[dict[str, Tokens], Mask]:
    """The visible tokens of ``swap`` with the contents of the donor's at the same time, place, view and person (the first is
    the first one, and so on); where the donor has none they are hidden."""
    who = dict(zip(people_of(tokens).tolist(), people_of(donor).tolist(), strict=False))
    parts, hidden = {}, {}
    for name, part in tokens.items():
        rows = np.flatnonzero(swap[name] & ~drawn.hidden[name])
        places = {} if name not in donor else {key: n for n, key in enumerate(_keys(name, donor[name], None))}
        source = np.array([places.get(key, -1) for key in _keys(name, part.take(rows), who)], np.int64)
        hidden[name] = drawn.hidden[name].copy()
        hidden[name][rows[source < 0]] = True
        parts[name] = part
        if (source >= 0).any():
            to, given = torch.from_numpy(rows[source >= 0]), donor[name].take(source[source >= 0])
            valid = (
                part.valid if given.valid is None or part.valid is None else part.valid.index_copy(0, to, given.valid)
            )
            parts[name] = replace(part, values=part.values.index_copy(0, to, given.values), valid=valid)
    return parts, replace(drawn, hidden=hidden)


def _keys(name: str, part: Tokens, who: dict[int, int] | None) -> list[tuple[int, int, int, int]]:
    """(view, person, milliseconds, place) of tokens; ``who``: the person's number in the other clip. Sound is anybody's."""
    person = [SCENE if name == "audio" else p if who is None else who.get(p, p) for p in part.person.tolist()]
    times = np.round(part.time * 1000).astype(int).tolist()
    return list(zip(part.view.tolist(), person, times, part.place.tolist(), strict=True))


def _fillings(
    model: MaskedAutoencoder,
    name: str,
    tokens: Sequence[dict[str, Tokens]],
    drawn: Sequence[Mask],
    target: Tensor,
    valid: Tensor | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Errors [target] of the mean and of the line, over all clips."""
    found = [filled(model, name, own[name], mask) for own, mask in zip(tokens, drawn, strict=True) if name in own]
    both = []
    for values in zip(*found, strict=True):
        squares = torch.square(torch.cat(values) - target)
        both.append(squares.mean(1) if valid is None else (squares * valid).sum(1) / valid.sum(1).clamp(min=1))
    return both[0].numpy(), both[1].numpy()


def filled(model: MaskedAutoencoder, name: str, part: Tokens, drawn: Mask) -> tuple[Tensor, Tensor]:
    """What the mean and the line say of the rebuilt tokens of a clip, as the loss counts it: [target, number] each."""
    video = name == "video"
    tokenizer = model.encoder.tokenizer(name)
    values = (
        (tokenizer.standardised(part) if isinstance(tokenizer, StreamTokenizer) else part.values[:, None])
        .float()
        .numpy()
    )
    there = np.ones(values.shape[:2], bool) if part.valid is None else part.valid.numpy()
    cells = values.shape[1]
    seconds = 0.0 if video else model.config.streams[name].cell_seconds
    times = part.time[:, None] + (np.arange(cells) - (cells - 1) / 2) * seconds  # [token, cell]
    asked = drawn.rebuilt[name] != NOT_REBUILT
    out = [np.full(values.shape, 0.0), np.full(values.shape, 0.0)]
    known = np.zeros(len(part), bool)
    for rows in _tracks(part):
        seen = there & ~drawn.hidden[name][:, None] & rows[:, None]
        if seen.any():
            where = rows & asked
            known |= where
            out[0][where] = values[seen].mean(0)
            out[1][where] = _line(times[seen], values[seen], times[where])
    means, lines = (torch.from_numpy(side[asked]).float() for side in out)
    if not video:
        return means.flatten(1), lines.flatten(1)
    means, lines = (pixel_targets(side[:, 0].to(torch.uint8), model.mask.pixel_floor) for side in (means, lines))
    unseen = torch.from_numpy(~known[asked])[:, None]
    return means.masked_fill(unseen, 0), lines.masked_fill(unseen, 0)


def _tracks(part: Tokens) -> Iterator[np.ndarray]:
    """bool [token] of each track: person, view and place."""
    _, track_ = np.unique(np.stack([part.view, part.person, part.place], 1), axis=0, return_inverse=True)
    for number in range(int(track_.max(initial=-1)) + 1):
        yield track_.ravel() == number


def _line(known: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """values [instant, number] at ``known`` [instant], told straight from one to the next at ``asked`` [token, cell]."""
    from scipy.interpolate import interp1d

    order = np.argsort(known, kind="stable")
    if len(order) == 1:
        return np.broadcast_to(values, (*asked.shape, values.shape[-1]))
    ends = values[order[0]], values[order[-1]]
    told = interp1d(
        known[order], values[order], axis=0, bounds_error=False, fill_value=ends
    )  # pyrefly: ignore[bad-argument-type]
    return told(asked)


def rows(sums: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """ "kind/modality" -> error of the model and how much larger each other one is: mean and 95 % interval."""
    table = {}
    for label, of in sums.items():
        if not of[..., COUNT].sum():
            continue
        total = of.sum(1)
        row: dict[str, Any] = {
            "targets": int(total[0, COUNT]),
            "error": float((total[:, OURS] / total[:, COUNT]).mean()),
        }
        for name, theirs, ours, count in (
            ("mean", MEAN, OURS, COUNT),
            ("line", LINE, OURS, COUNT),
            ("swapped", SWAPPED, OURS_PAIRED, PAIRED),
        ):
            if not total[:, count].all():
                continue

            def more(s: np.ndarray, theirs: int = theirs, ours: int = ours, count: int = count) -> np.ndarray:
                return (s[..., theirs] - s[..., ours]) / np.maximum(s[..., count], 1)

            row[name] = {"mean": float(more(total).mean()), "interval": bootstrap_recordings(of, more)}
        table[label] = row
    return table


def as_markdown(table: dict[str, Any], apart: dict[str, Any], seeds: int) -> str:
    """The tables for people."""
    head = ["| kind: modality | targets | error | the mean's | the line's | swapped |", "|---" * 6 + "|"]
    lines = [
        f"Error of what is rebuilt, and how much more the others have (95 % intervals, recordings resampled; {seeds} runs).",
        "",
        *head,
        *(_line_of(label, row) for label, row in table.items()),
    ]
    if apart:
        lines += ["", "People who do not answer one another:", "", *head]
        lines += [_line_of(label, row) for label, row in apart.items()]
    return "\n".join([*lines, ""])


def _line_of(label: str, row: dict[str, Any]) -> str:
    def shown(name: str) -> str:
        if name not in row:
            return ""
        low, high = row[name]["interval"]
        return f"{row[name]['mean']:+.4f} ({low:+.4f} to {high:+.4f})"

    cells = [
        label.replace("/", ": "),
        str(row["targets"]),
        f"{row['error']:.3f}",
        *map(shown, ("mean", "line", "swapped")),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
