"""A release made by the real ``pretrain release`` out of a checkpoint that no training stands behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from configs import plain, write_run_record
from pretrain.config import DataConfig, ReleaseConfig, RunConfig
from pretrain.encoder import Encoder
from pretrain.release import release
from pretrain.schema import SCHEMA

PREPROCESSING = {
    "clip_seconds": 2.0,
    "fps": 8.0,
    "short_side": 32,
    "crf": 20,
    "streams": ["video", "pose"],
    "landmarks": "given",
    "landmark_rate": 8.0,
}


def release_of(encoder: Encoder, run: Path, out: Path, preprocessing: Mapping[str, Any] = PREPROCESSING) -> Path:
    """Writes an encoder as the checkpoint of a run, and releases it."""
    config = RunConfig(run, DataConfig(run / "shards"), model=encoder.config, steps=1)
    checkpoint = run / "checkpoints" / "step-00000001"
    checkpoint.mkdir(parents=True)
    weights = {f"encoder.{name}": value.contiguous() for name, value in encoder.state_dict().items()}
    save_file(weights, checkpoint / "weights.safetensors")
    (checkpoint / "config.json").write_text(
        json.dumps({"schema": SCHEMA, "state": {"step": 1}, "config": plain(config)})
    )
    summary = {"recordings": 1, "clips": 1, "hours": 0.01, "people": 2, "streams": {"video": 1, "pose": 1}}
    (run / "data.json").write_text(json.dumps({"summary": summary, "preprocessing": dict(preprocessing)}))
    names = [f"loss_{name}" for name in encoder.modalities]
    (run / "metrics.csv").write_text(f"step,{','.join(names)}\n1{',1.0' * len(names)}\n")
    write_run_record(run, config, 0)
    release(ReleaseConfig(run, out))
    return out
