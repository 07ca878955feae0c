"""``kinesic data_prep COMMAND``: recordings in, shards out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import configs
from configs import Command
from data_prep.config import (
    BuildConfig,
    CheckConfig,
    ManifestAmiConfig,
    ManifestFolderConfig,
    MergeConfig,
    ModelsConfig,
    ReportConfig,
    SampleConfig,
    SyntheticConfig,
)
from data_prep.data_sets.config import (
    ManifestEpicKitchensConfig,
    ManifestKineticsConfig,
    ManifestMpiiGroupConfig,
    ManifestNoxiConfig,
    ManifestSeamlessConfig,
    ManifestSsv2Config,
    ManifestUdivaConfig,
)

COMMANDS = {
    "manifest folder": Command(
        "a folder of recordings -> manifest.csv", ManifestFolderConfig, "data_prep.folder:folder", ("root",)
    ),
    "manifest ami": Command("the AMI corpus -> manifest.csv", ManifestAmiConfig, "data_prep.ami:ami", ("root",)),
    "manifest udiva": Command(
        "UDIVA v0.5 -> manifest.csv, labels", ManifestUdivaConfig, "data_prep.data_sets.udiva:udiva", ("root", "out")
    ),
    "manifest epic-kitchens": Command(
        "EPIC-KITCHENS-100 -> manifest.csv",
        ManifestEpicKitchensConfig,
        "data_prep.data_sets.epic_kitchens:epic_kitchens",
        ("root", "out"),
    ),
    "manifest ssv2": Command(
        "Something-Something v2 -> manifest.csv", ManifestSsv2Config, "data_prep.data_sets.ssv2:ssv2", ("root", "out")
    ),
    "manifest kinetics": Command(
        "Kinetics -> manifest.csv", ManifestKineticsConfig, "data_prep.data_sets.kinetics:kinetics", ("root", "out")
    ),
    "manifest seamless": Command(
        "Seamless Interaction -> manifest.csv",
        ManifestSeamlessConfig,
        "data_prep.data_sets.seamless:seamless",
        ("root", "out"),
    ),
    "manifest mpii-group": Command(
        "MPIIGroupInteraction -> manifest.csv",
        ManifestMpiiGroupConfig,
        "data_prep.data_sets.mpii_group:mpii_group",
        ("root", "out"),
    ),
    "manifest noxi": Command(
        "NoXi and NoXi-J -> manifest.csv", ManifestNoxiConfig, "data_prep.data_sets.noxi:noxi", ("root", "out")
    ),
    "build": Command("recordings -> shards", BuildConfig, "data_prep.build:build", ("manifest", "out")),
    "merge": Command("the shares of an array -> one index", MergeConfig, "data_prep.merge:merge", ("out",)),
    "check": Command(
        "shards -> is everything in them as it should be?", CheckConfig, "data_prep.check:check", ("out",)
    ),
    "report": Command("shards -> one page to look at", ReportConfig, "data_prep.report:report", ("out",)),
    "models": Command("fetch the landmark models", ModelsConfig, "data_prep.landmark_models:models", ("folder",)),
    "sample": Command("fetch a small sample of real videos", SampleConfig, "data_prep.sample:sample", ("folder",)),
    "synthetic": Command(
        "write generated interaction scenes", SyntheticConfig, "data_prep.synthetic:synthetic", ("folder",)
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    return configs.main("data_prep", COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main())
