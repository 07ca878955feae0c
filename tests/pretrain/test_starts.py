"""Where learning starts: small components of a stream are heard, what is at the same time is read, decoders read streams."""

import numpy as np
import pytest
import torch
from torch.nn.functional import softmax

from pretrain.clips import Clip
from pretrain.config import KINDS, StreamConfig
from pretrain.masking import NOT_REBUILT, Mask
from pretrain.objective import MaskedAutoencoder
from pretrain.pooling import Moments
from pretrain.tokens import StreamTokenizer, tokenize
from pretrain.trunk import GatedReading
from tests.pretrain.clips_for_tests import tiny_mask, tiny_model

NUMBERS, SHOWN, HEARD = 200, "mouth", "voice"
STREAMS = {
    SHOWN: StreamConfig(features=NUMBERS, cell_seconds=0.25, cells_per_token=2),
    HEARD: StreamConfig(features=4, cell_seconds=0.25, cells_per_token=2),
}


def test_small_components_enter_the_trunk_as_large_as_the_others() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(40, 5)))[0].T
    deviations = np.array([30.0, 10.0, 5.0, 2.0, 1.0])
    x = torch.from_numpy(rng.normal(size=(500, 5)) * deviations @ directions).float()
    tokenizer = StreamTokenizer(StreamConfig(features=20, cell_seconds=0.1, cells_per_token=2), 64)
    before = tokenizer.project.weight.detach().clone()
    tokenizer.start_white(x.view(500, 2, 20))
    after = tokenizer.project.weight.detach()

    def gains(weight: torch.Tensor, along: np.ndarray) -> np.ndarray:
        """What is left of vectors [vector, number] of deviation one."""
        return (torch.from_numpy(along).float() @ weight.view(64, 2, 21)[..., :-1].flatten(1).T).norm(dim=1).numpy()

    carried = gains(after, directions) * deviations
    assert carried.max() / carried.min() < 1.5
    assert (gains(before, directions) * deviations).max() > 20 * (gains(before, directions) * deviations).min()
    assert 0.5 < carried.mean() ** 2 * 5 / 64 / 2 < 2  # variance two, as wide vectors have it under Xavier's
    unseen = np.linalg.svd(directions)[2][5:]  # whatever these data do not show is read as it was
    np.testing.assert_allclose(gains(after, unseen), gains(before, unseen), rtol=1e-3)
    torch.testing.assert_close(after.view(64, 2, 21)[..., -1], before.view(64, 2, 21)[..., -1])


def test_a_stream_that_never_changes_starts_as_any_map() -> None:
    tokenizer = StreamTokenizer(StreamConfig(features=3, cell_seconds=0.1, cells_per_token=1), 8)
    before = tokenizer.project.weight.detach().clone()
    tokenizer.start_white(torch.zeros(5, 1, 3))
    torch.testing.assert_close(tokenizer.project.weight.detach(), before)


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


def test_a_decoder_reads_streams_from_the_start_and_an_encoder_nothing() -> None:
    """Published decoders have read segments alone, so that other segments stay behind closed gates."""
    model = MaskedAutoencoder(tiny_model(), tiny_mask())
    for reading in model.decoder.trunk.readings():
        opened = {name for name, gate in reading.gates.items() if (gate == 1).all()}
        assert opened == set(reading.gates) - {"video_scene"}
        assert not reading.gates["video_scene"].any()
    assert not any(gate.any() for reading in model.encoder.trunk.readings() for gate in reading.gates.values())


def voiced(number: int) -> Clip:
    """Somebody with a look of their own, all but all of what is seen, whose mouth a voice follows, new every half second."""
    rng = np.random.default_rng(number)
    basis = np.random.default_rng(99).normal(size=(8, NUMBERS))
    look = rng.normal(size=(1, 7)) @ basis[:7] * 10
    said = np.repeat(rng.normal(size=(16, 1)), 2, 0)
    times = (np.arange(32) + 0.5) * 0.25
    streams = {
        SHOWN: {"times": times, "values": look + said * basis[7] * 0.5, "person": np.zeros(32, np.int64)},
        HEARD: {"times": times, "values": np.tile(said, 4)},
    }
    return Clip(str(number), str(number), 0.0, 8.0, [{"id": 0, "participant": None}], {}, streams, {})


def test_a_voice_is_learnt_from_a_mouth_in_few_steps() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = MaskedAutoencoder(tiny_model(streams=STREAMS), tiny_mask())
    model.fit_statistics([voiced(number) for number in range(64)])
    gates = [p for name, p in model.named_parameters() if ".gates." in name]
    rest = [p for name, p in model.named_parameters() if ".gates." not in name]
    optimizer = torch.optim.AdamW([{"params": rest, "lr": 3e-3}, {"params": gates, "lr": 3e-2}])

    def error(clips: list[Clip]) -> torch.Tensor:
        """Of the whole voice, rebuilt from the mouth."""
        used = []
        for number, clip in enumerate(clips):
            tokens = tokenize(clip, number, model.config, model.config.modalities)
            hidden = {name: np.full(len(part), name == HEARD) for name, part in tokens.items()}
            rebuilt = {name: np.where(rows, KINDS.index("stream"), NOT_REBUILT) for name, rows in hidden.items()}
            used.append(model.used("", tokens, Mask(hidden, rebuilt)))
        batch = model.pack(used, [])
        return model(batch)[HEARD] / batch.counts[HEARD]

    for step in range(60):
        loss = error([voiced(1000 + 16 * step + number) for number in range(16)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert error([voiced(number) for number in range(64, 128)]) < 0.8  # 1: its mean
