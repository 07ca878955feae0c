"""metrics.json: everything that the report and ``finetune compare`` show, as plain numbers.

The pages are made of this file (and of predictions.csv, for what is drawn over time) and of nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from configs import UserError, plain
from finetune import methods, metrics
from finetune.config import RunConfig
from finetune.features import weights_digest
from finetune.problem import Problem
from finetune.splits import Split
from pretrain.encoder import Encoder

SCHEMA = 1
FOLDS = "folds"  # the test set that all folds make up together


def record(
    config: RunConfig,
    encoder: Encoder,
    problem: Problem,
    splits: Sequence[Sequence[Split]],
    table: dict[str, dict[str, dict[str, Any]]],
    costs: dict[str, dict[str, Any]],
    predictions: pd.DataFrame,
    evidence: dict[str, Any] | None,
) -> dict[str, Any]:
    """What metrics.json holds. table: of evaluation.summary, by row; costs: of ``cost``, by row; predictions: predictions.csv."""
    names = [name for split in splits[0] for name in split.tests]
    tests = {name: tested(predictions, name) for name in dict.fromkeys(names)}
    return plain(
        {
            "schema": SCHEMA,
            "target": config.target,
            "task": problem.task.name,
            "classes": problem.task.classes,
            "streams": problem.streams,
            "method": config.method,
            "main_metric": problem.task.main_metric,
            "trained": sentence(costs[config.method], encoder),
            "seeds": config.seeds,
            "unit": problem.unit,
            "folds": len(splits[0]) if FOLDS in tests else None,
            "encoder": {
                "path": config.encoder,
                "sha256": weights_digest(encoder),
                "backbone_weights": backbone(encoder),
                "device": device(encoder),
            },
            "data": config.data,
            "labels": config.labels,
            "adapted": config.adapted,
            "added": config.add_stream,
            "tests_sha256": {name: examples_digest(problem, splits[0], name) for name in tests},
            "splits_sha256": splits_digest(problem, splits),
            "notes": problem.notes,
            "costs": costs,
            "rows": table,
            "confusion": {name: confusion(rows, problem.task.classes) for name, rows in tests.items()},
            "calibration": {name: calibration(rows) for name, rows in tests.items()},
            "left_out": evidence,
        }
    )


def read_record(folder: Path) -> dict[str, Any]:
    """metrics.json of a run. Raises UserError where there is none, or one that this version does not read."""
    file = folder / "metrics.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{folder}: no metrics.json: is this the --out of a finished kinesic finetune run?") from None
    except ValueError as error:
        raise UserError(f"{file}: not readable as JSON ({error})") from None
    schema = found.get("schema") if isinstance(found, dict) else None
    if not isinstance(schema, int):
        raise UserError(f"{file}: names no schema: it was written before 1; make the run again")
    if schema > SCHEMA:
        raise UserError(f"{file}: schema {schema} is newer than {SCHEMA}: update kinesic")
    return found


def cost(backbone: int, elsewhere: int, head: int, seconds: Sequence[float]) -> dict[str, Any]:
    """What a row took: trained weights in the backbone, elsewhere in the encoder (tokenizers, gated branch) and in the head;
    seconds of a training (median; clips that are in memory are not decoded again), how many there were."""
    trained = {"backbone": backbone, "elsewhere": elsewhere, "head": head}
    return trained | {"seconds": float(np.median(seconds)), "fits": len(seconds)}


def trained(cost: dict[str, Any]) -> int:
    """All weights that a row trains."""
    return cost["backbone"] + cost["elsewhere"] + cost["head"]


def backbone(encoder: Encoder) -> int:
    """The weights of the backbone; what a method put into it must have been taken out."""
    return methods.count(encoder, None, None)[2]


def sentence(cost: dict[str, Any], encoder: Encoder) -> str:
    """How much is trained, the weights in the backbone apart from the head."""
    small, all_of_it = cost["backbone"], backbone(encoder)
    return (
        f"trained: {small:,} weights in the backbone ({100 * small / all_of_it:.2f} % of its {all_of_it:,}), "
        + (f"{cost['elsewhere']:,} in tokenizers and gated branch, " if cost["elsewhere"] else "")
        + f"and {cost['head']:,} in the head"
    )


def device(encoder: Encoder) -> str:
    """Where the encoder runs, for whoever compares seconds."""
    if encoder.device.type == "cuda":
        return torch.cuda.get_device_name(encoder.device)
    return f"CPU, threads: {torch.get_num_threads()}"


def tested(predictions: pd.DataFrame, test: str) -> pd.DataFrame:
    """The rows of predictions.csv that belong to a test set."""
    return predictions if test == FOLDS else predictions[predictions["split"] == test]


def _keys(problem: Problem) -> np.ndarray:
    """What an example is, without the paths and numbers of this run: str [example]."""
    about = problem.examples
    columns = [about["recording"], about["participant"], about["start"].round(3), about["end"].round(3), about["value"]]
    return np.array(["\t".join(map(str, row)) for row in zip(*columns, strict=True)])


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def examples_digest(problem: Problem, splits: Sequence[Split], test: str) -> str:
    """sha256 of the examples of a test set with their targets, whatever encoder and method and in whatever folds."""
    rows = np.concatenate([split.tests[test] for split in splits if test in split.tests])
    return _digest(sorted(_keys(problem)[rows]))


def splits_digest(problem: Problem, splits: Sequence[Sequence[Split]]) -> str:
    """sha256 of who is trained on and who is tested on, over all seeds."""
    keys, lines = _keys(problem), []
    for seed, of_seed in enumerate(splits):
        for split in of_seed:
            parts = {"train": split.train, "val": split.validation, **split.tests}
            lines += [f"{seed} {split.name} {part} {key}" for part, rows in parts.items() for key in sorted(keys[rows])]
    return _digest(lines)


def confusion(rows: pd.DataFrame, classes: Sequence[str]) -> list[list[int]] | None:
    """Counts [target, prediction] over all seeds; None where the targets are not one class each."""
    from sklearn.metrics import confusion_matrix

    if not classes or not set(rows["target"]) | set(rows["prediction"]) <= set(classes):
        return None
    return confusion_matrix(rows["target"], rows["prediction"], labels=list(classes)).tolist()


def probabilities(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns of predictions.csv that are probabilities, under the names of their classes; maybe none."""
    columns = {name: name[2:-1] for name in map(str, rows) if name.startswith("p(") and name.endswith(")")}
    return rows[list(columns)].rename(columns=columns)


def calibration(rows: pd.DataFrame) -> dict[str, Any] | None:
    """How often what is said with a probability is so, all seeds (``metrics.calibration``), and the expected calibration error.

    ``of`` two classes: the second; of more, None: the most probable one of each example (Guo et al. 2017, arXiv 1706.04599). None
    where a prediction is no distribution over classes.
    """
    said = probabilities(rows).dropna()
    if said.shape[1] < 2 or not len(said) or not np.allclose(said.sum(axis=1), 1, atol=1e-3):
        return None
    target = rows["target"].loc[said.index].astype(str).to_numpy()
    if said.shape[1] == 2:
        of, p = said.columns[1], said.iloc[:, 1].to_numpy()
        so = target == of
    else:
        of, p = None, said.max(axis=1).to_numpy()
        so = target == np.array(said.columns)[said.to_numpy().argmax(1)]
    curve = metrics.calibration(so.astype(float), p)
    return {"of": of, **curve, "error": metrics.calibration_error(curve)}
