"""The official evaluation of the field's data sets, one file a set.

A protocol is a module with

- ``RULE``: a sentence that names the rule, pooling included; it stands on the page;
- ``RIVALS``: the literature's figures;
- ``read(runs, annotations)``: the predictions of ``finetune run``, one run a target, put together as the rule needs them;
- ``score(what read gave)``: metric -> figure, by the rule of the public script;
- maybe ``submission(what read gave, folder)``: the file that the organisers' server takes; returns its path, None where it
  cannot be made yet.

``finetune/score.py`` calls them: for each test set, seed and row (the method, the mean predictor, metadata).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Run:
    """What one row of one ``finetune run`` said of one test set with one seed.

    record: metrics.json. predictions: of predictions.csv, a row an example: recording, participant (text, "" = the scene), start,
    end (seconds), target, prediction (numbers of a regression, else text), p(CLASS).
    """

    folder: Path
    record: dict[str, Any]
    predictions: pd.DataFrame

    @property
    def target(self) -> str:
        """The column of the labels that was predicted."""
        return self.record["target"]
