"""The settings of ``kinesic data_prep manifest SET``, as plain dataclasses: nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


def check_labels(labels: Path | None) -> None:
    """Raises ValueError where the table of labels could not be written under its name."""
    if labels is not None and labels.suffix not in {".parquet", ".csv"}:
        raise ValueError(f"labels: {labels} should end in .parquet or .csv")


@dataclass
class ManifestUdivaConfig:
    """UDIVA v0.5 -> a manifest, the labels of its personality track and, on request, its landmarks as streams."""

    root: Path
    """folder that train/, val/ and test/ were unpacked into"""
    out: Path = Path("manifest.csv")
    """the manifest to write"""
    labels: Path | None = None
    """table to write (.parquet or .csv): five traits a participant and recording; empty = none"""
    streams: Path | None = None
    """folder to write the given landmarks and who speaks to, as streams for `finetune run --add_stream FOLDER/streams.yaml`"""
    masked_labels: bool = False
    """of val and test, take the labels of parts_SPLIT.csv as well, without _unmasked; nobody says whether they are true"""
    synchronised: bool = False
    """both cameras were started at one instant (offset 0); false = each recording's offset is measured from the sound"""

    def __post_init__(self) -> None:
        check_labels(self.labels)
