"""Trees of the data sets, written once a session; read only, copy what a test changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data_sets.udiva_tree import write_udiva


@pytest.fixture(scope="session")
def udiva_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("udiva")
    return write_udiva(folder / "UDIVA_v0.5", folder / "scenes")
