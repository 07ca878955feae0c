"""The head that pools by attention: what it starts as, what it attends to, and that kept steps are the tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from finetune import methods, training
from finetune.config import TrainingConfig
from finetune.features import WHOLE, Rows, encode
from finetune.heads import AttentiveHead, Head
from finetune.steps import steps_of
from pretrain.encoder import Encoder
from tests.finetune.scenes_for_tests import some_clips
from tests.finetune.test_methods import problem_of, settings

MODALITIES = torch.tensor([0, 1])
# a clip, one person of it, one of another; half a clip, one person in the first half of it
ROWS = Rows.of([(0, *WHOLE), (0, 2, -np.inf, np.inf), (1, 1, -np.inf, np.inf), (2, -1, 0.0, 1.0), (2, 1, -np.inf, 1.0)])


def linear_head(encoder: Encoder, square_shards: Path, streams: int = 2) -> Head:
    torch.manual_seed(1)
    head = Head(streams * (6 * encoder.config.dim + 1), 3)
    torch.nn.init.normal_(head.mean)
    torch.nn.init.uniform_(head.scale, 0.5, 2)
    return head


def test_an_attentive_head_starts_as_the_linear_one(encoder: Encoder, square_shards: Path) -> None:
    """With a clip that has nothing, and one without video: streams that are not there are zeros to both."""
    clips = some_clips(square_shards)
    for view in clips[1].views.values():
        view.frames, view.pose = None, None
    for view in clips[2].views.values():
        view.frames = None
    encoded = encode(encoder, clips, encoder.modalities)
    head = linear_head(encoder, square_shards)
    said = head.of_tokens(encoded, ROWS, MODALITIES)
    attends = AttentiveHead.of(head, 2)
    torch.testing.assert_close(attends.of_tokens(encoded, ROWS, MODALITIES), said, atol=1e-2, rtol=1e-3)
    weights = attends.weights(steps_of(encoded, MODALITIES), ROWS)
    assert weights.sum(2).round(decimals=4).tolist() == [[1, 1], [1, 1], [0, 0], [0, 1], [0, 1]]
    torch.nn.init.normal_(attends.query)
    assert (attends.of_tokens(encoded, ROWS, MODALITIES) - said).abs().max() > 0.1


def test_it_attends_to_what_its_query_is_like(encoder: Encoder, square_shards: Path) -> None:
    """The step that lies farthest along a query takes the weight, in its stream alone, and never beyond the row's person."""
    encoded = encode(encoder, some_clips(square_shards), encoder.modalities)
    steps = steps_of(encoded, MODALITIES)
    head = AttentiveHead.of(linear_head(encoder, square_shards), 2)
    even = head.weights(steps, ROWS)
    along = torch.randn(steps.mean.shape[1])
    with torch.no_grad():
        head.query[1] = along
    uneven = head.weights(steps, ROWS)
    for row, mine in ((0, steps.clip == 0), (1, (steps.clip == 0) & (steps.person == 2))):
        far = ((steps.mean - head.middle[1]) / head.width[1]) @ along
        liked = int(far.masked_fill(~(mine & (steps.modality == 1)), -torch.inf).argmax())
        assert uneven[row, 1].argmax() == liked
        assert uneven[row, 1, liked] > 2 * even[row, 1, liked]
    torch.testing.assert_close(uneven[:, 0], even[:, 0])
    assert not uneven[2][:, (steps.person == 2) | (steps.clip != 1)].any()
    assert not uneven[3][:, steps.time >= 1].any()


def test_a_query_gets_a_gradient_at_the_start_and_passes_one_to_the_tokens(
    encoder: Encoder, square_shards: Path
) -> None:
    encoded = encode(encoder, some_clips(square_shards), encoder.modalities)
    encoded.tokens.requires_grad_(True)
    head = AttentiveHead.of(linear_head(encoder, square_shards), 2)
    head.of_tokens(encoded, ROWS, MODALITIES).square().sum().backward()
    assert (head.query.grad.abs().amax(1) > 0).all()
    assert encoded.tokens.grad.abs().max() > 0


def test_kept_steps_are_what_the_encoder_says_and_the_encoder_runs_once(
    encoder: Encoder, square_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(
        square_shards, tmp_path, "attentive", labels=square_shards / "person.csv", target="shakes",
        training=TrainingConfig(epochs=2, lr=1e-2),
    )  # fmt: skip
    problem, split = problem_of(encoder, config)
    kept = training.kept_steps(encoder, problem, config)
    monkeypatch.setattr(Encoder, "encode_clips", lambda *_: pytest.fail("encoded again"))
    head = training.train(encoder, problem, split, config, seed=0)
    rows = np.array([40, 3, 41, 8, 9, 2])
    said = training.predict(encoder, head, problem, rows, config)
    nothing = np.empty(0, np.int64)  # what the model that saw everything is asked for
    assert training.predict(encoder, head, problem, nothing, config).shape == (0, 2)
    problem.steps = None
    torch.testing.assert_close(training.kept_steps(encoder, problem, config).mean, kept.mean)  # from OUT/cache
    monkeypatch.undo()
    config.method = "adapter"  # the same head, of clips that run through the encoder
    again = training.predict(encoder, head, problem, rows, config)
    np.testing.assert_allclose(said, again, atol=5e-3)
    assert np.ptp(said[:, 0]) > 0.3
    assert not methods.small_weights(encoder)
    assert isinstance(head, AttentiveHead)
    assert head.query.abs().max() > 0


def test_attention_finds_what_means_do_not_show() -> None:
    """One step in 40 tells the label: in the mean it drowns, a query finds it."""
    from finetune.steps import Steps

    rng = torch.Generator().manual_seed(0)
    clips, length, size = 200, 40, 6
    mean = torch.randn(clips, length, size, generator=rng)
    label, when = torch.randint(2, (clips,), generator=rng), torch.randint(length, (clips,), generator=rng)
    mean[torch.arange(clips), when, 0] = 8.0
    mean[torch.arange(clips), when, 1] = 3.0 * (2 * label - 1)
    zeros = torch.zeros(clips * length, size)
    number = torch.arange(clips).repeat_interleave(length)
    steps = Steps(
        mean.flatten(0, 1), zeros, zeros, torch.ones(len(number)), 0 * number, number, 0 * number - 1, 0.0 * number
    )
    head = AttentiveHead(3 * size + 1, 2, 1)
    optimizer = torch.optim.Adam(head.parameters(), 0.03)
    train, test = torch.arange(100), torch.arange(100, 200)
    for _ in range(150):
        said = head.of_steps(steps.of_clips(train), Rows.of_clips(100))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(said, label[train]).backward()
        optimizer.step()

    def accuracy() -> float:
        said = head.of_steps(steps.of_clips(test), Rows.of_clips(100))
        return float((said.argmax(1) == label[test]).float().mean())

    assert accuracy() > 0.9
    assert head.weights(steps.of_clips(test), Rows.of_clips(100)).amax(2).mean() > 0.5
