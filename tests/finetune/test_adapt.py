"""Adapters for a new setting: learnt without labels, gone on with after a stop, and put into that encoder alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from configs import UserError, plain
from finetune import methods
from finetune.__main__ import main
from finetune.adapt import Adaptation, told, with_decoder
from finetune.adapted import adapters, install, load_adapted
from finetune.config import AdaptConfig, AdapterConfig
from finetune.data import open_encoder
from finetune.features import weights_digest
from finetune.tuned import load_tuned
from pretrain.config import DataConfig, RunConfig
from pretrain.encoder import Encoder
from pretrain.objective import MaskedAutoencoder
from pretrain.release import load_encoder
from pretrain.schema import SCHEMA
from pretrain.tracking import read_metrics
from tests.finetune.scenes_for_tests import with_a_damaged_clip
from tests.finetune.test_methods import some_clips

ROOT = Path(__file__).parent.parent.parent


def adapt(release: Path, shards: Path, out: Path, *more: str) -> int:
    given = {"encoder": release, "data": shards, "out": out, "steps": 9, "batch": 4, "workers": 0, "mask.video": 0.5}
    words = [word for name, value in (given | {"lr": 1e-2}).items() for word in (f"--{name}", str(value))]
    return main(["adapt", *words, *more])


@pytest.fixture(scope="module")
def adapted(small_release: Path, square_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; the release is what it was."""
    out = tmp_path_factory.mktemp("adapted") / "out"
    before = {file.name: file.read_bytes() for file in small_release.iterdir()}
    assert adapt(small_release, square_shards, out) == 0
    assert {file.name: file.read_bytes() for file in small_release.iterdir()} == before
    return out


def test_at_step_0_the_encoder_does_what_it_did(encoder: Encoder, square_shards: Path) -> None:
    clips, names = some_clips(square_shards), set(encoder.state_dict())
    before = encoder.encode_clips(clips).tokens
    install(encoder, AdapterConfig(), seed=0)
    assert torch.equal(encoder.encode_clips(clips).tokens, before)
    assert set(encoder.state_dict()) - names == set(adapters(encoder))  # the released names are as they were
    assert not names - set(encoder.state_dict())
    for weight in adapters(encoder).values():
        weight.data.add_(0.1)
    assert not torch.allclose(encoder.encode_clips(clips).tokens, before)


def test_what_is_left_is_the_adapters_and_a_curve(adapted: Path, small_release: Path) -> None:
    files = {"adapted.safetensors", "config.json", "config.yaml", "versions.json", "metrics.csv", "loss.png", ".lock"}
    assert {file.name for file in adapted.iterdir()} == files
    weights, encoder = load_file(adapted / "adapted.safetensors"), load_encoder(small_release)
    install(encoder, AdapterConfig(), seed=0)
    assert set(weights) == set(adapters(encoder))
    drawn = adapters(encoder)
    assert all(not torch.equal(value, drawn[name]) for name, value in weights.items())
    rows = read_metrics(adapted / "metrics.csv")
    assert [int(row["step"]) for row in rows] == list(range(1, 10))
    assert all(float(row["loss_video"]) > 0 and float(row["loss_pose"]) > 0 for row in rows)
    about = json.loads((adapted / "config.json").read_text())
    assert about["clips"] == 48
    assert about["encoder_sha256"] == weights_digest(load_encoder(small_release))


def test_a_decoder_drawn_anew_learns_alone_at_first(small_release: Path, square_shards: Path, tmp_path: Path) -> None:
    """Adapters that nothing can be read out of yet would learn noise."""
    model, fresh, config = with_config(small_release, square_shards, tmp_path, steps=6)
    assert fresh
    install(model.encoder, config.adapter, 0)
    small = adapters(model.encoder)
    before = {name: weight.detach().clone() for name, weight in small.items()}
    run = Adaptation(config, model, list(small.values()), clips_of(square_shards), {}, fresh)
    moved = []

    def look() -> bool:
        moved.append(not all(torch.equal(weight, before[name]) for name, weight in small.items()))
        return False

    assert run.train(look)
    assert moved == [False, False, True, True, True, True]


def with_config(release: Path, shards: Path, out: Path, **changes) -> tuple[MaskedAutoencoder, bool, AdaptConfig]:
    given = {"encoder": release, "data": shards, "out": out, "batch": 4, "workers": 0}
    config = AdaptConfig(**(given | changes))
    return *with_decoder(load_encoder(release).requires_grad_(False), config), config


def clips_of(shards: Path):
    from pretrain.stream import Clips

    return Clips(DataConfig(shards, workers=0), ("video", "pose"))


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    small_release: Path,
    square_shards: Path,
    adapted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By a signal within step 4: that step is ended and saved, code 75; the weights at the end are the same bit by bit."""
    step, done = Adaptation._step, []

    def stopped(self: Adaptation, *given):
        done.append(1)
        if len(done) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *given)

    monkeypatch.setattr(Adaptation, "_step", stopped)
    assert adapt(small_release, square_shards, tmp_path / "out") == 75
    assert "run the same command to go on" in capsys.readouterr().out
    assert not (tmp_path / "out" / "config.json").is_file()
    with pytest.raises(UserError, match="a finished kinesic finetune adapt"):
        load_adapted(tmp_path / "out", load_encoder(small_release))
    assert adapt(small_release, square_shards, tmp_path / "out", "--lr", "0.1") == 2
    assert "made with lr 0.01, you ask for 0.1" in capsys.readouterr().err
    assert adapt(small_release, square_shards, tmp_path / "out") == 0
    assert len(done) == 9
    for name, value in load_file(adapted / "adapted.safetensors").items():
        assert torch.equal(load_file(tmp_path / "out" / "adapted.safetensors")[name], value)
    assert (tmp_path / "out" / "metrics.csv").read_text() == (adapted / "metrics.csv").read_text()
    assert adapt(small_release, square_shards, tmp_path / "out") == 0
    assert "finished at step 9; nothing to do" in capsys.readouterr().out
    assert len(done) == 9


_LOAD = """
import sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {root!r})
from finetune.data import open_encoder
from tests.finetune.test_methods import some_clips
encoder = open_encoder(Path({release!r}), "cpu", adapted=Path({adapted!r}))
np.save({out!r}, encoder.encode_clips(some_clips(Path({shards!r}))).tokens.detach().numpy())
"""


def test_adapters_load_in_a_fresh_process_and_into_no_other_encoder(
    adapted: Path, small_release: Path, square_shards: Path, encoder: Encoder, tmp_path: Path
) -> None:
    plainly = encoder.encode_clips(some_clips(square_shards)).tokens
    load_adapted(adapted, encoder)
    out = tmp_path / "tokens.npy"
    given = {"release": str(small_release), "adapted": str(adapted), "shards": str(square_shards), "out": str(out)}
    subprocess.run([sys.executable, "-c", _LOAD.format(root=str(ROOT), **given)], check=True, timeout=300)
    with torch.no_grad():
        tokens = encoder.encode_clips(some_clips(square_shards)).tokens
    np.testing.assert_allclose(np.load(out), tokens, atol=1e-5)
    assert (tokens - plainly).abs().max() > 1e-3
    other = load_encoder(small_release)
    with torch.no_grad():
        other.video.bias += 1e-6
    with pytest.raises(UserError, match="adapted from another encoder"):
        load_adapted(adapted, other)
    with pytest.raises(UserError, match="adapted from another encoder"):  # not twice
        load_adapted(adapted, encoder)
    broken = shutil.copytree(adapted, tmp_path / "broken")
    save_file({"x": torch.zeros(1)}, broken / "adapted.safetensors")
    with pytest.raises(UserError, match="does not hold the weights"):
        load_adapted(broken, load_encoder(small_release))


def test_what_is_tuned_on_top_needs_the_same_adapters(
    adapted: Path, small_release: Path, square_shards: Path, tmp_path: Path
) -> None:
    """``run`` and ``extract`` read through them; an adapter of a method is another one, and takes none of them away."""
    given = {"encoder": small_release, "data": square_shards, "workers": 0, "adapted": adapted}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    labels = ["--labels", str(square_shards / "scene.csv"), "--target", "moves", "--out", str(tmp_path / "tuned")]
    quick = ["--seeds", "1", "--folds", "2", "--baselines", "false", "--training.epochs", "1", "--batch_size", "24"]
    assert main(["run", *words, *labels, *quick, "--group_by", "recording"]) == 0
    tuned = load_tuned(tmp_path / "tuned", open_encoder(small_release, "cpu", adapted=adapted))
    assert len(adapters(tuned.encoder)) == 4 * tuned.encoder.config.layers
    with pytest.raises(UserError, match=f"it was adapted: --adapted {adapted}"):
        load_tuned(tmp_path / "tuned", open_encoder(small_release, "cpu"))
    tables = []
    for more in ((), ("--adapted", str(adapted))):
        extract = ["extract", "--encoder", str(small_release), str(square_shards), "--workers", "0"]
        assert main([*extract, "--out", str(tmp_path / "features.parquet"), *more]) == 0
        tables.append(np.stack(pd.read_parquet(tmp_path / "features.parquet")["feature"]))
    assert np.abs(tables[0] - tables[1]).max() > 1e-3


def test_a_damaged_clip_is_one_line(
    small_release: Path, square_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, row = with_a_damaged_clip(square_shards, tmp_path / "shards")
    assert adapt(small_release, shards, tmp_path / "out", "--steps", "14") == 0  # 14 x 4 clips: all 48 are seen
    (line,) = [line for line in capsys.readouterr().err.splitlines() if row["key"] in line]
    assert "the next clip takes its place" in line


def test_the_decoder_of_a_pretraining_run_goes_on(small_release: Path, square_shards: Path, tmp_path: Path) -> None:
    encoder = load_encoder(small_release)
    torch.manual_seed(5)
    theirs = MaskedAutoencoder(encoder.config, RunConfig(tmp_path, DataConfig(tmp_path)).mask)
    folder = tmp_path / "run" / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in theirs.state_dict().items()}, folder / "weights.safetensors")
    run = RunConfig(tmp_path / "run", DataConfig(tmp_path), model=encoder.config)
    about = {"schema": SCHEMA, "state": {"step": 1}, "config": json.loads(json.dumps(plain(run)))}
    (folder / "config.json").write_text(json.dumps(about))
    model, fresh, _ = with_config(small_release, square_shards, tmp_path / "out", decoder=tmp_path / "run")
    assert not fresh
    for name, value in theirs.decoder.state_dict().items():
        assert torch.equal(model.decoder.state_dict()[name], value)
    assert weights_digest(model.encoder) == weights_digest(encoder)  # not the run's encoder


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--streams", "[vido]"), "did you mean video"),
        (("--splits", "[nowhere]"), "no clips of split"),
        (("--mask.target", "teacher", "--mask.teacher", "X"), "adapt rebuilds pixels or motion"),
        (("--decoder", "nowhere"), "no checkpoint there"),
        (("--steps", "0"), "steps: 0 is less than 1"),
    ],
)
def test_mistakes_are_one_line(
    small_release: Path,
    square_shards: Path,
    tmp_path: Path,
    more: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture,
) -> None:
    assert adapt(small_release, square_shards, tmp_path / "out", *more) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line


def test_what_is_finished_on_other_recordings_is_not_taken_for_this(
    small_release: Path, square_shards: Path, adapted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert adapt(small_release, square_shards.parent, adapted) == 2
    assert f"made with data {square_shards}, you ask for {square_shards.parent}" in capsys.readouterr().err


def test_the_share_is_that_of_the_backbone_without_the_gated_branch(encoder: Encoder) -> None:
    backbone = methods.count(encoder, None, None)[2]
    install(encoder, AdapterConfig(width=4), seed=0)
    count = sum(weight.numel() for weight in adapters(encoder).values())
    assert told(encoder) == f"{count:,} weights, {100 * count / backbone:.2f} % of the backbone"
