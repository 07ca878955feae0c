"""How far apart may two events be? ``python -m benchmarks.distance --out FOLDER``

Generated clips hold two events, A and B, once each and 2, 20 or 120 s apart; the label is which one comes first. Clips come
in pairs that differ in the order of the events alone: from 8 s on (two segments) both hold the very same segments, so that an
average over independent segments knows nothing, whatever is made of it. The clip's edges are further from the events than any
token of the row "reading, 2 chunks" looks. NOT SETTLED: a row that can tell how long ago the clip began (far reading, a state)
may believe early events more than late ones, which is right as often and relates nothing. Two columns show it: what the
events tell one at a time, their logits added, and what is left of the later one's vote beside the earlier one (1: not related).

Rows differ in what a token reads beyond its segment; the last one carries a summary state from chunk to chunk, which exists in
this file alone. Every row starts, seed by seed, from the same trunk, taught to tell A from B within a segment, and learns the
order in the same number of steps. The learning rate is chosen for each row on a seed of its own. Writes table.md, table.json
and distance.png; runs that are done are not repeated.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from benchmarks.runs import spread
from pretrain.clips import Clip, View
from pretrain.config import ModelConfig
from pretrain.encoder import Encoder
from pretrain.pooling import Layout, plan
from pretrain.tokens import join, tokenize

RATE, SIDE, PATCH = 4, 8, 2  # frames a second; pixels of the picture and of what moves in it
SEGMENT = 4.0  # seconds of a segment and of a chunk of the time grid
NOISE, DISTRACTOR, EVENT = 64, 100, 255  # noise stays below the first; the others are grey levels
VALIDATION = 100  # the seed that learning rates are chosen on
Draw = Callable[[], Sequence[tuple[Clip, Clip]]]


@dataclass(frozen=True)
class Row:
    """What a token reads beyond its segment: chunks to either side, averaged over so many seconds; a state beside it?"""

    reach: int
    pool_seconds: float = 1.0
    state: bool = False


ROWS = {
    "segments alone": Row(0),
    "reading, 2 chunks": Row(2),
    "reading, 30 chunks": Row(30, 4.0),
    "reading, 2 chunks, and a state": Row(2, state=True),
}


@dataclass(frozen=True)
class Stage:
    """Steps on clips of ``seconds`` whose events are so far apart, and none within ``margin`` seconds of an edge."""

    seconds: float
    distances: tuple[float, ...]
    margin: float
    steps: int


@dataclass(frozen=True)
class Task:
    """First one event alone, A or B? Then the order, in clips that grow: it is learnt where a step is cheap.

    The test's clips are those of the last stage.
    pairs: of clips, a step. tested: pairs a distance. rates: of learning; the gates have ten times that, as by default.
    """

    first: tuple[Stage, ...] = (Stage(SEGMENT, (0.0,), 0.0, 100), Stage(32.0, (0.0,), 0.0, 150))
    stages: tuple[Stage, ...] = (
        Stage(64.0, (0.0, 2.0, 4.0, 8.0), 24.0, 300),
        Stage(100.0, (0.0, 2.0, 20.0, 40.0), 24.0, 100),
        Stage(176.0, (0.0, 2.0, 20.0, 120.0), 24.0, 100),
    )
    pairs: int = 12
    tested: int = 64
    rates: tuple[float, ...] = (3e-3, 6e-3)
    seeds: int = 3
    dim: int = 32
    layers: int = 3

    def model(self, row: Row) -> ModelConfig:
        return ModelConfig(
            dim=self.dim,
            layers=self.layers,
            heads=4,
            mlp_dim=4 * self.dim,
            image_height=SIDE,
            image_width=SIDE,
            patch=SIDE,
            tubelet=RATE,  # a token a second
            frame_rate=RATE,
            chunk_seconds=SEGMENT,
            reach_chunks=row.reach,
            pool_seconds=row.pool_seconds,
            causal=True,
            streams={},
        )


def background(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Noise and two squares that drift and bounce: uint8 [frame, row, column, 3]."""
    frames = rng.integers(0, NOISE, (int(seconds * RATE), SIDE, SIDE, 3), dtype=np.uint8)
    when = np.arange(len(frames))
    span, inside = SIDE - PATCH, np.arange(PATCH)
    for _ in range(2):
        path = rng.uniform(0, 2 * span, 2) + when[:, None] * rng.choice([-1, 1], 2) * rng.uniform(0.15, 0.4, 2)
        row, column = np.abs(path % (2 * span) - span).astype(int).T[..., None, None]
        frames[when[:, None, None], row + inside[:, None], column + inside] = DISTRACTOR
    return frames


def show(frames: np.ndarray, kind: int, start: int, lane: int) -> None:
    """Paints one second of event A (kind 0: a square runs to the right) or B (1: downwards) in one of the lanes."""
    for step in range(RATE):
        row, column = (lane * PATCH, step * PATCH) if kind == 0 else (step * PATCH, lane * PATCH)
        frames[start + step, row : row + PATCH, column : column + PATCH] = EVENT


def pair(rng: np.random.Generator, stage: Stage, distance: float, shown: tuple[int, ...] = (0, 1)) -> tuple[Clip, Clip]:
    """A before B, and B before A: all else is the same, the lane of each event included. Distance 0: A alone, B alone.

    shown: which of the events are there, the first (0), the second (1).
    """
    frames = background(rng, stage.seconds)
    latest = stage.seconds - stage.margin - distance - 1
    start = int(rng.integers(round(stage.margin * RATE), round(latest * RATE) + 1))
    lanes = rng.integers(0, SIDE // PATCH, 2)
    clips = []
    for order in ((0, 1), (1, 0)):
        painted = frames.copy()
        for number in shown if distance else (0,):
            show(painted, order[number], start + number * round(distance * RATE), lanes[order[number]])
        view = View(frames=painted, frame_rate=RATE)
        clips.append(Clip("", "", 0.0, stage.seconds, [], {"main": view}, {}, {}))
    return clips[0], clips[1]


def draws(rng: np.random.Generator, task: Task, stage: Stage) -> list[tuple[Clip, Clip]]:
    """The pairs of one step, of every distance in turn."""
    return [pair(rng, stage, stage.distances[n % len(stage.distances)]) for n in range(task.pairs)]


class State(nn.Module):
    """One summary vector carried from chunk to chunk: state = decay * state + input(mean of the chunk), causal.

    Linear in the clip's length, constant in memory. Each number of the state has a decay of its own, at the start from
    one chunk to some hundreds. A chunk's tokens get the state of the chunks BEFORE it through a gate that starts at zero.
    """

    def __init__(self, dim: int, longest: float = 300.0):
        super().__init__()
        self.norm, self.normalised = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.value, self.open = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim, bias=False)
        forgets = 1 / torch.logspace(0, math.log10(longest), dim)
        self.forgets = nn.Parameter(forgets.expm1().log())  # through softplus, so that it stays above zero
        self.gate = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """x [clip, chunk, token, dim] -> the same with the state added."""
        mean = self.norm(x).mean(2)
        given = self.open(mean).sigmoid() * self.value(mean)
        decay = (-softplus(self.forgets)).exp()
        state, before = given[:, 0], []
        for chunk in given.unbind(1):
            before.append(state)
            state = decay * state + (1 - decay) * chunk
        read = self.out(self.normalised(torch.stack(before, 1))) * self.gate
        return x + rearrange(read, "clip chunk dim -> clip chunk 1 dim")


class Reader(nn.Module):
    """An encoder, perhaps a state after half of its layers, and a linear head on the mean over all tokens: [clip]."""

    def __init__(self, config: ModelConfig, state: bool):
        super().__init__()
        self.encoder = Encoder(config)
        self.state = State(config.dim) if state else None
        self.head = nn.Linear(config.dim, 1)
        self._layouts: dict[tuple[int, int], Layout] = {}

    def features(self, clips: Sequence[Clip]) -> Tensor:
        """[clip, token, dim]; the clips are equally long."""
        config = self.encoder.config
        tokens = join([tokenize(clip, number, config, ("video",))["video"] for number, clip in enumerate(clips)])
        shape = (len(clips), len(tokens))
        if shape not in self._layouts:  # planned once: all clips of a length have the same tokens
            self._layouts[shape] = plan({"video": tokens}, config)
        layout, trunk, half = self._layouts[shape], self.encoder.trunk, (config.layers + 1) // 2
        x = self.encoder.embed({"video": tokens})
        x = trunk.run(slice(half), x, layout)
        if self.state is not None:
            per_chunk = {"clip": len(clips), "token": config.grid[0]}
            x = rearrange(x, "(clip chunk token) dim -> clip chunk token dim", **per_chunk)
            x = rearrange(self.state(x), "clip chunk token dim -> (clip chunk token) dim")
        x = trunk.run(slice(half, None), x, layout)
        assert trunk.norm is not None
        return rearrange(trunk.norm(x), "(clip token) dim -> clip token dim", clip=len(clips))

    def forward(self, clips: Sequence[Clip]) -> Tensor:
        """Logits of "B first" [clip]."""
        x = self.features(clips)
        # not the mean itself, whose spread shrinks with the clip's length: Adam's steps are to suit both lengths
        return self.head(x.sum(1) / math.sqrt(x.shape[1]))[:, 0]


def learn(model: Reader, draws: Sequence[Draw], rate: float, alone: bool = False) -> list[float]:
    """One step a draw, AdamW, warm-up and a cosine; returns what each step took, seconds of this process."""
    groups: dict[float, list[nn.Parameter]] = {0.1: [], 1.0: [], 10.0: []}
    for name, parameter in model.named_parameters():
        new = "gate" in name, name.startswith("state.") or ".reading." in name
        groups[10.0 if new[0] else 1.0 if new[1] or alone else 0.1].append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": some, "lr": rate * share} for share, some in groups.items()], betas=(0.9, 0.95), weight_decay=0.01
    )
    warm = max(len(draws) // 10, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, 1) * (1 + math.cos(math.pi * step / len(draws))) / 2
    )
    seconds = []
    for draw in draws:
        clips = [clip for two in draw() for clip in two]
        began = time.process_time()
        loss = binary_cross_entropy_with_logits(model(clips), torch.arange(len(clips)).remainder(2).float())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        seconds.append(time.process_time() - began)
    return seconds


@torch.inference_mode()
def logits(model: Reader, pairs: Sequence[tuple[Clip, Clip]]) -> Tensor:
    """[pair, order]"""
    said = [model([clip for two in pairs[at : at + 16] for clip in two]) for at in range(0, len(pairs), 16)]
    return rearrange(torch.cat(said), "(pair order) -> pair order", order=2)


def right(said: Tensor) -> list[float]:
    """Share of right answers in each pair, 0, 0.5 or 1, of logits [pair, order]."""
    return ((said > 0) == torch.tensor([False, True])).float().mean(1).tolist()


def one_at_a_time(model: Reader, stage: Stage, count: int, seed: int) -> tuple[list[float], float]:
    """What the events at the stage's last distance tell when they are shown one at a time and the logits added; and how much
    is left of the second one's vote when the first one is there as well.

    A model that merely believes early events more than late ones is as right so, and all of the vote is left.
    """
    said = {}
    for shown in ((0, 1), (0,), (1,), ()):
        rng = np.random.default_rng([seed, 3])  # the same clips again
        said[shown] = logits(model, [pair(rng, stage, stage.distances[-1], shown) for _ in range(count)])
    alone, beside = said[1,] - said[()], said[0, 1] - said[0,]
    return right(said[0,] + alone), float((alone * beside).sum() / alone.square().sum())


def first_weights(task: Task, seed: int) -> dict[str, Tensor]:
    """An encoder and a head that tell A from B within a segment, the same for all rows."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 0])
    model = Reader(task.model(ROWS["segments alone"]), False)
    steps = [partial(draws, rng, task, stage) for stage in task.first for _ in range(stage.steps)]
    learn(model, steps, 3e-3, True)
    return model.state_dict()


def measure(task: Task, row: Row, rate: float, seed: int, first: dict[str, Tensor]) -> dict[str, Any]:
    """Trains and tests one model."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = Reader(task.model(row), row.state)
    model.load_state_dict(first, strict=False)  # a state is not in it
    rng = np.random.default_rng([seed, 1])
    steps = [partial(draws, rng, task, stage) for stage in task.stages for _ in range(stage.steps)]
    seconds = learn(model, steps, rate)
    last = task.stages[-1]
    model.eval()
    found = {}
    for distance in last.distances:
        rng = np.random.default_rng([seed, 2, round(distance)])
        found[f"{distance:g}"] = right(logits(model, [pair(rng, last, distance) for _ in range(task.tested)]))
    gates = [gate.abs().mean().item() for name, gate in model.named_parameters() if "gate" in name]
    added, left = one_at_a_time(model, last, task.tested, seed)
    return {
        "right": found,
        "added": added,
        "left": left,
        "seconds": statistics.median(seconds[-last.steps :]),
        "gates": sum(gates) / len(gates),
    }


def run(task: Task, out: Path, name: str, rate: float, seed: int) -> dict[str, Any]:
    """``measure``, unless that is done in ``out``."""
    folder = out / "runs" / hashlib.sha256(repr(task).encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    path, first = folder / f"{name}, rate {rate:g}, seed {seed}.json", folder / f"seed {seed}.pt"
    partly = folder / f"{os.getpid()}.part"  # renamed when it is whole; another process may make the same
    if not path.exists():
        if not first.exists():
            torch.save(first_weights(task, seed), partly)
            partly.replace(first)
        found = measure(task, ROWS[name], rate, seed, torch.load(first, weights_only=True))
        partly.write_text(json.dumps({"row": name, "rate": rate, "seed": seed, **found}), encoding="utf-8")
        partly.replace(path)
    return json.loads(path.read_text(encoding="utf-8"))


def run_all(task: Task, out: Path, jobs: Sequence[tuple[str, float, int]], processes: int) -> list[dict[str, Any]]:
    """The jobs (row, rate, seed), a line for each when it is done."""
    done = []
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for number, found in enumerate(pool.map(partial(run, task, out), *zip(*jobs, strict=True)), 1):
            shares = ", ".join(f"{np.mean(values):.2f} at {distance} s" for distance, values in found["right"].items())
            print(f"{number} of {len(jobs)}: {found['row']}, rate {found['rate']:g}: {shares}", flush=True)
            done.append(found)
    return done


def summary(shares: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Of the pairs' shares, a list for each seed: mean over seeds, each seed, 95 % interval over pairs of clips."""
    pairs = np.concatenate([np.asarray(one) for one in shares])
    half = 1.96 * float(pairs.std(ddof=1)) / math.sqrt(len(pairs))
    seeds = [float(np.mean(one)) for one in shares]
    mean = float(np.mean(seeds))
    std = float(np.std(seeds, ddof=len(seeds) > 1))
    return {"mean": mean, "std": std, "seeds": seeds, "interval": (mean - half, mean + half)}


def tabulate(task: Task, done: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Everything that the table and the picture show, by row."""
    table = {}
    for name in dict.fromkeys(one["row"] for one in done):
        mine = [one for one in done if one["row"] == name]
        model = task.model(ROWS[name])
        table[name] = {
            "rate": mine[0]["rate"],
            "reaches": model.context_seconds[0],
            "distances": {d: summary([one["right"][d] for one in mine]) for d in mine[0]["right"]},
            "added": summary([one["added"] for one in mine]),
            "left": [one["left"] for one in mine],
            "seconds": statistics.median(one["seconds"] for one in mine),
            "gates": statistics.mean(one["gates"] for one in mine),
        }
    return table


def write(out: Path, task: Task, table: dict[str, Any]) -> None:
    """table.json, table.md, distance.png, and the table on the screen."""
    last = task.stages[-1]
    columns = [f"{d:g} s" for d in last.distances] + [f"{last.distances[-1]:g} s, one event at a time"]
    columns += ["vote left", "reaches back, s", "CPU s a step", "mean gate", "rate"]
    lines = [
        f"Accuracy of which event comes first, mean ± deviation over {task.seeds} seeds (95 % interval over "
        f"{task.seeds} x {task.tested} pairs of clips); chance 0.500.",
        "",
        f"| | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, row in table.items():
        cells = [
            "{:.3f} ± {:.3f} ({:.3f} to {:.3f})".format(one["mean"], one["std"], *one["interval"])
            for one in (*row["distances"].values(), row["added"])
        ]
        cells.append(spread(row["left"], 2))
        cells += [f"{row['reaches']:g}", f"{row['seconds']:.3f}", f"{row['gates']:.2f}", f"{row['rate']:g}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    stages = "; ".join(
        f"{s.steps} of {s.seconds:g} s, {', '.join(f'{d:g}' for d in s.distances)} s apart" for s in task.stages
    )
    lines += ["", f"Steps of {2 * task.pairs} clips: {stages}. Width {task.dim}, {task.layers} layers.", ""]
    text = "\n".join(lines)
    (out / "table.md").write_text(text, encoding="utf-8")
    (out / "table.json").write_text(json.dumps({"task": asdict(task), "rows": table}, indent=1), encoding="utf-8")
    draw_picture(out / "distance.png", table)
    print(text)


def draw_picture(path: Path, table: dict[str, Any]) -> None:
    """Accuracy against distance, a line a row with its interval, chance dotted."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
    distances = np.array([float(d) for d in next(iter(table.values()))["distances"]])
    for number, (name, row) in enumerate(table.items()):
        means = np.array([one["mean"] for one in row["distances"].values()])
        ends = np.abs(np.array([one["interval"] for one in row["distances"].values()]).T - means)
        at = distances * 1.03**number  # side by side where they would cover one another
        axes.errorbar(at, means, ends, marker="o", markersize=4, capsize=2, label=name)
    axes.axhline(0.5, color="grey", linestyle=":", linewidth=1)
    axes.set_xscale("symlog", linthresh=2)  # 0 s is one event alone
    axes.set_xlim(-0.3, 1.2 * distances.max())
    axes.set_xticks(distances, [f"{d:g}" for d in distances])
    axes.minorticks_off()
    axes.set(ylim=(0.4, 1.02), xlabel="seconds between the events", ylabel="accuracy (dotted: chance)")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def benchmark(task: Task, out: Path, processes: int = 2) -> dict[str, Any]:
    """Chooses rates on a seed that is not tested, then measures all rows on the others."""
    tried = run_all(task, out, [(name, rate, VALIDATION) for name in ROWS for rate in task.rates], processes)
    rates = {}
    for name in ROWS:  # the highest accuracy over all distances
        scores = [(np.mean(list(one["right"].values())), one["rate"]) for one in tried if one["row"] == name]
        rates[name] = max(scores)[1]
    jobs = [(name, rates[name], seed) for seed in range(task.seeds) for name in ROWS]
    table = tabulate(task, run_all(task, out, jobs, processes))
    write(out, task, table)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, the table and the picture")
    options = parser.parse_args()
    benchmark(Task(), options.out)


if __name__ == "__main__":
    main()
