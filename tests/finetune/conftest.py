"""Small shards and a small encoder that is frozen in all these tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from configs import plain
from pretrain.config import ModelConfig, StreamConfig
from pretrain.encoder import Encoder
from tests.finetune.scenes_for_tests import write_scenes
from tests.pretrain.clips_for_tests import tiny_model


@pytest.fixture(scope="session")
def square_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 recordings x 4 clips without splits."""
    return write_scenes(tmp_path_factory.mktemp("square_shards") / "shards", 12, 4)


@pytest.fixture(scope="session")
def split_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 recordings x 4 clips: half for training, then val, test and test_reversed; one recording only for pretraining."""
    splits = [
        "train",
        "train",
        "train",
        "val",
        "test",
        "test_reversed",
        "train",
        "train",
        "train",
        "test",
        "val",
        "pretrain",
    ]
    return write_scenes(tmp_path_factory.mktemp("split_shards") / "shards", 12, 4, splits)


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe for ``pretrain run`` whose steps take milliseconds."""
    data = {"splits": ["pretrain"], "workers": 0, "cache": True, "statistics_clips": 4}
    file = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    file.write_text(yaml.safe_dump({"batch": 2, "data": data, "model": plain(tiny_model())}))
    return file


def tiny_config(**changes) -> ModelConfig:
    """Reads video and pose."""
    return tiny_model(**{"streams": {"pose": StreamConfig(33 * 4 + 33 * 3, 0.125, 4)}, **changes})


def small_encoder() -> Encoder:
    """Reads video and pose, always the same weights; every gate is open a little, so that streams matter to one another."""
    torch.manual_seed(0)
    made = Encoder(tiny_config())
    with torch.no_grad():
        for block in made.trunk.blocks:
            for gate in block.reading.gates.values():
                gate.uniform_(-0.5, 0.5)
    return made.eval().requires_grad_(False)


@pytest.fixture
def encoder() -> Encoder:
    """Anew for every test."""
    return small_encoder()


@pytest.fixture(scope="session")
def small_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder of ``encoder`` as a release."""
    from tests.finetune.release_for_tests import release_of

    folder = tmp_path_factory.mktemp("release")
    return release_of(small_encoder(), folder / "run", folder / "release")
