"""What several tests of data_prep need: the sample's videos and the landmark models, downloaded once a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep import landmark_models, sample


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The embedded sample: {file name: path}."""
    return sample.fetch(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of the landmark models."""
    return landmark_models.find(hands=True)
