"""The real SLURM cluster of the tests, started once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm_cluster.cluster import SlurmCluster, start_cluster, why_not


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """Three nodes with 4 CPUs each. Skipped with one line where the machine does not allow it; an error under CI."""
    if reason := why_not():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with start_cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where jobs are queued and logs lie; it holds folders that would shadow the packages if anyone looked there."""
    for name in ("data_prep", "pretrain", "slurm", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('a folder of the same name was imported')")
    return tmp_path
