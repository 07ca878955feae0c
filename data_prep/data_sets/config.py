"""The settings of ``kinesic data_prep manifest SET``, a dataclass each. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass
class ManifestEpicKitchensConfig:
    """EPIC-KITCHENS-100 -> a manifest and labels of its action segments."""

    root: Path
    """folder of the videos: P01/videos/P01_01.MP4 and so on, as the official downloader leaves them"""
    out: Path = Path("manifest.csv")
    """the manifest to write"""
    labels: Path | None = None
    """labels to write (.parquet or .csv): a row a segment with verb and noun, official test segments without; empty = none"""
    annotations: Path | None = None
    """folder of the annotations' CSV files (the repository epic-kitchens-100-annotations); empty = looked for below ROOT"""


@dataclass
class ManifestSsv2Config:
    """Something-Something v2 -> a manifest and labels."""

    root: Path
    """folder of the videos (<id>.webm) and of the lists (something-something-v2-train.json, ...-labels.json), at most two deep"""
    out: Path = Path("manifest.csv")
    """the manifest to write"""
    labels: Path | None = None
    """labels to write (.parquet or .csv): a row a video with its class; empty = none"""


@dataclass
class ManifestKineticsConfig:
    """Kinetics-400, -600 or -700 -> a manifest and labels."""

    root: Path
    """folder of the clips and of the lists (CSV with label, youtube_id, time_start, time_end, split), at any depth"""
    out: Path = Path("manifest.csv")
    """the manifest to write"""
    labels: Path | None = None
    """labels to write (.parquet or .csv): a row a clip with its class; empty = none"""
    without: tuple[Path, ...] = ()
    """labels of other Kinetics, as this command writes them: clips of train whose YouTube video they test on are left out"""


@dataclass
class ManifestSeamlessConfig:
    """Seamless Interaction -> a manifest, and labels of who speaks when."""

    root: Path
    """folder of the archives (improvised/dev/0000/0023.tar) or of the files unpacked from them, at any depth"""
    out: Path = Path("manifest.csv")
    """the manifest to write"""
    labels: Path | None = None
    """labels to write (.parquet or .csv): a person's `speaks`, yes or no, over time; empty = none"""
    unpacked: Path | None = None
    """folder that members of the archives are unpacked to, as large as the archives; empty = stop where there are archives"""
    streams: Path | None = None
    """folder to write the given features to, FOLDER/NAME/<recording>.npz as --add_stream reads them; empty = none"""
