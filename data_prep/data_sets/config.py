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

    def __post_init__(self) -> None:
        check_labels(self.labels)


@dataclass
class ManifestSsv2Config:
    """Something-Something v2 -> a manifest and labels."""

    root: Path
    """folder of the videos (<id>.webm) and of the lists (something-something-v2-train.json, ...-labels.json), at most two deep"""
    out: Path = Path("manifest.csv")
    """the manifest to write"""
    labels: Path | None = None
    """labels to write (.parquet or .csv): a row a video with its class; empty = none"""

    def __post_init__(self) -> None:
        check_labels(self.labels)


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

    def __post_init__(self) -> None:
        check_labels(self.labels)


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

    def __post_init__(self) -> None:
        check_labels(self.labels)


@dataclass
class ManifestNoxiConfig:
    """NoXi and NoXi-J, as MultiMediate distributes them -> a manifest, and engagement 25 times a second as labels."""

    root: Path
    """folder that holds noxi/ and noxi-j/, each with train/, val/, test.../SESSION/expert.video.mp4 and so on; or one of the two"""
    out: Path = Path("manifest.csv")
    """the manifest to write"""
    labels: Path | None = None
    """labels to write (.parquet or .csv): a row a labelled frame with engagement; empty = none"""
    mpii_group: Path | None = None
    """folder of MPIIGroupInteraction in the engagement task's layout: its val is reported as well; it has no training labels"""
    streams: Path | None = None
    """folder to write the given features to, FOLDER/NAME/<recording>.npz and FOLDER/streams.yaml for --add_stream; empty = none"""
    features: tuple[str, ...] = ()
    """features to write, as in [openface2,audio_egemapsv2]; empty = all there are"""

    def __post_init__(self) -> None:
        check_labels(self.labels)
        if self.features and self.streams is None:
            raise ValueError("features: give --streams FOLDER to write them to as well")


@dataclass
class ManifestMpiiGroupConfig:
    """MPIIGroupInteraction -> a manifest, and labels of MultiMediate's tasks."""

    root: Path
    """folder of data/ and sample_lists/ (2021: eye contact, next speaker), of clips_train/ and so on (bodily behaviour), or of
    engagement-annotations-val/ or val/ (engagement); what of these is there is read"""
    out: Path = Path("manifest.csv")
    """the manifest to write"""
    labels: Path | None = None
    """labels to write (.parquet or .csv): a row a sample, a clip or a labelled frame; empty = none"""
    lists: tuple[str, ...] = ()
    """tasks whose sample lists are read, as in [eye_contact]; empty = all there are"""
    whole: bool = False
    """discussions of data/ from beginning to end, for pretraining; else what is used of them are the windows of the sample lists"""
    streams: Path | None = None
    """folder to write the given features to, FOLDER/NAME/<recording>.npz and FOLDER/streams.yaml for --add_stream; empty = none"""
    features: tuple[str, ...] = ()
    """features to write, as in [openface2,dino]; empty = all there are"""

    def __post_init__(self) -> None:
        check_labels(self.labels)
        if self.features and self.streams is None:
            raise ValueError("features: give --streams FOLDER to write them to as well")
