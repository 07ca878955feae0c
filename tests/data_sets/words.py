"""What the tests of whole ways have in common: settings that make a recipe small, as words of a command line."""

from __future__ import annotations

SMALL = {
    "dim": 48, "layers": 2, "heads": 3, "mlp_dim": 96, "image_height": 32, "image_width": 32, "frame_rate": 8.0,
    "decoder_dim": 24, "decoder_layers": 1, "decoder_heads": 3,
}  # fmt: skip
STEPS = {
    "steps": 3, "batch": 2, "accumulate": 1, "precision": "fp32", "checkpoint_every": 3, "picture_every": 3,
    "data.workers": 0, "data.statistics_clips": 4, "optimizer.warmup_steps": 1,
}  # fmt: skip


def words(**settings: object) -> list[str]:
    """--name value --name value"""
    return [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
