"""Clips in memory with every stream, drawn at random: for tests of the model alone."""

import numpy as np

from pretrain.clips import Clip, View
from pretrain.config import MaskConfig, ModelConfig, StreamConfig


def tiny_model(**changes) -> ModelConfig:
    streams = {
        "audio": StreamConfig(features=16, cell_seconds=0.01, cells_per_token=50),
        "face": StreamConfig(features=478 * 3 + 52 + 9, cell_seconds=0.125, cells_per_token=4),
        "pose": StreamConfig(features=33 * 4 + 33 * 3, cell_seconds=0.125, cells_per_token=4),
    }
    sizes = {
        "dim": 48,
        "layers": 2,
        "heads": 3,
        "mlp_dim": 96,
        "image_height": 32,
        "image_width": 32,
        "frame_rate": 8.0,
    }
    return ModelConfig(
        **{**sizes, "decoder_dim": 24, "decoder_layers": 1, "decoder_heads": 3, "streams": streams, **changes}
    )


def tiny_mask() -> MaskConfig:
    return MaskConfig(video=0.5, streams=0.5, span_seconds=1.0)


def person_rows(rng: np.random.Generator, people: int, instants: int, rate: float) -> tuple[dict, dict]:
    """face and pose rows of ``people`` at every instant, as in a shard."""
    times = np.arange(instants) / rate
    window = np.repeat(np.arange(instants), people)
    person = np.tile(np.arange(people), instants)
    rows = len(window)
    face = {
        "times": times,
        "window": window,
        "person": person,
        "box": np.tile([0.2, 0.2, 0.5, 0.6], (rows, 1)) + rng.normal(0, 0.01, (rows, 4)),
        "landmarks": rng.normal(0.4, 0.1, (rows, 478, 3)),
        "blendshapes": rng.random((rows, 52)),
        "head": rng.normal(0, 1, (rows, 4, 4)),
        "score": np.ones(rows),
    }
    pose = {
        "times": times,
        "window": window,
        "person": person,
        "keypoints": rng.random((rows, 33, 4)),
        "world": rng.normal(0, 1, (rows, 33, 3)),
        "score": np.ones(rows),
    }
    return face, pose


HANDS = StreamConfig(features=2 * (21 * 3 + 1), cell_seconds=0.125, cells_per_token=4)


def hands_rows(rng: np.random.Generator, people: int, instants: int, rate: float) -> dict:
    """Rows of hands.npz: both hands of everybody, but a third of them is not seen."""
    window, person, side = (part.ravel() for part in np.indices((instants, people, 2)))
    seen = rng.random(len(window)) < 0.67
    palms = rng.uniform(0.2, 0.8, (len(window), 1, 3)) + rng.normal(0, 0.05, (len(window), 21, 3))
    return {
        "times": np.arange(instants) / rate,
        "window": window[seen],
        "person": person[seen],
        "handedness": side[seen].astype(np.int8),
        "keypoints": palms[seen],
        "score": rng.uniform(0.5, 1, seen.sum()),
    }


def with_hands(clip: Clip, seed: int = 0) -> Clip:
    """The clip, in which hands are looked for as well."""
    for number, view in enumerate(clip.views.values()):
        rng = np.random.default_rng([seed, number])
        view.hands = hands_rows(rng, len(clip.people), round((clip.end - clip.start) * 8), 8.0)
    return clip


def make_clip(
    key: str = "a", *, seed: int = 0, seconds: float = 4.0, people: int = 2, views: int = 1, size: int = 32
) -> Clip:
    rng = np.random.default_rng(seed)
    made = {}
    for number in range(views):
        face, pose = person_rows(rng, people, int(seconds * 8), 8.0)
        made[f"cam{number}"] = View(
            frames=rng.integers(0, 256, (int(seconds * 8), size, size, 3), dtype=np.uint8),
            frame_rate=8.0,
            audio=rng.normal(0, 0.1, (1, int(seconds * 16000))).astype(np.float32),
            audio_rate=16000,
            face=face,
            pose=pose,
        )
    return Clip(key, key, 0.0, seconds, [{"id": i, "participant": None} for i in range(people)], made, {}, {})
