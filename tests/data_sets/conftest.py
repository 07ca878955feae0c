"""Trees of the data sets, written once a session; read only, copy what a test changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data_sets.multimediate_scenes import draw
from tests.data_sets.udiva_tree import write_udiva


@pytest.fixture(scope="session")
def udiva_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("udiva")
    return write_udiva(folder / "UDIVA_v0.5", folder / "scenes")


@pytest.fixture(scope="session")
def dyads(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three recordings of two people, a camera each."""
    return draw(tmp_path_factory.mktemp("dyads"), 3, 2)


@pytest.fixture(scope="session")
def groups(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two recordings of three people and one of four, a camera each."""
    return [*draw(tmp_path_factory.mktemp("threes"), 2, 3), *draw(tmp_path_factory.mktemp("four"), 1, 4)]
