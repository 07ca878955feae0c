"""``--test_setting``: trained in one room or with one camera, reported in another.

The setting of a recording stands in a column of the labels or, as ``x.<name>``, of the manifest. Where the manifest names
splits as well, its train and val recordings of one setting are learnt from, and its test recordings of the other are reported.
"""

from __future__ import annotations

import difflib

import numpy as np
import pandas as pd

from configs import UserError
from finetune.annotations import read_annotations
from finetune.config import RunConfig
from finetune.labels import name_of, read_table
from finetune.splits import Split, check_overlap, given_split


def named_split(examples: pd.DataFrame, config: RunConfig) -> Split | None:
    """The split that settings or the manifest name, None where neither does. Raises UserError where people stand on both sides.

    examples: as for ``given_split`` and, with test_setting, a column "setting".
    """
    if config.test_setting is None:
        return given_split(examples, config.group_by)
    setting, splits = examples["setting"], examples["split"]
    known = sorted(set(setting) - {""})
    for name, value in (("train_setting", config.train_setting), ("test_setting", config.test_setting)):
        if value is not None and value not in known:
            near = difflib.get_close_matches(value, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known) or 'none'}"
            raise UserError(f"--{name}: no labelled recording has {config.setting} {value!r}; {hint}")
    if config.group_by is None and ((examples["participant"] == "") & (examples["people"] == "")).any():
        raise UserError(
            f"nothing says whether the same people stand in {config.test_setting} and elsewhere: name the participants in "
            "labels or manifest, or give --group_by recording (different recordings, different people)"
        )
    reported = setting == config.test_setting
    learnt = ~reported & (setting != "") if config.train_setting is None else setting == config.train_setting
    validation = np.zeros(len(examples), bool)
    if (splits == "train").any() and splits.str.startswith("test").any():
        reported &= splits.str.startswith("test")
        validation = learnt & (splits == "val")
        learnt &= splits == "train"
    if not learnt.any() or not reported.any():
        what = "train on" if not learnt.any() else "report"
        raise UserError(f"--test_setting {config.test_setting}: nothing is left to {what} by the manifest's splits")
    split = Split(
        "given", np.flatnonzero(learnt), np.flatnonzero(validation), {config.test_setting: np.flatnonzero(reported)}
    )
    check_overlap(examples, split, config.group_by)
    return split


def settings_of(config: RunConfig, index: pd.DataFrame) -> dict[str, str]:
    """Recording -> its setting, "" where nobody said. Raises UserError where the column is nowhere, or has two values for one.

    index: a row a clip, with its meta.json in "meta".
    """
    table = (
        None if config.labels.suffix != ".parquet" and read_annotations(config.labels) else read_table(config.labels)
    )
    if table is not None and config.setting in table:
        given = table[table[config.setting].notna()]
        given = given.groupby(given["recording"].map(name_of))[config.setting].unique()
        found = {str(recording): {str(value).strip() for value in values} for recording, values in given.items()}
    else:
        found = _of_manifest(config, index)
    for recording, values in found.items():
        if len(values) > 1:
            raise UserError(f"{recording}: has several values of {config.setting}: {', '.join(sorted(values))}")
    return {recording: next(iter(found.get(recording, {""}))) for recording in index["recording"].astype(str).unique()}


def _of_manifest(config: RunConfig, index: pd.DataFrame) -> dict[str, set[str]]:
    """Recording -> the values of its views, out of meta.json."""
    extra = {str(name): meta["extra"] for name, meta in zip(index["recording"], index["meta"], strict=True)}
    if not any(config.setting in columns for columns in extra.values()):
        known = sorted({name for columns in extra.values() for name in columns})
        raise UserError(
            f"--test_setting: neither {config.labels} has a column {config.setting!r} nor the manifest x.{config.setting}"
            + (f"; the manifest has x.{', x.'.join(known)}: --setting names another" if known else "")
        )
    values = {recording: columns.get(config.setting, "") for recording, columns in extra.items()}
    return {
        recording: {str(one) for one in (value.values() if isinstance(value, dict) else [value])}
        for recording, value in values.items()
    }


def splits_told(config: RunConfig) -> str:
    """A few words for where the splits come from."""
    if config.test_setting is None:
        return "splits of the manifest"
    return f"trained in {config.train_setting or 'the other settings'}, reported in {config.test_setting}"
