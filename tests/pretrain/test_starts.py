"""What is small but matters is found: a mouth in a face, and what is at the same time elsewhere."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.nn.functional import softmax

from pretrain.clips import Clip
from pretrain.config import KINDS, OptimizerConfig, StreamConfig
from pretrain.masking import NOT_REBUILT, Mask
from pretrain.objective import MaskedAutoencoder
from pretrain.pooling import Moments
from pretrain.stream_vectors import person_cells
from pretrain.tokens import tokenize
from pretrain.trunk import GatedReading
from tests.pretrain.clips_for_tests import tiny_mask, tiny_model

POINTS, ASPECT = 3 * 478, 16 / 9
SHOWN, HEARD = "mouth", "voice"
STREAMS = {
    SHOWN: StreamConfig(features=12, cell_seconds=0.25, cells_per_token=2),
    HEARD: StreamConfig(features=4, cell_seconds=0.25, cells_per_token=2),
}


def turned_faces(shapes: np.ndarray, turn: Rotation, place: np.ndarray, size: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of face.npz, shapes [row, 478, 3] in the head's axes (y up, z to the viewer), turned, moved and scaled, row by row."""
    points = np.einsum("nij,npj->npi", turn.as_matrix(), shapes) * size[:, None, None]
    landmarks = (points * [1, -1, -1] + np.append(place, np.zeros((len(place), 1)), 1)[:, None]) / [ASPECT, 1, ASPECT]
    head = np.tile(np.eye(4), (len(shapes), 1, 1))
    head[:, :3, :3] = turn.as_matrix() * size[:, None, None]  # MediaPipe's matrix scales as well
    head[:, :2, 3] = place * [30, -30]
    rows = np.arange(len(shapes))
    return {
        "times": rows / 8,
        "window": rows,
        "person": np.zeros(len(rows), int),
        "box": np.concatenate([landmarks.min(1)[:, :2], landmarks.max(1)[:, :2]], 1),
        "landmarks": landmarks,
        "blendshapes": np.zeros((len(rows), 52)),
        "head": head,
    }


def test_a_face_is_told_apart_from_how_its_head_turns_and_moves() -> None:
    rng = np.random.default_rng(0)
    look, mouth = rng.normal(size=(478, 3)), np.zeros((478, 3))
    mouth[:40] = rng.normal(size=(40, 3)) * 0.2
    mouth[:40] -= mouth[:40].mean(0)
    opened = rng.uniform(size=32)
    shapes = look + opened[:, None, None] * mouth
    turn = Rotation.from_euler("yxz", rng.uniform(-40, 40, (32, 3)), degrees=True)
    still = turned_faces(shapes, Rotation.identity(32), np.full((32, 2), 0.5), np.full(32, 0.1))
    moving = turned_faces(shapes, turn, rng.uniform(0.3, 0.7, (32, 2)), rng.uniform(0.08, 0.12, 32))
    ((_, one, _),), ((_, other, _),) = (list(person_cells("face", rows, 0.125, ASPECT)) for rows in (still, moving))
    np.testing.assert_allclose(other[:, :POINTS], one[:, :POINTS], atol=1e-5)
    assert np.abs(other - one)[:, POINTS + 52 :].max() > 0.3  # turn and shift are told beside it
    first = np.linalg.svd(other[:, :POINTS] - other[:, :POINTS].mean(0))[0][:, 0]
    assert abs(np.corrcoef(first, opened)[0, 1]) > 0.99  # the mouth is all that is left


@pytest.mark.parametrize(("dim", "heads"), [(96, 3), (128, 4), (384, 6)])
def test_half_of_the_heads_start_at_the_same_time_and_the_others_flat(dim: int, heads: int) -> None:
    reading = GatedReading(dim, heads, ["face_scene"], "mean")
    reading.start_near()
    times = np.arange(-8, 8.5, 0.5)
    query, key = (
        Moments(at).rotate(bias.detach().view(1, heads, -1).expand(len(at), -1, -1))
        for at, bias in ((np.zeros(1), reading.query.bias), (times, reading.key_value.bias[:dim]))
    )
    weight = softmax((query * key).sum(-1) * (dim // heads) ** -0.5, 0)  # [time, head]
    near = (heads + 1) // 2
    assert (weight[np.abs(times) <= 0.5, :near].sum(0) > 0.8).all()
    torch.testing.assert_close(weight[:, near:], torch.full_like(weight[:, near:], 1 / len(times)))


def voiced(number: int) -> Clip:
    """Somebody whose mouth, one of twelve numbers, a voice follows; all new every half second."""
    rng = np.random.default_rng(number)
    shown = np.repeat(rng.normal(size=(64, 12)), 2, 0)
    times = (np.arange(128) + 0.5) * 0.25
    streams = {
        SHOWN: {"times": times, "values": shown, "person": np.zeros(128, np.int64)},
        HEARD: {"times": times, "values": np.tile(shown[:, :1], 4)},
    }
    return Clip(str(number), str(number), 0.0, 32.0, [{"id": 0, "participant": None}], {}, streams, {})


def error_of_voices(model: MaskedAutoencoder, clips: list[Clip]) -> torch.Tensor:
    """Of the whole voice, rebuilt from the mouth; 1 is its mean."""
    used = []
    for number, clip in enumerate(clips):
        tokens = tokenize(clip, number, model.config, model.config.modalities)
        hidden = {name: np.full(len(part), name == HEARD) for name, part in tokens.items()}
        rebuilt = {name: np.where(rows, KINDS.index("stream"), NOT_REBUILT) for name, rows in hidden.items()}
        used.append(model.used("", tokens, Mask(hidden, rebuilt)))
    batch = model.pack(used, [])
    return model(batch)[HEARD] / batch.counts[HEARD]


def test_a_voice_is_learnt_from_a_mouth_in_few_steps() -> None:
    """Where all heads start flat in time the error is still 1."""
    torch.manual_seed(0)
    config = tiny_model(streams=STREAMS, reach_chunks=8)
    model = MaskedAutoencoder(config, tiny_mask())
    model.fit_statistics([voiced(number) for number in range(64)])
    optimizer = torch.optim.AdamW(model.parameter_groups(OptimizerConfig(lr=3e-3, gate_lr=3e-2)))
    for step in range(120):
        loss = error_of_voices(model, [voiced(1000 + 16 * step + number) for number in range(16)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert error_of_voices(model, [voiced(number) for number in range(64, 128)]) < 0.5
