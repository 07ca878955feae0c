"""Do published weights stay useful where streams are added to them?

    python -m benchmarks.extend --shards OUT --labels labels.csv --out FOLDER

Generated scenes. A trunk is pretrained on video alone with its gates closed, so that every segment is read by itself, and
exported as a Hugging Face VideoMAE, decoder and all: it stands for published weights. All streams are then pretrained from it
in half of the steps, the trunk learning fully, slowly or not at all, and from scratch in all of the steps, with several seeds each.

Measured: whether the features of video are as they were at step 0; losses on clips and masks that are the same for all
runs; the step at which the mean over the last steps has come down to where the run from scratch of that seed ended (on
training clips: noisy, so that the first time is early rather than late); linear probes. Writes table.md, table.json and
extend.png; what is done is not done again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks import runs
from benchmarks.shortcut import difference, of_examples, probed, read_problem
from finetune import baselines
from finetune.config import RunConfig as FinetuneConfig
from finetune.evaluation import summary
from finetune.features import as_features, encoding, map_clips
from finetune.problem import Problem, parts_of
from finetune.splits import Split
from pretrain import checkpoint
from pretrain.clips import Clip
from pretrain.config import ExportConfig, RunConfig
from pretrain.encoder import Encoder
from pretrain.export import export
from pretrain.objective import MaskedAutoencoder
from pretrain.release import load_encoder
from pretrain.stream import Clips, mask_seed
from pretrain.weights import initialise

MODES = ("full", "low_lr", "frozen")
AVERAGED = 20  # steps, of a run's losses
SCRATCH, TOTAL = "scratch", "total"


def main() -> None:
    """Reads the arguments, trains, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True, help="shards with splits pretrain, train, test, ...")
    parser.add_argument("--labels", type=Path, required=True, help="labels.csv of the scenes")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs, table.md, table.json, extend.png")
    parser.add_argument("--recipe", default="demo", help="of `pretrain run` (default: demo)")
    parser.add_argument("--target", default="gesture", help="column of the labels (default: gesture)")
    parser.add_argument("--steps", type=int, default=240, help="from scratch; extended in half (default: 240)")
    parser.add_argument("--trunk_steps", type=int, default=480, help="of the trunk on video alone (default: 480)")
    parser.add_argument("--clips", type=int, default=6, help="of a recording, for the probes (default: 6)")
    parser.add_argument("--held_out", type=int, default=128, help="clips of the split test for losses (default: 128)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind (default: 3)")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each (default: 2)")
    args = parser.parse_args()
    began = time.perf_counter()
    trained = train(args)
    released = args.out / "trunk" / "release"
    config = FinetuneConfig(released, args.shards, args.labels, args.target, args.out)
    trunk = load_encoder(released).requires_grad_(False)
    problem, given = read_problem(config, trunk, args.clips)
    record: dict[str, Any] = {
        "step 0": at_step_0(trained[MODES[0]][0], trunk, problem, given),
        "losses": measure_losses(trained, args.held_out),
        "probes": measure_probes(trained, released, problem, given, args.processes),
        "steps": {name: some[0].steps for name, some in trained.items()},
        "training minutes": float(sum(runs.seconds(c.out).sum() for some in trained.values() for c in some)) / 60,
        "minutes": (time.perf_counter() - began) / 60,
    }
    text = as_text(record, args)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    (args.out / "table.md").write_text(text, encoding="utf-8")
    draw(args.out / "extend.png", trained)
    print(text)


def train(args: argparse.Namespace) -> dict[str, list[RunConfig]]:
    """Trains the trunk, exports it, and everything else; the configs of the runs by kind, one a seed."""
    # closed gates that never learn: VideoMAE's own function, so that the export leaves nothing out
    alone = ("--model.streams", "{}", "--optimizer.gate_lr", "0")
    runs.train(args.recipe, args.shards, args.out / "trunk", args.trunk_steps, *alone)
    published = args.out / "videomae"
    if not published.is_dir():
        export(ExportConfig(args.out / "trunk", published))
    names = [name for _ in range(args.seeds) for name in (SCRATCH, *MODES)]
    work = []
    for number, name in enumerate(names):
        seed = number // (1 + len(MODES))
        words = ["--seed", str(seed)]
        if name != SCRATCH:
            words += ["--init", str(published), "--optimizer.trunk", name]
        steps = args.steps if name == SCRATCH else args.steps // 2
        work.append((args.recipe, args.shards, args.out / f"{name}-{seed}", steps, *words))
    trained: dict[str, list[RunConfig]] = {}
    for name, config in zip(names, runs.in_pool(runs.train, work, args.processes), strict=True):
        trained.setdefault(name, []).append(config)
    return trained


def at_step_0(config: RunConfig, trunk: Encoder, problem: Problem, given: Split) -> dict[str, Any]:
    """Features of video, float32, of the trunk and of the extended encoder before its first step: read alone, and beside
    all streams. The largest difference, as a share of the largest feature, and the probe's accuracy of each."""
    assert config.init is not None
    torch.manual_seed(config.seed)
    model = MaskedAutoencoder(config.model, config.mask)
    initialise(model, load_encoder(config.init), config.init)
    model.fit_statistics(Clips(config.data, config.model.modalities).spread(config.data.statistics_clips))
    extended = model.encoder.eval().requires_grad_(False)
    read = {"trunk": (trunk, ("video",)), "alone": (extended, ("video",)), "beside": (extended, extended.modalities)}
    table = map_clips(
        problem.shards,
        problem.index,
        [encoding(encoder, streams, f"{name} ") for name, (encoder, streams) in read.items()],
        extended.modalities,
        parts=parts_of(problem.examples),
        workers=0,
        title="step 0",
    )
    table = of_examples(table, problem.examples)
    video = {name: as_features(table[f"{name} values"][:, :1], table[f"{name} present"][:, :1]) for name in read}
    results = probed(problem, given, {f"step 0, {name}": [features] for name, features in video.items()})
    of_trunk, reference = results["step 0, trunk"], video["trunk"].values
    return {
        name: {
            "difference": float(np.abs(features.values - reference).max() / np.abs(reference).max()),
            "changed": sum(
                changed(of_trunk[test].values, predictions.values)
                for test, predictions in results[f"step 0, {name}"].items()
            ),
            "predictions": sum(of_trunk[test].values.argmax(2).size for test in of_trunk),
            "accuracy": {test: row["accuracy"] for test, row in summary(problem, results[f"step 0, {name}"]).items()},
        }
        for name, features in video.items()
    }


def changed(before: np.ndarray, after: np.ndarray) -> int:
    """How many examples two sets of scores [seed, example, class] give another class."""
    return int((before.argmax(2) != after.argmax(2)).sum())


def measure_losses(trained: dict[str, list[RunConfig]], count: int) -> dict[str, dict[str, Any]]:
    """Kind of run -> loss -> each seed's held-out loss, and the step at which it had reached scratch's end, None = never."""
    first = trained[SCRATCH][0]
    modalities = first.model.modalities
    clips = Clips(replace(first.data, splits=["test"]), modalities).spread(count)
    curves = {name: [smoothed(config) for config in some] for name, some in trained.items()}
    ends = {name: [held_out(config, clips) for config in some] for name, some in trained.items()}
    return {
        name: {
            loss: {
                "held out": [end[loss] for end in ends[name]],
                "reached": [
                    reached(curve[:, column], float(scratch[-1, column]))
                    for curve, scratch in zip(curves[name], curves[SCRATCH], strict=True)
                ],
            }
            for column, loss in enumerate([*modalities, TOTAL])
        }
        for name in trained
    }


def smoothed(config: RunConfig) -> np.ndarray:
    """The mean over the last steps up to each one, of the losses and their sum, [step, loss]; nan before there are enough."""
    found = runs.losses(config.out, config.model.modalities)
    found = np.concatenate([found, found.sum(1, keepdims=True)], 1)
    width = min(AVERAGED, len(found))
    means = np.nanmean(np.lib.stride_tricks.sliding_window_view(found, width, axis=0), -1)
    return np.concatenate([np.full((width - 1, found.shape[1]), np.nan), means])


def reached(curve: np.ndarray, level: float) -> int | None:
    """The first step, from 1, at which a curve [step] is down at a level."""
    steps = np.flatnonzero(curve <= level)
    return int(steps[0]) + 1 if len(steps) else None


@torch.inference_mode()
def held_out(config: RunConfig, clips: Sequence[Clip]) -> dict[str, float]:
    """The losses of a run's end on given clips, by masks that follow from the clips alone, and their sum."""
    model = MaskedAutoencoder(config.model, config.mask).eval()
    newest = checkpoint.newest(config.out)
    assert newest is not None
    model.load_state_dict(load_file(newest / "weights.safetensors"))
    sums, counts = dict.fromkeys(config.model.modalities, 0.0), dict.fromkeys(config.model.modalities, 0)
    for first in range(0, len(clips), config.batch):
        some = clips[first : first + config.batch]
        batch = model.collate(some, [mask_seed(0, clip.key, -1) for clip in some])
        errors = model(batch)
        for name in sums:
            sums[name] += float(errors[name])
            counts[name] += batch.counts.get(name, 0)
    losses = {name: sums[name] / max(counts[name], 1) for name in sums}
    return losses | {TOTAL: sum(losses.values())}


def measure_probes(
    trained: dict[str, list[RunConfig]], trunk: Path, problem: Problem, given: Split, processes: int
) -> dict[str, dict[str, Any]]:
    """ "rows": summaries by row and test; "differences", paired: extended in half of the steps less from scratch, and the ways in
    which the trunk learns less the first of them."""
    releases = [trunk, *(config.out / "release" for some in trained.values() for config in some)]
    read = iter(runs.in_pool(runs.features, [(problem, release) for release in releases], processes))
    scratch = [(problem, config.out / "release", config.seed) for config in trained[SCRATCH]]
    beside = runs.in_pool(runs.references, scratch, processes)
    rows = {
        "raw streams": [baselines.raw_streams(beside[0]["raw"])],
        **{f"untrained, {which}": found for which, found in runs.both_readings(beside).items()},
        "trunk, video alone": runs.both_readings([next(read)])["video alone"],
    }
    for name, some in trained.items():
        tables = [next(read) for _ in some]
        rows |= {f"{name}, {which}": found for which, found in runs.both_readings(tables).items()}
    results = probed(problem, given, rows)
    pairs = [
        (f"{name}, {which}", f"{other}, {which}")
        for which in ("video alone", "all streams")
        for names, other in ((MODES, SCRATCH), (MODES[1:], MODES[0]))
        for name in names
    ]
    return {
        "rows": {name: summary(problem, row) for name, row in results.items()},
        "differences": {
            f"{a} - {b.split(',')[0]}": {
                test: difference(problem, results[a][test], results[b][test]) for test in results[a]
            }
            for a, b in pairs
        },
    }


def as_text(record: dict[str, Any], args: argparse.Namespace) -> str:
    """The tables in Markdown."""
    names = list(record["losses"][SCRATCH])
    lines = [
        f"Trunk on video alone: {args.trunk_steps} steps. Losses on {args.held_out} clips of `test`, mean ± deviation over "
        f"{args.seeds} seeds; in brackets the step at which the running loss was where that seed's run from scratch ended.",
        "",
        f"| | steps | {' | '.join(names)} |",
        "|---" * (len(names) + 2) + "|",
    ]
    for name, row in record["losses"].items():
        cells = []
        for loss in names:
            steps = ", ".join("never" if step is None else str(step) for step in row[loss]["reached"])
            cells.append(runs.spread(row[loss]["held out"]) + ("" if name == SCRATCH else f" ({steps})"))
        lines.append(f"| {name} | {record['steps'][name]} | {' | '.join(cells)} |")
    rows, differences = record["probes"]["rows"], record["probes"]["differences"]
    tests = list(rows[f"{SCRATCH}, all streams"])
    lines += ["", f"Accuracy of `{args.target}`, linear probe:", "", *runs.header(tests)]
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(runs.spread(row[test]['accuracy']['seeds']) for test in tests)} |")
    lines += ["", "Differences, paired by recording, with 95 % intervals:", "", *runs.header(tests)]
    for name, row in differences.items():
        lines.append(f"| {name} | {' | '.join(runs.with_interval(row[test]) for test in tests)} |")
    lines += ["", "Video at step 0, the extended encoder beside the trunk:", ""]
    for name, found in record["step 0"].items():
        changed = f"{found['changed']} of {found['predictions']} predictions changed"
        lines.append(f"- {name}: largest difference {found['difference']:.1e} of the largest feature; {changed}")
    lines += ["", f"{record['training minutes']:.0f} minutes of training steps.", ""]
    return "\n".join(lines)


def draw(path: Path, trained: dict[str, list[RunConfig]]) -> None:
    """Losses against steps, a panel a loss: the mean over the last steps and over the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [*trained[SCRATCH][0].model.modalities, TOTAL]
    figure, panels = plt.subplots(1, len(names), figsize=(3.2 * len(names), 3.2), layout="constrained", squeeze=False)
    for kind, some in trained.items():
        curve = np.mean([smoothed(config) for config in some], axis=0)
        for panel, values in zip(panels[0], curve.T, strict=True):
            panel.plot(np.arange(1, len(values) + 1), values, label=kind, linestyle="--" if kind == SCRATCH else "-")
            if kind == SCRATCH:
                panel.axhline(values[-1], color="grey", linestyle=":", linewidth=1)
    for panel, name in zip(panels[0], names, strict=True):
        panel.set(title=name, xlabel="step")
    panels[0, 0].set_ylabel(f"loss, mean of {AVERAGED} steps and {len(trained[SCRATCH])} seeds")
    panels[0, -1].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
