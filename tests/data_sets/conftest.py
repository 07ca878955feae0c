"""Scenes that several sets' trees are made of, drawn once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data_sets.multimediate_scenes import draw


@pytest.fixture(scope="session")
def dyads(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three recordings of two people, a camera each."""
    return draw(tmp_path_factory.mktemp("dyads"), 3, 2)


@pytest.fixture(scope="session")
def groups(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two recordings of three people and one of four, a camera each."""
    return [*draw(tmp_path_factory.mktemp("threes"), 2, 3), *draw(tmp_path_factory.mktemp("four"), 1, 4)]
