"""Data that several packages' tests share, made once a session by the real generator and the real builder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: a second thread costs more than it brings


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six generated recordings of 16 s (64x64, 8 fps) with manifest.csv, labels.csv and known landmarks."""
    from data_prep.config import SyntheticConfig
    from data_prep.synthetic import synthetic

    folder = tmp_path_factory.mktemp("scenes")
    synthetic(SyntheticConfig(folder, pretrain=2, train=2, test=1, test_reversed=1, recording_seconds=16.0))
    return folder


@pytest.fixture(scope="session")
def shards(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenes as shards: clips of 4 s, several shards. Read only; copy what a test damages."""
    from data_prep.build import build
    from data_prep.config import BuildConfig

    folder = tmp_path_factory.mktemp("shards")
    settings = {"clip_seconds": 4.0, "fps": 8.0, "short_side": 64, "landmarks": "given", "shard_minutes": 0.5}
    assert build(BuildConfig(scenes / "manifest.csv", folder, **settings)) == 0
    return folder
