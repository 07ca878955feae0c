"""``kinesic finetune run``: a release, data and labels in; trained small weights, predictions and an honest report out.

encoder + shards -> labelled clips -> frozen features -> for every seed and split: fit, predict -> TUNED/
"""

from __future__ import annotations

import numpy as np

from configs import write_run_record
from finetune import methods, training
from finetune.baselines import NAMES
from finetune.config import RunConfig
from finetune.data import chosen_streams, open_encoder, open_shards
from finetune.evaluation import FitPredict, Predictions, evaluate, probe, summary
from finetune.features import Features, of_one
from finetune.labels import read_labels
from finetune.methods import linear
from finetune.problem import Problem, load_problem
from finetune.report import write_predictions, write_report
from finetune.splits import Split, groups_of
from finetune.tuned import save_tuned
from pretrain.encoder import Encoder


def run(config: RunConfig) -> int:
    """Trains ``config.method`` on the frozen encoder and reports it beside simpler predictors. Raises UserError."""
    encoder = open_encoder(config.encoder, config.device, config.swin)
    methods.check(encoder, config)
    encoder.requires_grad_(False)
    streams = chosen_streams(encoder, config.streams)
    labels = read_labels(config.labels, config.target, config.task)
    if config.data.is_dir() and not (config.data / "index.parquet").is_file():
        groups_of(labels.assign(files=""), config.group_by)  # a folder names no splits: complain before hours of work
    write_run_record(config.out, config, seed=0)
    shards, index = open_shards(config.data, config.encoder, encoder, config.out / "shards")
    problem, splits = load_problem(encoder, labels, shards, index, config, streams)
    for note in problem.notes:
        print(note)
    print(
        f"{config.target}: {problem.task.name}, {len(problem.examples)} examples of "
        f"{problem.examples['recording'].nunique()} recordings; "
        + ("splits of the manifest" if splits[0][0].name == "given" else f"{len(splits[0])} folds")
        + f", {config.seeds} seeds"
    )
    of_training = problem if config.threshold == "youden" else None
    results = simpler(problem, splits, config, of_training)
    results[config.method] = evaluate(splits, tuning(encoder, problem, config), of_training)
    if splits[0][0].name != "given":  # the folds were for the figures; what is kept has seen everything
        nothing = np.empty(0, dtype=np.int64)
        everything = Split("all", np.arange(len(problem.examples)), nothing, {})
        tuning(encoder, problem, config)(everything, 0, nothing)
    table = {name: summary(problem, of_row) for name, of_row in results.items()}
    write_predictions(config.out / "predictions.csv", config, problem, results[config.method])
    write_report(config, problem, table, results[config.method], trainable(encoder, problem, config))
    return 0


def simpler(
    problem: Problem, splits: list[list[Split]], config: RunConfig, of_training: Problem | None = None
) -> dict[str, dict[str, Predictions]]:
    """The rows that stand beside a method: those that know less, and the linear probe. of_training: as ``evaluate`` has it."""
    from rich.progress import track

    rows: dict[str, Features] = {}
    if config.baselines:
        constant = of_one(np.zeros((len(problem.examples), 1), np.float32))
        rows["majority" if problem.task.name == "classification" else "mean predictor"] = constant
        rows |= {NAMES[name]: told for name, told in problem.baselines.items() if told.values.any()}
    if config.method != "linear":
        rows["linear"] = problem.features
    return {
        name: evaluate(splits, probe(problem, features), of_training)
        for name, features in track(rows.items(), "simpler predictors")
    }


def tuning(encoder: Encoder, problem: Problem, config: RunConfig) -> FitPredict:
    """Fits ``config.method``; saves the first seed's weights of the given split, or those that saw everything."""

    def fit_predict(split: Split, seed: int, asked: np.ndarray) -> np.ndarray:
        if config.method == "linear":
            rows = split.train
            head = linear.fit(problem.features[rows], problem.targets[rows], problem.groups[rows], problem.task, seed)
            predicted = head.predict(problem.features.values[asked], problem.task)
        else:
            head = training.train(encoder, problem, split, config, seed)
            predicted = training.predict(encoder, head, problem, asked, config)
        if split.name in {"given", "all"} and seed == 0:
            save_tuned(config.out, encoder, head, problem.task, problem.streams, config)
        methods.remove(encoder)
        return predicted

    return fit_predict


def trainable(encoder: Encoder, problem: Problem, config: RunConfig) -> str:
    """How much is trained: weights in the backbone, apart from those of tokenizers and head."""
    head = (problem.features.values.shape[1] + 1) * problem.task.outputs
    if config.method == "attentive":
        head += (problem.features.values.shape[1] - len(problem.streams)) // 3  # the queries
    small, elsewhere, backbone = methods.count(encoder, methods.settings_of(config), config.layers)
    return (
        f"trained: {small:,} weights in the backbone ({100 * small / backbone:.2f} % of its {backbone:,}), "
        + (f"{elsewhere:,} in tokenizers and gated branch, " if elsewhere else "")
        + f"and {head:,} in the head"
    )
