"""Reading what a data set's authors wrote, and writing labels: what readers of single data sets share."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd

from configs import UserError


def read_texts(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """A CSV file, every cell as the text that stands there: 007 stays 007, empty cells are "". Raises UserError.

    columns: which it must have.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", quoting=csv.QUOTE_MINIMAL)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors, and so is what is no UTF-8
        raise UserError(f"{path}: not a readable CSV file ({' '.join(str(error).split())})") from None
    if missing := [name for name in columns if name not in table]:
        raise UserError(f"{path}: no column {missing[0]!r}; there are {', '.join(map(str, table.columns))}")
    return table


def write_labels(path: Path | None, labels: pd.DataFrame) -> None:
    """Writes a table of labels (.parquet or .csv) under a temporary name, then renames it; nothing where path is None."""
    if path is None:
        return
    check_labels(path)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".csv":
            labels.to_csv(temporary, index=False)
        else:
            labels.to_parquet(temporary, index=False)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        temporary.unlink(missing_ok=True)
    print(f"{path}: {len(labels)} rows of labels")


def check_labels(path: Path | None) -> None:
    """Raises UserError where labels could not be written under this name: known before anything is read."""
    if path is not None and path.suffix not in {".parquet", ".csv"}:
        raise UserError(f"--labels {path}: labels are a .parquet or .csv file")
