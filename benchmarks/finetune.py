"""What do the small methods reach beside full fine-tuning, and what do they cost?

    OMP_NUM_THREADS=1 python -m benchmarks.finetune --release RELEASE --shards OUT --labels labels.csv --out FOLDER
        [--real_data FOLDER --real_labels CSV --real_target TARGET]

Rows: every method, and those with weights in the blocks once more in the last third of them alone. Columns: the metric on a
generated task, with all labels and with ten a class, and on a real labelled set; the trained share of the backbone; step time
as a share of full fine-tuning's, and memory (finetune_steps.py), at ViT-S on clips of 16 x 224 x 224 with sound, its weights
random, and at the release's own size.

Each method is tried with four learning rates (full fine-tuning: three of the last block, with layer-wise decay), which the loss on
held-out recordings of the training part chooses: on the first seed, and with few labels on all of them. In the last third the
rate is what was chosen for all blocks. ``linear`` chooses its penalty on the training part. A seed draws what is held out, the
ten labels a class, and the first weights. Writes table.md, table.json and finetune.png; what is done is not done again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks import finetune_steps
from benchmarks.finetune_table import as_text, draw
from benchmarks.gpu import generated_clips
from benchmarks.shortcut import difference, stacked
from data_prep.shards import read_sample
from finetune import methods, training
from finetune.config import AdapterConfig, FullConfig, RunConfig, TrainingConfig
from finetune.data import chosen_streams, open_encoder, open_shards
from finetune.evaluation import Predictions, evaluate, summary
from finetune.features import cached, data_digest, digest_of, weights_digest
from finetune.labels import read_labels
from finetune.methods import linear
from finetune.problem import Problem, load_problem
from finetune.splits import Split, hold_out
from pretrain.clips import read_clip
from pretrain.config import ModelConfig
from pretrain.encoder import Encoder

FULL = finetune_steps.FULL
ALL_BLOCKS: dict[str, dict[str, Any]] = {
    "linear": {"method": "linear"},
    FULL: {"method": "full"},
    "adapter": {"method": "adapter"},
    "lora": {"method": "lora"},
    "attentive": {"method": "attentive"},
    "prompt": {"method": "prompt"},
    "prefix": {"method": "prefix"},
    "cross": {"method": "cross"},
    "temporal adapter": {"method": "adapter", "adapter": AdapterConfig(temporal=True)},
}
IN_BLOCKS = tuple(name for name in ALL_BLOCKS if name not in {"linear", "attentive", FULL})
LAST_THIRD = ", last third"
NAMES = (*ALL_BLOCKS, *(name + LAST_THIRD for name in IN_BLOCKS))
RATES, FULL_RATES = (3e-4, 1e-3, 3e-3, 1e-2), (3e-4, 1e-3, 3e-3)
ALL, HELD_OUT = "all labels", 0.2
VIT_S = "ViT-S"


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", type=Path, required=True, help="release of a pretraining run")
    parser.add_argument("--shards", type=Path, required=True, help="shards with splits train and test")
    parser.add_argument("--labels", type=Path, required=True, help="labels.csv of the scenes")
    parser.add_argument("--out", type=Path, required=True, help="folder for table.md, table.json, finetune.png, cells")
    parser.add_argument("--target", default="gesture", help="column of the labels (default: gesture)")
    parser.add_argument("--real_data", type=Path, help="a real labelled set: videos, a manifest or shards")
    parser.add_argument("--real_labels", type=Path, help="its labels")
    parser.add_argument("--real_target", help="the column of them")
    parser.add_argument("--real_group_by", help="as of `finetune run` (default: participant)")
    parser.add_argument("--real_window", type=float, help="seconds of a window that is predicted (default: a clip)")
    parser.add_argument("--streams", nargs="+", default=["video"], help="that the encoder reads (default: video)")
    parser.add_argument("--methods", nargs="+", default=list(NAMES), choices=NAMES, help="rows (default: all)")
    parser.add_argument("--clips", type=int, default=4, help="of a recording, to learn from (default: 4)")
    parser.add_argument("--test_clips", type=int, default=2, help="of a recording, to test with (default: 2)")
    parser.add_argument("--few", type=int, default=10, help="labels a class where they are few (default: 10)")
    parser.add_argument("--epochs", type=int, default=3, help="with all labels, at most (default: 3)")
    parser.add_argument("--few_epochs", type=int, default=5, help="with few labels, at most (default: 5)")
    parser.add_argument("--batch", type=int, default=8, help="clips a step (default: 8)")
    parser.add_argument("--seeds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each method (default: 5)")
    args = parser.parse_args(words)
    args.methods = [name for name in NAMES if name in {*args.methods, FULL}]  # what the others stand beside, always
    return args


def main() -> None:
    """Reads the arguments, measures, prints and writes."""
    args = arguments()
    torch.set_num_threads(1)
    began = time.process_time()
    record: dict[str, Any] = {"steps": step_costs(args), "tasks": {}}
    for trial in trials(args):
        found = measure(args, trial)
        record.setdefault("share", shares(args, trial.encoder))
        record["tasks"][trial.name] = found
        save(args, record)
    print(f"{save(args, record)}\n{(time.process_time() - began) / 60:.0f} minutes of one core")


def save(args: argparse.Namespace, record: dict[str, Any]) -> str:
    """Writes what there is so far; returns the table."""
    text = as_text(record)
    (args.out / "table.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    (args.out / "table.md").write_text(text, encoding="utf-8")
    draw(args.out / "finetune.png", record)
    return text


# ---- what is compared ----


def config_of(args: argparse.Namespace, name: str, encoder: Encoder, lr: float = 1e-3, **more: Any) -> RunConfig:
    """The settings of ``finetune run`` for a row."""
    given = {"encoder": args.release, "data": args.shards, "labels": args.labels, "target": args.target}
    given |= {"out": args.out, "streams": tuple(args.streams), "seeds": args.seeds, "batch_size": args.batch}
    given |= {"training": TrainingConfig(epochs=args.epochs)} | ALL_BLOCKS[name.removesuffix(LAST_THIRD)]
    config = RunConfig(**(given | {"workers": 0, "device": "cpu", "baselines": False} | more))
    if name == FULL:
        config.full = FullConfig(lr=lr)
    else:
        config.training = replace(config.training, lr=lr)
    config.layers = max(round(encoder.config.layers / 3), 1) if name.endswith(LAST_THIRD) else None
    return config


def shares(args: argparse.Namespace, encoder: Encoder) -> dict[str, float]:
    """Trained weights in the backbone over those that it has of its own, by row."""
    found = {}
    for name in args.methods:
        config = config_of(args, name, encoder)
        small, _, backbone = methods.count(encoder, methods.settings_of(config), config.layers)
        found[name] = small / backbone
    return found


@dataclass
class Trial:
    """A task with so many labels. tried: seeds that the learning rate is chosen on."""

    name: str
    encoder: Encoder
    problem: Problem
    splits: list[list[Split]]
    settings: dict[str, Any]
    few: int | None
    tried: int


def trials(args: argparse.Namespace) -> Sequence[Trial]:
    """The generated task and the real one, with all labels and with few; few only where there are more."""
    sources = {"generated": {}}
    if args.real_data:
        given = {"data": args.real_data, "labels": args.real_labels, "target": args.real_target}
        sources["real"] = given | {"window_seconds": args.real_window, "group_by": args.real_group_by}
    found = []
    for source, settings in sources.items():
        encoder = open_encoder(args.release, "cpu").requires_grad_(False)
        settings = settings | {"out": args.out / source}
        problem, splits = read(config_of(args, "linear", encoder, **settings), encoder, args)
        found.append(Trial(f"{source}, {ALL}", encoder, problem, splits, settings, None, 1))
        if problem.task.name != "classification":
            continue
        if min(np.bincount(problem.targets[split.train]).min() for split in splits[0]) > args.few:
            few = settings | {"training": TrainingConfig(epochs=args.few_epochs)}
            found.append(Trial(f"{source}, {args.few} a class", encoder, problem, splits, few, args.few, args.seeds))
    return found


def read(config: RunConfig, encoder: Encoder, args: argparse.Namespace) -> tuple[Problem, list[list[Split]]]:
    """The problem and its splits, of some clips of each recording, evenly spread."""
    streams = chosen_streams(encoder, config.streams)
    config.out.mkdir(parents=True, exist_ok=True)
    shards, index = open_shards(config.data, config.encoder, encoder, config.out / "shards", streams)
    index = thinned(index, args.clips, args.test_clips)
    return load_problem(encoder, read_labels(config.labels, config.target), shards, index, config, streams)


def thinned(index: pd.DataFrame, clips: int, test_clips: int) -> pd.DataFrame:
    """At most so many clips of each recording, and so many of one that tests; without what pretraining saw."""
    index = index[index["split"].fillna("") != "pretrain"]
    kept = []
    for _, of in index.groupby("recording", sort=False):
        most = test_clips if str(of["split"].iloc[0]).startswith("test") else clips
        kept.append(of.iloc[np.unique(np.linspace(0, len(of) - 1, most).astype(int))])
    return pd.concat(kept).reset_index(drop=True)


# ---- what they reach ----


def measure(args: argparse.Namespace, trial: Trial) -> dict[str, Any]:
    """ "metric", "task", "classes", and "rows": by row what ``evaluation.summary`` gives, with "lr", and by test the difference to
    full fine-tuning, paired by recording."""
    rows, results, chosen = {}, {}, {}
    for name in args.methods:
        base = name.removesuffix(LAST_THIRD)
        tries = RATES[:1] if name == "linear" else FULL_RATES if name == FULL else RATES
        if name != base and base in chosen:
            tries = (chosen[base],)
        chosen[name], results[name] = tried(args, trial, name, tries)
        rows[name] = summary(trial.problem, results[name]) | {"lr": None if name == "linear" else chosen[name]}
    if trial.problem.task.name == "classification":
        for name, found in results.items():
            rows[name]["less full"] = {t: difference(trial.problem, of, results[FULL][t]) for t, of in found.items()}
    task = trial.problem.task
    return {"metric": task.main_metric, "classes": len(task.classes), "tests": list(results[FULL]), "rows": rows}


def tried(
    args: argparse.Namespace, trial: Trial, name: str, tries: Sequence[float]
) -> tuple[float, dict[str, Predictions]]:
    """The learning rate of the least loss on what is held out, and the predictions of all seeds with it."""
    lr = tries[0]
    if len(tries) > 1:
        losses = {rate: [cell(args, trial, name, rate, seed)[0] for seed in range(trial.tried)] for rate in tries}
        lr = min(losses, key=lambda rate: float(np.mean(losses[rate])))
    return lr, stacked([cell(args, trial, name, lr, seed)[1] for seed in range(args.seeds)])


def cell(
    args: argparse.Namespace, trial: Trial, name: str, lr: float, seed: int
) -> tuple[float, dict[str, Predictions]]:
    """One method with one learning rate and one seed: its loss on what is held out, and its predictions. Kept in OUT/cells."""
    problem, encoder = trial.problem, trial.encoder
    config = config_of(args, name, encoder, lr, **trial.settings)
    about = (weights_digest(encoder), data_digest(problem.shards), *problem.index["key"], *problem.examples["value"])
    about += (problem.streams, config.training.epochs, config.batch_size, config.window_seconds, trial.few)
    file = args.out / "cells" / digest_of(*about) / f"{name.replace(', ', '-').replace(' ', '-')}-{lr:g}-{seed}.npz"

    def compute() -> dict[str, np.ndarray]:
        print(f"{trial.name}: {name}, rate {lr:g}, seed {seed}", flush=True)
        parts = [learnt(problem, split, trial.few, seed) for split in trial.splits[seed]]
        losses: list[float] = []

        def fit_predict(split: Split, _: int, asked: np.ndarray) -> np.ndarray:
            loss, predicted = fitted(encoder, problem, split, config, seed, asked)
            losses.append(loss)
            return predicted

        found = evaluate([parts], fit_predict)
        arrays = {"loss": np.array(np.mean(losses))}
        for test, predictions in found.items():
            arrays |= {f"examples {test}": predictions.examples, f"values {test}": predictions.values}
        return arrays

    arrays = cached(file, compute)
    tests = [key.removeprefix("examples ") for key in arrays if key.startswith("examples ")]
    return float(arrays["loss"]), {
        test: Predictions(arrays[f"examples {test}"], arrays[f"values {test}"], []) for test in tests
    }


def fitted(
    encoder: Encoder, problem: Problem, split: Split, config: RunConfig, seed: int, asked: np.ndarray
) -> tuple[float, np.ndarray]:
    """As ``finetune run`` does it: the loss on what was held out (of ``linear`` none: 0), and predictions [example, predicted]."""
    if config.method == "linear":
        rows = np.concatenate([split.train, split.validation])
        head = linear.fit(problem.features[rows], problem.targets[rows], problem.groups[rows], problem.task, seed)
        return 0.0, head.predict(problem.features.values[asked], problem.task)
    head = training.train(encoder, problem, split, config, seed)
    outputs_of = training.outputs(encoder, head, problem, config)
    loss = training.mean_loss(
        head, problem, split.validation, outputs_of, problem.task.weights(problem.targets, problem.targets)
    )
    predicted = training.predict(encoder, head, problem, asked, config)
    methods.remove(encoder)
    return loss, predicted


def learnt(problem: Problem, split: Split, few: int | None, seed: int) -> Split:
    """The split with its training part, or ``few`` examples a class of it, cut into what is learnt from and what is held out."""
    rows = np.sort(np.concatenate([split.train, split.validation]))
    if few is not None:
        mixed = np.random.default_rng(seed).permutation(rows)
        classes = problem.targets[mixed]
        rows = np.sort(np.concatenate([mixed[classes == c][:few] for c in np.unique(classes)]))
    kept, held = hold_out(problem.groups[rows], HELD_OUT, seed)
    return replace(split, train=rows[kept], validation=rows[held])


# ---- what they cost ----


def step_costs(args: argparse.Namespace) -> dict[str, dict[str, dict[str, Any]]]:
    """Size -> row -> "ratio" (median, least, most) to full fine-tuning's step, "seconds" of each step, "memory" (bytes)."""
    args.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for size in (VIT_S, "release"):
        file = args.out / f"steps-{size}.json"
        if not file.is_file() or not set(args.methods) <= set(json.loads(file.read_text())):
            encoder, clips, streams = at_size(args, size)
            variants = {name: config_of(args, name, encoder) for name in args.methods}
            memory = finetune_steps.memory(encoder, clips, streams, variants)
            taken = finetune_steps.seconds(encoder, clips, streams, variants, args.rounds)
            ratios = finetune_steps.ratios(taken)
            rows = {n: {"ratio": ratios[n], "seconds": taken[n], "memory": memory[n]} for n in variants}
            file.write_text(json.dumps(rows, indent=1))
        found[size] = json.loads(file.read_text())
    return found


def at_size(args: argparse.Namespace, size: str) -> tuple[Encoder, list[Any], tuple[str, ...]]:
    """An encoder, clips of one step and the streams that are read: one clip of 16 frames at ViT-S, else of the shards."""
    if size == VIT_S:
        model = ModelConfig()
        torch.manual_seed(0)
        encoder = Encoder(model).eval().requires_grad_(False)
        return encoder, generated_clips(model, 1, model.segment_frames / model.frame_rate), ("video", "audio")
    encoder = open_encoder(args.release, "cpu").requires_grad_(False)
    streams = chosen_streams(encoder, args.streams)
    _, index = open_shards(args.shards, args.release, encoder, args.out / "shards")
    rows = index[index["split"] == "train"].iloc[: args.batch].iterrows()
    return encoder, [read_clip(read_sample(args.shards, row), streams) for _, row in rows], streams


if __name__ == "__main__":
    main()
