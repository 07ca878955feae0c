"""A sensor that no release knows (a wristband, gaze, a respiration belt) beside the frozen encoder.

    python examples/my_own_sensor.py RELEASE SHARDS LABELS.csv TARGET SENSOR.csv OUT

SENSOR.csv is the sensor's log: a row an instant, on the recording's clock, with the wearer where it is about people,

    recording,time,participant,heart_rate,skin
    s01,0.25,anna,71,0.31

Its tokenizer and its gates learn with small weights in the encoder, whose own weights stay. OUT/without and OUT/with are two runs,
OUT/compare/compare.html puts them side by side.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import yaml

from finetune.compare import compare
from finetune.config import CompareConfig, RunConfig
from finetune.run import run

NOT_NUMBERS = {"recording", "time", "participant", "person"}
TOKEN_SECONDS = 0.5


def declare(sensor: Path, folder: Path) -> Path:
    """Writes sensor.yaml: how many numbers a row has, how far rows are apart, how many of them a token has."""
    table = pd.read_csv(sensor)
    whose = [name for name in ("recording", "participant", "person") if name in table]
    step = float(table.sort_values("time").groupby(whose)["time"].diff().median())
    stream = {
        "features": len(set(table.columns) - NOT_NUMBERS),
        "cell_seconds": round(step, 4),
        "cells_per_token": max(round(TOKEN_SECONDS / step), 1),
        "data": str(sensor.resolve()),
    }
    file = folder / "sensor.yaml"
    file.write_text(yaml.safe_dump({"sensor": stream}))
    return file


def main(release: str, shards: str, labels: str, target: str, sensor: str, out: str) -> int:
    """Runs without and with the sensor and compares; returns the larger exit code."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    declared = declare(Path(sensor), folder)
    runs = {"without": None, "with": declared}
    given = (Path(release), Path(shards), Path(labels), target)
    # one seed for a first look; leave it out (three) for what you will report
    codes = [run(RunConfig(*given, folder / name, add_stream=stream, seeds=1)) for name, stream in runs.items()]
    compare(CompareConfig([folder / name for name in runs], folder / "compare"))
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
