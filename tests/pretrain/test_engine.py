"""Training through DeepSpeed: however it is divided, stopped or rounded, it is the same training."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from clips_for_tests import make_clip, tiny_mask, tiny_model
from mlflow import MlflowClient
from runs_for_tests import STEPS, column, start
from safetensors.torch import load_file

import configs
from configs import UserError
from data_prep.shards import read_index
from pretrain import checkpoint
from pretrain.__main__ import COMMANDS, main
from pretrain.config import (
    KINDS,
    DataConfig,
    MaskConfig,
    OptimizerConfig,
    ReleaseConfig,
    RunConfig,
    StreamConfig,
    loss_names,
)
from pretrain.engine import rate_at, run, shares
from pretrain.objective import MaskedAutoencoder
from pretrain.release import load_encoder, release
from pretrain.tracking import Metrics, read_metrics
from pretrain.weights import initialise, of_the_trunk

MODALITIES = ("video", "audio", "face", "pose")
LOSSES = [f"loss_{kind}{name}" for kind in ("", *(f"{kind}/" for kind in KINDS)) for name in MODALITIES]

Parse = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def parse(recipe: Path) -> Parse:
    """The recipe's config with other settings."""
    return lambda out, *more: configs.parse(
        "pretrain", "run", COMMANDS["run"], ["--config", str(recipe), "--out", str(out), *more]
    )


@pytest.fixture(scope="module")
def one_process(parse: Parse, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run in this process, ZeRO 1."""
    out = tmp_path_factory.mktemp("one") / "run"
    assert run(parse(out)) == 0
    return out


def weights(out: Path) -> dict[str, torch.Tensor]:
    newest = checkpoint.newest(out)
    assert newest is not None
    return load_file(newest / "weights.safetensors")


def test_two_processes_train_what_one_does(one_process: Path, two_processes: Path) -> None:
    """A process has one clip a step here, often without the streams that the other's has: sums and counts must be global,
    and ZeRO 2 must not mix up gradients that become ready in another order."""
    assert column(one_process, "keys") == column(two_processes, "keys")
    lacking = 0
    for name in LOSSES:
        ours, theirs = column(one_process, name), column(two_processes, name)
        assert [bool(loss) for loss in ours] == [bool(loss) for loss in theirs]
        lacking += sum(not loss for loss in ours)
        np.testing.assert_allclose(
            [float(loss) for loss in ours if loss], [float(loss) for loss in theirs if loss], rtol=2e-6
        )
    assert all(any(column(one_process, f"loss_{kind}/pose")) for kind in KINDS)
    assert lacking  # the shards do what they were made for
    for name, value in weights(two_processes).items():
        torch.testing.assert_close(weights(one_process)[name], value, rtol=1e-3, atol=2e-5, msg=name)


def test_accumulated_passes_train_what_one_pass_does(
    one_process: Path, two_processes: Path, parse: Parse, tmp_path: Path
) -> None:
    shared = f"sqlite:///{two_processes}/mlflow.db"  # making the tables of a store takes seconds
    run(parse(tmp_path / "run", "--accumulate", "2", "--steps", "4", "--tracking_uri", shared))
    for name in LOSSES:
        ours, theirs = (
            column(tmp_path / "run", name)[:2],
            column(one_process, name)[:2],
        )  # the schedules part after that
        np.testing.assert_allclose([float(x or 0) for x in ours], [float(x or 0) for x in theirs], rtol=2e-6)


def test_gradients_are_the_same_however_clips_are_divided(
    recipe: Path, two_processes: Path, parse: Parse, tmp_path: Path
) -> None:
    """4 clips in one pass, in two passes, and on two processes: AdamW's weights do not tell how large a gradient was."""
    settings = ["--batch", "4", "--steps", "1", "--zero_stage", "0", "--optimizer.clip", "0"]
    settings += ["--tracking_uri", f"sqlite:///{two_processes}/mlflow.db"]
    process = start(recipe, tmp_path / "two", *settings)
    assert run(parse(tmp_path / "one", *settings)) == 0
    assert run(parse(tmp_path / "passes", *settings, "--accumulate", "2")) == 0
    assert process.wait(300) == 0, (tmp_path / "two.log").read_text()
    one, *others = (first_gradients(tmp_path / name) for name in ("one", "passes", "two"))
    assert sum(bool(gradient.any()) for gradient in one) > 0.8 * len(one)  # behind closed gates the branch has none yet
    for other in others:
        for ours, theirs in zip(one, other, strict=True):
            torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-5 * float(ours.abs().max()))


def first_gradients(out: Path) -> list[torch.Tensor]:
    """What AdamW saw in the first step: its first moment is a tenth of it."""
    newest = checkpoint.newest(out)
    assert newest is not None
    saved = torch.load(newest / "deepspeed" / "mp_rank_00_model_states.pt", weights_only=False)
    return [state["exp_avg"] * 10 for state in saved["optimizer"]["state"].values()]


def test_a_signal_saves_and_the_same_command_goes_on_exactly(
    one_process: Path, recipe: Path, parse: Parse, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = start(recipe, out, "--data.workers", "2", "--checkpoint_every", "1000", processes=1)
    while process.poll() is None and not ((out / "metrics.csv").is_file() and len(column(out, "step")) >= 2):
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR2)
    assert process.wait(200) == 75, out.with_suffix(".log").read_text()
    stopped = len(column(out, "step"))
    assert 2 <= stopped < STEPS
    assert [path.name for path in checkpoint.whole_checkpoints(out)] == [f"step-{stopped:08d}"]
    assert not (out / "finished").exists()
    assert "run the same command to go on" in out.with_suffix(".log").read_text()
    assert run(parse(out)) == 0
    assert [int(step) for step in column(out, "step")] == list(range(1, STEPS + 1))
    for name in ("keys", "lr", *LOSSES):
        assert column(out, name) == column(one_process, name), name
    for name, value in weights(one_process).items():
        assert torch.equal(weights(out)[name], value), name


def test_what_a_kill_left_of_an_old_checkpoint_is_no_hindrance(
    two_processes: Path, parse: Parse, tmp_path: Path
) -> None:
    left = tmp_path / "run" / "checkpoints" / ".old" / "deepspeed"
    left.mkdir(parents=True)
    (left / "half").touch()
    shared = f"sqlite:///{two_processes}/mlflow.db"
    assert run(parse(tmp_path / "run", "--steps", "6", "--tracking_uri", shared)) == 0
    names = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert names == {"step-00000004", "step-00000006"}


def test_a_finished_run_says_so(one_process: Path, parse: Parse, capsys: pytest.CaptureFixture) -> None:
    before = (one_process / "metrics.csv").read_bytes()
    assert run(parse(one_process)) == 0
    assert f"finished at step {STEPS}" in capsys.readouterr().out
    assert (one_process / "metrics.csv").read_bytes() == before


def test_what_a_run_leaves_behind(one_process: Path, two_processes: Path) -> None:
    log = two_processes.with_suffix(".log").read_text()
    assert log.count("a token reads up to 4 s before and 4 s after its chunk (2 layers)") == 1
    for name in ("loss.png", "reconstructions.png", "config.yaml", "versions.json", "data.json"):
        assert (one_process / name).stat().st_size > 0, name
    assert [path.name for path in checkpoint.whole_checkpoints(one_process)] == [
        f"step-{STEPS - 2:08d}",
        f"step-{STEPS:08d}",
    ]
    client = MlflowClient(tracking_uri=f"sqlite:///{one_process}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("kinesic pretrain").experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["model.dim"] == "48"
    gates = [client.get_metric_history(found.info.run_id, f"gate_{name}") for name in ("face_other", "video_scene")]
    assert all(metrics[-1].value > 0 for metrics in gates)
    history = client.get_metric_history(found.info.run_id, "loss_video")
    logged = {str(metric.step): metric.value for metric in history}
    assert set(logged) <= {"4", "8", "12"}
    for step, loss in zip(column(one_process, "step"), column(one_process, "loss_video"), strict=True):
        assert step not in logged or logged[step] == pytest.approx(float(loss))


@pytest.mark.parametrize("kinds", [KINDS, ("random",)])
def test_weights_multiply_the_errors_of_kinds_and_modalities(kinds: tuple[str, ...]) -> None:
    """The loss is a mean over targets, each times its weights: by hand, and for its gradient at what was predicted."""
    asked = {"partner": 3.0, "face": 0.5, "partner/face": 2.0, "future/video": 5.0} if len(kinds) > 1 else {"face": 0.5}
    mask = MaskConfig(video=0.5, kinds=dict.fromkeys(kinds, 1.0))
    config = RunConfig(Path("run"), DataConfig(Path("shards")), tiny_model(), mask, weights=asked)
    torch.manual_seed(0)
    model = MaskedAutoencoder(config.model, config.mask)
    clips = [make_clip(str(seed), seed=seed, people=3) for seed in range(12)]
    batch = model.collate(clips, list(range(12)))
    assert {KINDS[n] for n in torch.cat(list(batch.kinds.values())).unique()} == set(kinds)
    found, by_hand = model(batch), torch.zeros(())
    counts = {name: batch.counts.get(name, 0) for name in loss_names(config.model, config.mask)}
    loss = torch.stack([found[name] * share for name, share in shares(config, counts).items()]).sum()
    predicted = model.rebuild(batch)
    for name in MODALITIES:
        target, valid, _ = model.targets(name, batch)
        valid = torch.ones_like(target) if valid is None else valid.float()
        errors = ((predicted[name] - target).square() * valid).sum(1) / valid.sum(1)
        of_kind = [asked.get(kind, 1.0) * asked.get(f"{kind}/{name}", 1.0) for kind in KINDS]
        by_hand = by_hand + asked.get(name, 1.0) * (torch.tensor(of_kind)[batch.kinds[name]] * errors).mean()
    torch.testing.assert_close(loss, by_hand)
    gate = model.decoder.heads["face"].weight
    torch.testing.assert_close(torch.autograd.grad(loss, gate), torch.autograd.grad(by_hand, gate))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"fase": 2.0}, "no modality or kind of masking 'fase' in this run; did you mean face?"),
        ({"patner": 2.0}, "no modality or kind of masking 'patner' in this run; did you mean partner?"),
        (
            {"partner/gaze": 2.0},
            "no modality or kind of masking 'partner/gaze' in this run; did you mean partner/face?",
        ),
        ({"future": 2.0}, "no modality or kind of masking 'future' in this run; mask.kinds has random, partner"),
        ({"partner": -1.0}, "the weight of partner, -1.0, is not 0 or more"),
    ],
)
def test_weights_of_nothing_are_refused(weights: dict[str, float], message: str) -> None:
    mask = MaskConfig(kinds={"random": 1.0, "partner": 1.0})
    with pytest.raises(ValueError, match=f"weights: {message}"):
        RunConfig(Path("run"), DataConfig(Path("shards")), tiny_model(), mask, weights=weights)


def test_gates_open_and_have_their_own_rate(one_process: Path) -> None:
    gates = [float(value) for value in column(one_process, "gates") if value]
    assert len(gates) == 3
    assert 0 < gates[0] < gates[-1] < STEPS * 0.01 * 2  # gate_lr 0.01: Adam moves a value by about its rate a step


def test_bfloat16_follows_float32(one_process: Path, two_processes: Path, parse: Parse, tmp_path: Path) -> None:
    run(parse(tmp_path / "run", "--precision", "bf16", "--tracking_uri", f"sqlite:///{two_processes}/mlflow.db"))
    ours = [float(loss) for loss in column(tmp_path / "run", "loss_video") if loss]
    theirs = [float(loss) for loss in column(one_process, "loss_video") if loss]
    np.testing.assert_allclose(ours, theirs, rtol=0.02)
    assert ours != theirs
    assert {value.dtype for value in weights(tmp_path / "run").values()} == {torch.float32}


def unfinished(one_process: Path, folder: Path) -> Path:
    """A copy of the run that has its checkpoints, but is to go on."""
    shutil.copytree(one_process, folder / "run")
    (folder / "run" / "finished").unlink()
    return folder / "run"


def test_another_model_cannot_go_on(one_process: Path, parse: Parse, tmp_path: Path) -> None:
    out = unfinished(one_process, tmp_path)
    with pytest.raises(UserError, match=r"this run has model\.layers 2, you ask for 3"):
        run(parse(out, "--model.layers", "3"))


def test_a_run_that_learnt_faces_told_otherwise_cannot_go_on(one_process: Path, parse: Parse, tmp_path: Path) -> None:
    out = unfinished(one_process, tmp_path)
    newest = checkpoint.newest(out)
    assert newest is not None
    about = json.loads((newest / "config.json").read_text())
    (newest / "config.json").write_text(json.dumps(about | {"schema": 1}))
    with pytest.raises(UserError, match="learnt faces as schema 1 told them"):
        run(parse(out))


class Evil:
    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.file,))


def test_a_checkpoint_cannot_run_code(one_process: Path, parse: Parse, tmp_path: Path) -> None:
    out = unfinished(one_process, tmp_path)
    newest = checkpoint.newest(out)
    assert newest is not None
    file = newest / "deepspeed" / "mp_rank_00_model_states.pt"
    torch.save({**torch.load(file, weights_only=False), "evil": Evil(tmp_path / "it_ran")}, file)
    with pytest.raises(UserError, match="holds what no checkpoint holds"):
        run(parse(out))
    assert not (tmp_path / "it_ran").exists()


def test_the_schedule_warms_up_and_falls_to_zero() -> None:
    optimizer = OptimizerConfig(warmup_steps=10)
    rates = [rate_at(step, optimizer, 110) for step in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1
    assert rates[60] == pytest.approx(0.5)
    assert rates[110] == pytest.approx(0, abs=1e-12)
    assert sorted(rates[10:], reverse=True) == rates[10:]


def test_metrics_after_the_checkpoint_and_half_lines_are_dropped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text("step,lr,keys\n1,0.1,a\n2,0.2,b\n3,0.3,c\n4,0.")
    assert len(read_metrics(file)) == 3
    metrics = Metrics(file, ["step", "lr", "keys"], 2)
    metrics.write({"step": 3, "lr": 1 / 3, "keys": "d"})
    metrics.close()
    assert [row["keys"] for row in read_metrics(file)] == ["a", "b", "d"]
    assert math.isclose(float(read_metrics(file)[2]["lr"]), 1 / 3, rel_tol=0)


def test_a_frozen_trunk_stays_as_it_was_and_the_rest_learns(
    one_process: Path, two_processes: Path, parse: Parse, tmp_path: Path
) -> None:
    release(ReleaseConfig(one_process, tmp_path / "release"))
    before = load_file(tmp_path / "release" / "model.safetensors")
    settings = ["--init", str(tmp_path / "release"), "--tracking_uri", f"sqlite:///{two_processes}/mlflow.db"]
    assert run(parse(tmp_path / "run", *settings, "--optimizer.trunk", "frozen", "--steps", "4")) == 0
    after = weights(tmp_path / "run")
    for name, value in before.items():
        if not name.endswith((".mean", ".std")):  # of the streams: measured, not learnt
            assert torch.equal(after[f"encoder.{name}"], value) == of_the_trunk(name), name


def test_a_release_names_the_shards_that_its_run_has_read(one_process: Path, patchy: Path, tmp_path: Path) -> None:
    """By digests that whoever has the shards computes from their index; and it is whole."""
    assert main(["release", str(one_process), str(tmp_path / "release")]) == 0
    assert main(["release", "--check", str(tmp_path / "release")]) == 0
    card = (tmp_path / "release" / "MODEL_CARD.md").read_text()
    rows = read_index(patchy)
    assert rows["shard"].nunique() == 2
    for shard, sums in rows.groupby("shard")["sha256"]:
        digest = hashlib.sha256("".join(f"{line}\n" for line in sums).encode()).hexdigest()
        assert f"{digest}  {shard}\n" in card


def test_a_stream_added_to_a_trained_release_changes_nothing_at_its_step_0(two_processes: Path, tmp_path: Path) -> None:
    """Of clips that hold it, too; and its gates have a gradient, so that it will."""
    release(ReleaseConfig(two_processes, tmp_path / "release"))
    released = load_encoder(tmp_path / "release")
    gates = released.trunk.gates()
    assert min(gates["face_same"], gates["pose_other"], gates["video_scene"]) > 1e-3  # the run has opened them
    clips = [make_clip("a", seed=1, views=2), make_clip("b", seed=2)]
    for clip in clips:
        times = np.repeat(np.arange(0, 4, 0.1), 2)
        values = np.random.default_rng(0).normal(3, 5, (len(times), 2))
        clip.streams["gaze"] = {"times": times, "values": values, "person": np.tile([0, 1], len(times) // 2)}
    streams = {**released.config.streams, "gaze": StreamConfig(features=2, cell_seconds=0.1, cells_per_token=5)}
    model = MaskedAutoencoder(tiny_model(streams=streams), tiny_mask())
    initialise(model, released, tmp_path / "release")
    model.fit_statistics(clips)
    assert model.encoder.streams["gaze"].std.min() > 1
    model, released = model.double().eval(), released.double()
    with torch.no_grad():
        ours, theirs = model.encoder.encode_clips(clips), released.encode_clips(clips)
    known = ours.modality < len(released.modalities)
    assert (ours.modality == len(released.modalities)).sum() == 2 * 2 * 8
    torch.testing.assert_close(ours.tokens[known], theirs.tokens, rtol=1e-9, atol=1e-9)
    losses = model(model.collate(clips, [0, 1]))
    torch.stack(list(losses.values())).sum().backward()
    for reading in model.encoder.trunk.readings():
        for source in ("gaze_same", "gaze_other", "gaze_scene"):
            gate = reading.gates[source]
            assert not gate.detach().any()
            assert gate.grad is not None
            assert gate.grad.abs().min() > 0


def test_the_trunks_rate(parse: Parse, tmp_path: Path) -> None:
    model = MaskedAutoencoder(parse(tmp_path).model, parse(tmp_path).mask)
    for trunk, rate in (("full", 1e-3), ("low_lr", 1e-4)):
        groups = model.parameter_groups(OptimizerConfig(lr=1e-3, gate_lr=1e-2, trunk=trunk))
        rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
        assert len(rates) == len(list(model.parameters()))
        assert rates[id(model.encoder.trunk.blocks[0].attn.qkv.weight)] == rate
        assert rates[id(model.encoder.trunk.blocks[0].reading.query.weight)] == 1e-3
        assert rates[id(model.encoder.trunk.blocks[0].reading.gates["video_scene"])] == 1e-2
    with pytest.raises(UserError, match="frozen without init"):
        parse(tmp_path, "--optimizer.trunk", "frozen")
