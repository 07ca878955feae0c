"""``kinesic finetune run``: a release, data and labels in; trained small weights, predictions and an honest report out.

encoder + shards -> labelled clips -> frozen features -> for every seed and split: fit, predict -> TUNED/
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
import sklearn.linear_model  # noqa: F401  here, so that the first training is not charged for it

from configs import UserError, write_run_record
from finetune import methods, training
from finetune.added_streams import AddedStreams, add, read_added
from finetune.baselines import NAMES
from finetune.config import RunConfig
from finetune.data import chosen_streams, open_encoder, open_shards
from finetune.evaluation import FitPredict, Predictions, evaluate, for_all, probe, summary, youden
from finetune.features import Features, of_one
from finetune.fits import SAVED, Fits
from finetune.labels import SCENE, read_labels
from finetune.methods import linear
from finetune.problem import Problem, load_problem
from finetune.report import write_baselines, write_predictions, write_report
from finetune.report_mlflow import log, needs_mlflow
from finetune.report_occlusion import Evidence, evidence
from finetune.report_record import cost, record
from finetune.settings import splits_told
from finetune.splits import Split, groups_of
from finetune.tuned import save_tuned
from pretrain.encoder import Encoder
from pretrain.processes import only_run_in


def run(config: RunConfig) -> int:
    """Trains ``config.method`` on the frozen encoder and reports it beside simpler predictors. Raises UserError."""
    needs_mlflow(config)
    encoder = open_encoder(config.encoder, config.device, config.swin, config.adapted)
    more = None if config.add_stream is None else read_added(config.add_stream)
    if more is not None:
        add(encoder, more.streams)
    methods.check(encoder, config)
    encoder.requires_grad_(False)
    streams = chosen_streams(encoder, config.streams)
    labels = read_labels(config.labels, config.target, config.task)
    if config.data.is_dir() and not (config.data / "index.parquet").is_file():
        groups_of(labels.assign(files=""), config.group_by)  # a folder names no splits: complain before hours of work
    with only_run_in(config.out):
        return train(encoder, labels, streams, more, config)


def train(
    encoder: Encoder, labels: pd.DataFrame, streams: tuple[str, ...], more: AddedStreams | None, config: RunConfig
) -> int:
    """What ``run`` does once all that can be checked before is in order."""
    write_run_record(config.out, config, seed=0)
    shards, index = open_shards(config.data, config.encoder, encoder, config.out / "shards")
    problem, splits = load_problem(encoder, labels, shards, index, config, streams, more)
    for note in problem.notes:
        print(note)
    print(
        f"{config.target}: {problem.task.name}, {len(problem.examples)} examples of "
        f"{problem.examples['recording'].nunique()} recordings; "
        + (splits_told(config) if splits[0][0].name == "given" else f"{len(splits[0])} folds")
        + f", {config.seeds} seeds"
    )
    of_training = problem if config.threshold == "youden" else None
    results, costs = simpler(problem, splits, config, of_training)
    looked = evidence(problem, splits[0])
    fits = Fits.of(encoder, problem, config, looked)
    fit_predict = fits.through(tuning(encoder, problem, config, fits.seconds, looked))
    results[config.method] = evaluate(splits, fit_predict, of_training)
    costs[config.method] = cost(*trainable(encoder, problem, config), fits.seconds)
    if splits[0][0].name != "given":
        fit_everything(fit_predict, problem, config)
    if unmoved := problem.best_epochs.count(0):
        problem.notes.append(
            f"{unmoved} of {len(problem.best_epochs)} trainings of {config.method} kept what they began with: no epoch was "
            "better on held-out groups"
        )
        print(problem.notes[-1])
    ours = results[config.method]
    table = {name: summary(problem, of, None if of is ours else ours) for name, of in results.items()}
    predictions = write_predictions(config.out / "predictions.csv", config, problem, results[config.method])
    write_baselines(config.out, config, problem, results)
    found = record(config, encoder, problem, splits, table, costs, predictions, looked.record())
    write_report(config, problem, table, found, predictions)
    log(config, found)
    fits.remove()
    return 0


def simpler(
    problem: Problem, splits: list[list[Split]], config: RunConfig, of_training: Problem | None = None
) -> tuple[dict[str, dict[str, Predictions]], dict[str, dict[str, Any]]]:
    """The rows that stand beside a method: those that know less, and the linear probe; and what that one costs.

    of_training: as ``evaluate`` has it.
    """
    from rich.progress import track

    rows: dict[str, Features] = {}
    constant = "majority" if problem.task.name == "classification" else "mean predictor"
    if config.baselines:
        rows[constant] = of_one(np.zeros((len(problem.examples), 1), np.float32))
        rows |= {NAMES[name]: told for name, told in problem.baselines.items() if told.values.any()}
    if config.method != "linear":
        rows["linear"] = problem.features
    results, costs, seconds = {}, {}, []
    for name, features in track(rows.items(), "simpler predictors"):
        fit_predict = probe(problem, features)
        if name == "linear":
            fit_predict = timed(fit_predict, seconds)
        results[name] = evaluate(splits, fit_predict, of_training)
        if name == constant and splits[0][0].name != "given":
            results[name] = {test: for_all(found) for test, found in results[name].items()}
    if seconds:
        costs["linear"] = cost(0, 0, head_weights(problem), seconds)
    return results, costs


def timed(fit_predict: FitPredict, seconds: list[float]) -> FitPredict:
    """The same, adding to ``seconds`` how long it took for each split; what is fitted for a threshold is not counted."""

    def run(split: Split, seed: int, asked: np.ndarray) -> np.ndarray:
        began = time.perf_counter()
        predicted = fit_predict(split, seed, asked)
        if split.tests:
            seconds.append(time.perf_counter() - began)
        return predicted

    return run


def tuning(
    encoder: Encoder,
    problem: Problem,
    config: RunConfig,
    seconds: list[float] | None = None,
    looked: Evidence | None = None,
) -> FitPredict:
    """Fits ``config.method``; saves the first seed's weights of the given split, or those that saw everything.

    Of what is fitted for a test: adds to ``seconds`` how long the training took, and to ``looked`` what the first seed's
    predictions rest on.
    """

    def fit_predict(split: Split, seed: int, asked: np.ndarray) -> np.ndarray:
        began = time.perf_counter()
        if config.method == "linear":
            rows = split.train
            head = linear.fit(problem.features[rows], problem.targets[rows], problem.groups[rows], problem.task, seed)
        else:
            head = training.train(encoder, problem, split, config, seed)
        if seconds is not None and split.tests:
            seconds.append(time.perf_counter() - began)
        if config.method == "linear":
            predicted = head.predict(problem.features.values[asked], problem.task)
        else:
            predicted = training.predict(encoder, head, problem, asked, config)
        if lost := int((~np.isfinite(predicted)).any(-1).sum()):
            raise UserError(
                f"{split.name}: the clips of {lost} examples cannot be read any more (see above); mend that and type the same "
                "command again: trainings that are done are kept"
            )
        if looked is not None and split.tests and seed == 0:
            looked.add(encoder, head, asked, config)
        if split.name in SAVED and seed == 0:
            people = bool((problem.examples["person"] != SCENE).any())
            save_tuned(config.out, encoder, head, problem.task, problem.streams, config, people, split.threshold)
        methods.remove(encoder)
        return predicted

    return fit_predict


def fit_everything(fit_predict: FitPredict, problem: Problem, config: RunConfig) -> None:
    """Trains and saves what is kept where folds were for the figures: it has seen everything."""
    nothing = np.empty(0, dtype=np.int64)
    everything = Split("all", np.arange(len(problem.examples)), nothing, {})
    if config.threshold == "youden":
        everything.threshold = youden(problem, everything, 0, fit_predict)
    fit_predict(everything, 0, nothing)


def trainable(encoder: Encoder, problem: Problem, config: RunConfig) -> tuple[int, int, int]:
    """How many weights are trained in the backbone, elsewhere in the encoder (tokenizers, gated branch), and in the head."""
    small, elsewhere, _ = methods.count(encoder, methods.settings_of(config), config.layers)
    head = head_weights(problem)
    if config.method == "attentive":
        head += (problem.features.values.shape[1] - len(problem.streams)) // 3  # the queries
    return small, elsewhere, head


def head_weights(problem: Problem) -> int:
    """The weights of a linear head."""
    return (problem.features.values.shape[1] + 1) * problem.task.outputs
