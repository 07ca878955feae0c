"""What a run tells: metrics.csv (every step), MLflow (now and then), progress on the terminal, loss.png at the end.

Nothing is sent anywhere unless ``tracking_uri`` names a server: MLflow's own usage statistics are switched off before it is
imported (deepspeed imports it, too).
"""

from __future__ import annotations

import csv
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DO_NOT_TRACK"] = "true"

from configs import plain
from pretrain.config import RunConfig, loss_names

PLAIN_SECONDS = 15  # between lines where there is no terminal


class Metrics:
    """metrics.csv: one row a step, written at once. What was written after the checkpoint that a run goes on from is dropped."""

    def __init__(self, file: Path, columns: list[str], step: int):
        self.file, self.columns = file, columns
        kept = [row for row in read_metrics(file) if int(row["step"]) <= step] if file.is_file() else []
        temporary = file.with_name(f".{file.name}.tmp")
        with temporary.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(kept)
        temporary.replace(file)
        self._handle = file.open("a", newline="", buffering=1)
        self._writer = csv.DictWriter(self._handle, columns)

    def write(self, row: dict[str, Any]) -> None:
        """Numbers are written so that they are read back exactly; an absent one stays empty."""
        self._writer.writerow(row)

    def close(self) -> None:
        self._handle.close()


def read_metrics(file: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv; a line that was cut short by a kill is left out."""
    with file.open(newline="") as handle:
        return [row for row in csv.DictReader(handle) if None not in row.values() and None not in row]


class Mlflow:
    """The run in MLflow: a store of its own in the run's folder unless a server is named; gone on with after a stop."""

    def __init__(self, config: RunConfig):
        import logging

        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        folder = config.out.resolve()
        self._client = MlflowClient(tracking_uri=config.tracking_uri or f"sqlite:///{folder}/mlflow.db")
        found = self._client.get_experiment_by_name("kinesic pretrain")
        experiment = (
            found.experiment_id
            if found
            else self._client.create_experiment("kinesic pretrain", artifact_location=(folder / "mlflow").as_uri())
        )
        mine = self._client.search_runs([experiment], f"tags.folder = '{folder.as_posix()}'")
        if mine:
            self.run = mine[0].info.run_id
            return
        self.run = self._client.create_run(
            experiment, run_name=folder.name, tags={"folder": folder.as_posix()}
        ).info.run_id
        for name, value in _flat(plain(config)).items():
            self._client.log_param(self.run, name, str(value)[:500])

    def send(self, step: int, numbers: dict[str, float]) -> None:
        """All numbers of a step in one call: each costs a transaction."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self.run, [Metric(name, value, now, step) for name, value in numbers.items()])

    def finish(self) -> None:
        self._client.set_terminated(self.run)


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    if not isinstance(value, dict) or not value:
        return {name: value}
    return {k: v for key, part in value.items() for k, v in _flat(part, f"{name}.{key}" if name else key).items()}


class Progress:
    """A bar with losses, clips a second and time left; a line now and then where there is no terminal."""

    def __init__(self, steps: int, step: int, title: str = "pretraining"):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._console = Console()
        self._began, self._first, self._told = time.monotonic(), step, time.monotonic()
        self._bar = Bar(
            TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn(),
            console=self._console, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=steps, completed=step, text="")
        self._steps = steps
        self._bar.start()

    def step(self, step: int, losses: dict[str, float], clips_per_second: float) -> None:
        text = "  ".join(f"{name} {loss:.3f}" for name, loss in losses.items()) + f"  {clips_per_second:.1f} clips/s"
        self._bar.update(self._task, completed=step, text=text)
        now = time.monotonic()
        if not self._console.is_terminal and (now - self._told > PLAIN_SECONDS or step == self._steps):
            left = (now - self._began) / (step - self._first) * (self._steps - step)
            print(f"step {step}/{self._steps}  {text}  {left / 60:.1f} min left", flush=True)
            self._told = now

    def stop(self) -> None:
        self._bar.stop()


class Tracker:
    """Everything that the first process tells while a run goes on."""

    def __init__(self, config: RunConfig, step: int):
        losses = [f"loss_{name}" for name in loss_names(config.model, config.mask)]
        self._shown = config.model.modalities
        self._columns = ["step", "lr", *losses, "gates", "clips", "clips_per_second", "keys"]
        self._every, self._steps = config.log_every, config.steps
        self._metrics = Metrics(config.out / "metrics.csv", self._columns, step)
        self._mlflow: Mlflow | None = Mlflow(config)
        self._progress = Progress(config.steps, step)

    def step(self, step: int, losses: dict[str, float], gates: dict[str, float] | None, about: dict[str, Any]) -> None:
        """A step's losses (those of nothing stay empty in metrics.csv); the mean absolute gates where they were looked at; lr,
        seconds, clips, keys."""
        speed = about["clips"] / about["seconds"]
        row = {"step": step, "lr": about["lr"], **{f"loss_{name}": loss for name, loss in losses.items()}}
        row |= {"clips": about["clips"], "clips_per_second": round(speed, 3), "keys": about["keys"]}
        if gates is not None:
            row["gates"] = sum(gates.values()) / len(gates)
        self._metrics.write(row)
        self._progress.step(step, {name: losses[name] for name in self._shown if name in losses}, speed)
        if gates is not None and self._mlflow is not None:
            numbers = {k: v for k, v in row.items() if k not in {"step", "keys"}}
            self._send(step, numbers | {f"gate_{name}": value for name, value in gates.items()})

    def _send(self, step: int, numbers: dict[str, float]) -> None:
        """A store that fails must not end the training: it is said once and left."""
        assert self._mlflow is not None
        try:
            self._mlflow.send(step, numbers)
        except Exception as error:
            say(f"MLflow failed ({str(error).splitlines()[0]}); the run goes on without it, metrics.csv has everything")
            self._mlflow = None

    def close(self, finished: bool) -> None:
        self._progress.stop()
        self._metrics.close()
        if finished and self._mlflow is not None:
            self._mlflow.finish()


def say(text: str) -> None:
    """One line for the user, on standard error."""
    print(f"pretrain: {text}", file=sys.stderr, flush=True)
