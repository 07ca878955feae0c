"""A run in MLflow, where ``--tracking_uri`` names a store or server: settings, metrics with intervals, and the files.

Nothing is sent anywhere else: pretrain.tracking switches MLflow's own usage statistics off before it is imported.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd

import pretrain.tracking  # noqa: F401
from configs import UserError, plain
from finetune.config import RunConfig
from finetune.evaluation import metrics_of
from finetune.report_html import PAGE

EXPERIMENT = "kinesic finetune"


def needs_mlflow(config: RunConfig) -> None:
    """Raises UserError where a store is named and MLflow is not there: before the work, not after it."""
    if config.tracking_uri and importlib.util.find_spec("mlflow") is None:
        raise UserError(f"--tracking_uri {config.tracking_uri}: needs MLflow: pip install mlflow")


def log(config: RunConfig, record: dict[str, Any]) -> None:
    """Logs a finished run. A store that fails costs a line and nothing else: the files are written."""
    if not config.tracking_uri:
        return
    try:
        _log(config, record, config.tracking_uri)
    except Exception as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        print(f"MLflow failed ({said}); {config.out} has everything", file=sys.stderr)


def _log(config: RunConfig, record: dict[str, Any], uri: str) -> None:
    import logging

    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)  # its import says otherwise
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(EXPERIMENT)
    experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT, artifacts_of(uri))
    folder = config.out.resolve()
    run = client.create_run(experiment, run_name=folder.name, tags={"folder": folder.as_posix()}).info.run_id
    now = int(1000 * time.time())
    settings = pd.json_normalize(plain(config), sep=".").iloc[0].items()
    client.log_batch(
        run,
        metrics=[Metric(name, value, now, 0) for name, value in numbers(record).items()],
        params=[Param(str(name), str(value)[:500]) for name, value in settings],
    )
    for name in (PAGE, "metrics.json"):
        client.log_artifact(run, str(config.out / name))
    client.set_terminated(run)


def artifacts_of(uri: str) -> str | None:
    """Where the files of runs lie: beside a store that is one file; a server knows its own place."""
    if not uri.startswith("sqlite:///"):
        return None
    file = Path(uri.removeprefix("sqlite:///")).resolve()
    return file.with_name(f"{file.stem}-files").as_uri()


def numbers(record: dict[str, Any]) -> dict[str, float]:
    """The figures of metrics.json under the names that MLflow allows: row/test/metric, with /std, and /low and /high."""
    found: dict[str, float] = {}
    for row, tests in record["rows"].items():
        for test, values in tests.items():
            for metric in metrics_of(values):
                if (value := values[metric]) is None:
                    continue
                name = f"{row}/{test}/{metric}"
                found |= {name: value["mean"], f"{name}/std": value["std"]}
                ends = value.get("interval")
                if ends:
                    found |= {f"{name}/low": ends[0], f"{name}/high": ends[1]}
            if "ahead" in values:
                name, ends = f"{row}/{test}/ahead", values["ahead"]["interval"]
                found |= {name: values["ahead"]["mean"]}
                found |= {f"{name}/low": ends[0], f"{name}/high": ends[1]} if ends else {}
    for row, cost in record["costs"].items():
        found |= {f"{row}/cost/{what}": float(cost[what]) for what in ("backbone", "elsewhere", "head", "seconds")}
    return {re.sub(r"[^\w\-. :/]", "_", name): value for name, value in found.items()}
