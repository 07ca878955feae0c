"""Which streams does a pretrained encoder carry, and what do targets across streams and people change?

    python -m benchmarks.ablation --shards OUT --labels labels.csv --out FOLDER

Pretrains two ways (``KINDS``: random masking alone, or with whole streams, partners and futures hidden as well), five seeds
each, and probes the frozen features of every stream alone, of all but one, and of all, beside an untrained encoder and the raw
streams; in distribution and with the colours reversed. A run that is there is not repeated. Differences are paired by
recording, with 95 % intervals over the seeds' mean. Writes table.md and table.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import runs
from benchmarks.shortcut import difference, stacked, subset, untrained
from data_prep.shards import read_index
from finetune import baselines
from finetune.config import RunConfig
from finetune.data import open_encoder
from finetune.evaluation import Predictions, evaluate, probe, summary
from finetune.features import Features, as_features, cached, encoding, map_clips, of_one
from finetune.labels import read_labels
from finetune.problem import Problem, labelled
from finetune.splits import given_split

KINDS = {
    "random": "{random: 1.0}",
    "all kinds": "{random: 0.4, stream: 0.2, partner: 0.2, future: 0.2}",
}
STREAMS = ("video", "audio", "face", "pose")
READ = {
    "video": ("video",),
    "audio": ("audio",),
    "face": ("face",),
    "pose": ("pose",),
    "all but video": ("audio", "face", "pose"),
    "all": STREAMS,
}
CLIPS = {"train": 512, "test": 512, "test_reversed": 256}  # of each split, at most


def main() -> None:
    """Reads the arguments, trains, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shards", type=Path, required=True, help="shards with splits pretrain, train, test, test_reversed"
    )
    parser.add_argument("--labels", type=Path, required=True, help="labels.csv of the scenes")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs, features, table.md and table.json")
    parser.add_argument("--target", default="gesture", help="column of the labels (default: gesture)")
    parser.add_argument("--config", default="demo", help="recipe of the runs (default: demo)")
    parser.add_argument("--steps", type=int, default=300, help="steps of a run (default: 300)")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each kind (default: 5)")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each (default: 2)")
    args = parser.parse_args()
    began = time.perf_counter()
    folders = {(kind, seed): folder_of(args.out, kind, seed) for seed in range(args.seeds) for kind in KINDS}
    work = [
        (args.config, args.shards, folder, args.steps, "--seed", str(seed), "--mask.kinds", KINDS[kind])
        for (kind, seed), folder in folders.items()
    ]
    runs.in_pool(runs.train, work, args.processes)
    first = folders["random", 0] / "release"
    config = RunConfig(encoder=first, data=args.shards, labels=args.labels, target=args.target, out=args.out)
    problem = problem_of(config)
    jobs = [(folder / "release", kind, seed, config) for (kind, seed), folder in folders.items()]
    jobs += [(first, "untrained", seed, config) for seed in range(args.seeds)]
    found = runs.in_pool(features, jobs, args.processes)
    tables = {(kind, seed): table for (_, kind, seed, _), table in zip(jobs, found, strict=True)}
    results = {name: predictions(problem, by_seed) for name, by_seed in matrices(tables, args.seeds).items()}
    write(args.out, problem, results, f"{args.seeds} seeds, {args.steps} steps; {time.perf_counter() - began:.0f} s")


def folder_of(out: Path, kind: str, seed: int) -> Path:
    """Where the run of a kind and seed lies."""
    return out / f"{kind.replace(' ', '-')}-{seed}"


def problem_of(config: RunConfig) -> Problem:
    """Labelled clips of the three splits; the features are filled in later."""
    index = chosen(config.data)
    index, examples, task, _ = labelled(read_labels(config.labels, config.target), config.data, index, config)
    return Problem(
        shards=config.data,
        index=index,
        examples=examples,
        task=task,
        streams=STREAMS,
        targets=task.targets(examples["value"].to_numpy()),
        groups=np.unique(examples["recording"], return_inverse=True)[1],
        features=of_one(np.zeros((len(examples), 1), np.float32)),
    )


def chosen(shards: Path) -> pd.DataFrame:
    """The index of the first clips of each split."""
    index = read_index(shards)
    return pd.concat([index[index["split"] == split][:most] for split, most in CLIPS.items()]).reset_index(drop=True)


def features(release: Path, kind: str, seed: int, config: RunConfig) -> dict[str, np.ndarray]:
    """ "<what is read> values" [clip, stream, feature] and "... present" of one encoder, and the raw streams; computed once."""

    def compute() -> dict[str, np.ndarray]:
        encoder = open_encoder(release, "cpu").requires_grad_(False)
        encoder = untrained(encoder, seed) if kind == "untrained" else encoder
        functions = [encoding(encoder, streams, f"{name} ", bf16=True) for name, streams in READ.items()]
        functions += [baselines.describe] if (kind, seed) == ("untrained", 0) else []
        index = problem_of(config).index
        return map_clips(config.data, index, functions, STREAMS, workers=0, title=f"{kind} {seed}")

    return cached(folder_of(config.out / "features", kind, seed).with_suffix(".npz"), compute)


def matrices(tables: dict[tuple[str, int], dict[str, np.ndarray]], seeds: int) -> dict[str, list[Features]]:
    """Row of the table -> features of the clips, of each seed."""
    rows = {"raw streams": [baselines.raw_streams(tables["untrained", 0]["raw"])] * seeds}
    for kind in ("untrained", *KINDS):
        for name in READ:
            of_kind = [tables[kind, seed] for seed in range(seeds)]
            rows[f"{kind}: {name}"] = [as_features(t[f"{name} values"], t[f"{name} present"]) for t in of_kind]
    return rows


def predictions(problem: Problem, by_seed: list[Features]) -> dict[str, Predictions]:
    """Of linear probes: seed by seed on 80 % of the training recordings."""
    given = given_split(problem.examples, None)
    assert given is not None
    rows = problem.examples["row"].to_numpy()
    found = []
    for seed, features in enumerate(by_seed):
        found.append(evaluate([[subset(problem, given, seed)]], probe(problem, features[rows])))
    return stacked(found)


def write(out: Path, problem: Problem, results: dict[str, dict[str, Predictions]], note: str) -> None:
    """table.json and table.md, and the table on the screen."""
    table = {name: summary(problem, row) for name, row in results.items()}
    first, second = KINDS
    pairs = [(f"{second}: {name}", f"{first}: {name}") for name in READ]
    pairs += [(f"{kind}: all", f"{kind}: video") for kind in ("untrained", *KINDS)]
    pairs += [(f"{kind}: all", other) for kind in KINDS for other in ("raw streams", "untrained: all")]
    tests = list(next(iter(results.values())))
    gains: dict[str, Any] = {
        f"{a} - {b}": {test: difference(problem, results[a][test], results[b][test]) for test in tests}
        for a, b in pairs
    }
    head = [f"| | {' | '.join(tests)} |", "|---" * (len(tests) + 1) + "|"]
    sizes = ", ".join(f"{t}: {table['raw streams'][t]['examples']} clips" for t in tests)
    lines = [f"Accuracy of a linear probe, mean ± deviation over the seeds ({sizes}; {note}).", "", *head]
    for name, row in table.items():
        shown = [f"{row[t]['accuracy']['mean']:.3f} ± {row[t]['accuracy']['std']:.3f}" for t in tests]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    lines += ["", "Differences, 95 % intervals.", "", *head]
    for name, row in gains.items():
        shown = ["{:+.3f} ({:+.3f} to {:+.3f})".format(row[t]["mean"], *row[t]["interval"]) for t in tests]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    text = "\n".join([*lines, ""])
    (out / "table.md").write_text(text, encoding="utf-8")
    (out / "table.json").write_text(json.dumps({"rows": table, "differences": gains}, indent=1), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
