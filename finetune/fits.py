"""Trainings that are done, kept in OUT/cache until the report is written: a run that was stopped goes on with the next one.

One npz for each split and seed, named after all that its training depends on: what it predicts, how long it took, after which
epoch it was the best, what was noted, and what the report says that predictions rest on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from configs import plain
from finetune.added_streams import told
from finetune.config import RunConfig
from finetune.evaluation import FitPredict
from finetune.features import cached, data_digest, digest_of
from finetune.problem import Problem
from finetune.report_occlusion import Evidence
from finetune.splits import Split
from pretrain.encoder import Encoder
from pretrain.weights import digest

SAVED = {"given", "all"}  # splits whose first seed is the model that is kept
# settings that do not matter to what a training finds, on the same kind of device
NO_MATTER = {"out", "workers", "clips_gb", "device", "tracking_uri"}
DAMAGED = (OSError, ValueError, EOFError, KeyError, BadZipFile)  # of a file that a power cut has torn


@dataclass
class Fits:
    """Of one run. folder: where files lie; looked: what predictions of the first seed rest on; depends: a digest of all that the
    run's trainings have in common; seconds: how long each training for a test took."""

    folder: Path
    problem: Problem
    looked: Evidence
    depends: str
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, encoder: Encoder, problem: Problem, config: RunConfig, looked: Evidence) -> Fits:
        """Of a run whose encoder nothing is installed in yet."""
        settings = {name: value for name, value in plain(config).items() if name not in NO_MATTER}
        parts = (settings, digest(encoder.state_dict()), data_digest(problem.shards), *told(encoder, problem.added))
        parts += (version("kinesic"), torch.__version__, encoder.device.type)
        depends = digest_of(*parts, problem.streams, problem.examples.to_csv(index=False))
        fits = cls(config.out / "cache", problem, looked, depends)
        if there := len(fits.files):
            print(f"{fits.folder}: {there} trainings are there; going on")
        return fits

    @property
    def files(self) -> list[Path]:
        """What is kept."""
        return list(self.folder.glob(f"fit-{self.depends}-*.npz"))

    def through(self, fit_predict: FitPredict) -> FitPredict:
        """The same function; what is kept is not fitted again. The model that is saved always is: OUT may hold another one."""

        def run(split: Split, seed: int, asked: np.ndarray) -> np.ndarray:
            if split.name in SAVED and seed == 0:
                return fit_predict(split, seed, asked)
            rows = [part.tolist() for part in (split.train, split.validation, asked)]
            name = f"{split.name.replace(', ', '-').replace(' ', '-')}-seed-{seed}-{digest_of(*rows)}"
            file = self.folder / f"fit-{self.depends}-{name}.npz"
            if file.is_file() and (predicted := self._again(file)) is not None:
                return predicted
            return cached(file, lambda: self._fitted(fit_predict, split, seed, asked))["predicted"]

        return run

    def _fitted(self, fit_predict: FitPredict, split: Split, seed: int, asked: np.ndarray) -> dict[str, np.ndarray]:
        lists: dict[str, list[Any]] = self._lists()
        before = {name: len(values) for name, values in lists.items()}
        predicted = fit_predict(split, seed, asked)
        new = {name: np.array(values[before[name] :]) for name, values in lists.items()}
        looked = self.looked.found(asked) if seed == 0 and split.tests else {}
        return new | looked | {"predicted": predicted}

    def _again(self, file: Path) -> np.ndarray | None:
        """What a training found; None, and the file is gone, where it cannot be read."""
        try:
            with np.load(file, allow_pickle=False) as found:
                arrays = dict(found)
            lists = {name: arrays[name].tolist() for name in self._lists()}
            predicted = arrays["predicted"]
        except DAMAGED:
            file.unlink()
            return None
        for name, values in self._lists().items():
            values.extend(lists[name])
        if "said" in arrays:
            self.looked.put(arrays)
        return predicted

    def _lists(self) -> dict[str, list[Any]]:
        return {"seconds": self.seconds, "best_epochs": self.problem.best_epochs, "notes": self.problem.notes}

    def remove(self) -> None:
        """Takes them away; the report is written."""
        for file in self.files:
            file.unlink()
