"""``kinesic finetune merge``: a release, or a VideoMAE, that says what the tuned encoder said, without the method."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from configs import UserError
from finetune import methods
from finetune.__main__ import main
from finetune.heads import AttentiveHead
from finetune.run import tuning
from finetune.tuned import load_tuned, save_tuned
from pretrain.release import load_encoder
from tests.finetune.scenes_for_tests import some_clips
from tests.finetune.test_methods import problem_of, settings
from tests.pretrain.videomae_for_tests import SIZES, redraw


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_merged_release_says_the_same_without_the_method(
    small_release: Path, square_shards: Path, tmp_path: Path, method: str
) -> None:
    before = {file.name: file.read_bytes() for file in small_release.iterdir()}
    encoder = load_encoder(small_release).requires_grad_(False)
    config = settings(square_shards, tmp_path / "tuned", method, group_by="recording", encoder=small_release)
    problem, split = problem_of(encoder, config)
    config.training.lr, config.training.epochs = 0.1, 1
    tuning(encoder, problem, config)(replace(split, name="given"), 0, np.array([0]))
    clips = some_clips(square_shards)
    expected = load_tuned(config.out, encoder).predict(clips)
    tokens = encoder.encode_clips(clips).tokens
    command = ["merge", str(config.out), "--encoder", str(small_release), "--out", str(tmp_path / "merged")]
    assert main(command) == 0
    merged = load_encoder(tmp_path / "merged")
    torch.testing.assert_close(merged.encode_clips(clips).tokens, tokens, atol=1e-5, rtol=1e-4)
    assert (load_encoder(small_release).encode_clips(clips).tokens - tokens).abs().max() > 1e-3
    np.testing.assert_allclose(load_tuned(tmp_path / "merged-head", merged).predict(clips), expected, atol=1e-5)
    assert f"after {method} on labels of `moves`" in (tmp_path / "merged" / "MODEL_CARD.md").read_text()
    assert {file.name: file.read_bytes() for file in small_release.iterdir()} == before
    assert main(command) == 2  # it is there
    with pytest.raises(UserError, match="trained on another encoder"):
        load_tuned(tmp_path / "merged-head", load_encoder(small_release))


def test_lora_of_a_videomae_is_merged_into_a_videomae(square_shards: Path, tmp_path: Path) -> None:
    """And what was tuned on it is known again, whatever was drawn before it was loaded."""
    from transformers import VideoMAEConfig, VideoMAEModel

    published = VideoMAEModel(VideoMAEConfig(**SIZES["tiny"]))
    redraw(published)
    published.save_pretrained(tmp_path / "videomae")
    encoder = load_encoder(tmp_path / "videomae").requires_grad_(False)
    config = settings(square_shards, tmp_path / "tuned", "lora", encoder=tmp_path / "videomae", group_by="recording")
    problem, split = problem_of(encoder, config)
    config.training.lr, config.training.epochs = 0.1, 1
    tuning(encoder, problem, config)(replace(split, name="given"), 0, np.array([0]))
    torch.manual_seed(5)
    again = load_encoder(tmp_path / "videomae")
    expected = load_tuned(config.out, again).predict(some_clips(square_shards))
    out = tmp_path / "merged"
    assert main(["merge", str(config.out), "--encoder", str(tmp_path / "videomae"), "--out", str(out)]) == 0
    said = load_tuned(tmp_path / "merged-head", load_encoder(out)).predict(some_clips(square_shards))
    np.testing.assert_allclose(said, expected, atol=1e-5)


def test_an_adapter_is_not_merged(
    small_release: Path, square_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = load_encoder(small_release).requires_grad_(False)
    config = settings(square_shards, tmp_path / "tuned", "adapter", group_by="recording", encoder=small_release)
    problem, _ = problem_of(encoder, config)
    methods.install(encoder, config.adapter, None, 0)
    head = AttentiveHead(problem.features.values.shape[1], 2, 2)
    save_tuned(config.out, encoder, head, problem.task, problem.streams, config, people=False)
    assert isinstance(load_tuned(config.out, encoder).head, AttentiveHead)
    assert main(["merge", str(config.out), "--encoder", str(small_release), "--out", str(tmp_path / "out")]) == 2
    assert "method adapter leaves nothing to merge" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
