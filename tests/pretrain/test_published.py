"""benchmarks.published: a run that starts from weights of VideoMAE's layout learns."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks import published, runs
from pretrain import checkpoint
from pretrain.weights import load_videomae


def test_a_run_from_weights_of_videomaes_layout_stays_finite_and_falls(
    recipe: Path, shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["--recipe", str(recipe), "--shards", str(shards), "--out", str(out), "--steps", "40", "--batch", "4"]
    published.main(words)
    encoder = load_videomae(out / "videomae")
    moved = [block.norm2.bias.abs().mean() for block in encoder.trunk.blocks]
    assert min(map(float, moved)) > 0.05  # drawn anew, not a library's zeros
    losses = runs.losses(out / "run", ("video", "face", "pose"))
    assert len(losses) == 40
    # the run began there and not anew: 40 steps later its patches are still much like those that were drawn
    newest = checkpoint.newest(out / "run")
    assert newest is not None
    learnt = load_file(newest / "weights.safetensors")["encoder.video.weight"]
    assert torch.cosine_similarity(learnt.flatten(), encoder.video.weight.flatten(), 0) > 0.5
    first, last = np.nanmean(losses[:8], 0), np.nanmean(losses[-8:], 0)
    assert (last < first).all(), (first, last)
    assert "| mean of the last 20 steps |" in (out / "table.md").read_text()
    assert torch.isfinite(torch.from_numpy(losses[-1])).all()
