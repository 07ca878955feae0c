"""A sensor that the release does not know: its rows become tokens of the right clip and person, and the trunk stays as it is."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from configs import UserError
from data_prep.shards import read_index, read_sample
from finetune import methods, training
from finetune.__main__ import main
from finetune.added_streams import add, fit_statistics, read_added, restart, stream_state, stream_weights
from finetune.config import AdapterConfig, MergeConfig, TrainingConfig
from finetune.features import Rows, map_clips, weights_digest
from finetune.labels import read_labels
from finetune.merge import merge
from finetune.problem import load_problem
from finetune.tuned import load_tuned, save_tuned
from pretrain.clips import Clip, read_clip
from pretrain.encoder import Encoder
from tests.finetune.conftest import small_encoder
from tests.finetune.test_methods import settings

ROOT = Path(__file__).parent.parent.parent
DECLARED = "gaze: {features: 2, cell_seconds: 0.1, cells_per_token: 5, data: %s}\n"


def write_gaze(folder: Path, shards: Path, missing: tuple[str, ...] = ()) -> Path:
    """gaze.yaml, gaze.csv and two label tables that nothing but gaze tells: scene.csv (``mood``: do both numbers go together?
    each alone is the same noise) and person.csv (``looks``: one of two participants looks up)."""
    rng = np.random.default_rng(1)
    folder.mkdir(exist_ok=True)
    rows, scene, person = [], ["recording,start,end,mood"], ["recording,participant,start,end,looks"]
    for clip in read_index(shards).itertuples():
        together, who = bool(rng.integers(2)), int(rng.integers(2))
        scene.append(f"{clip.recording},{clip.start},{clip.end},{'calm' if together else 'tense'}")
        for number, name in enumerate(clip.people):
            times = np.arange(clip.start, clip.end, 0.05)
            first = rng.normal(0, 1, len(times))
            second = (1 if together else -1) * first + rng.normal(0, 0.2, len(times))
            looks = number == who
            part = pd.DataFrame({"recording": clip.recording, "time": times, "participant": name})
            rows.append(part.assign(x=first + 3 * looks, y=second))
            person.append(f"{clip.recording},{name},{clip.start},{clip.end},{looks}")
    table = pd.concat(rows).sample(frac=1, random_state=0)  # in no order
    table[~table["recording"].isin(missing)].to_csv(folder / "gaze.csv", index=False)
    (folder / "gaze.yaml").write_text(DECLARED % "gaze.csv")
    (folder / "scene.csv").write_text("\n".join(scene) + "\n")
    (folder / "person.csv").write_text("\n".join(person) + "\n")
    return folder / "gaze.yaml"


@pytest.fixture(scope="module")
def gaze(square_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gaze(tmp_path_factory.mktemp("gaze"), square_shards)


def clips_of(shards: Path, rows: range) -> list[Clip]:
    index = read_index(shards)
    return [read_clip(read_sample(shards, index.iloc[row]), ("video", "pose")) for row in rows]


def with_gaze(encoder: Encoder, gaze: Path, shards: Path) -> list[Clip]:
    streams = read_added(gaze)
    add(encoder, streams.streams)
    fit_statistics(encoder, streams, {"r0", "r1"})
    encoder.requires_grad_(False)
    return [streams.put(clip) for clip in clips_of(shards, range(3))]


def test_rows_become_those_of_their_clip_and_person(square_shards: Path, gaze: Path) -> None:
    table = pd.read_csv(gaze.with_name("gaze.csv"))
    streams = read_added(gaze)
    clip = clips_of(square_shards, range(5, 6))[0]  # the second clip of r1
    rows = streams.put(clip).streams["gaze"]
    ids = {person["participant"]: person["id"] for person in clip.people}
    mine = table[(table["recording"] == "r1") & (table["time"] >= clip.start) & (table["time"] < clip.end)]
    assert len(rows["times"]) == len(mine) == 80
    for name, number in ids.items():
        theirs = mine[mine["participant"] == name].sort_values("time")
        np.testing.assert_allclose(rows["times"][rows["person"] == number], theirs["time"] - clip.start, atol=1e-9)
        np.testing.assert_allclose(rows["values"][rows["person"] == number], theirs[["x", "y"]], rtol=1e-6)
    clip.people = [{"id": 4, "participant": "p2"}]  # p3 is nobody whom the shards name
    assert set(streams.put(clip).streams["gaze"]["person"]) == {4, 5}


def test_files_of_a_folder_are_recordings_and_a_bad_one_is_a_line(
    square_shards: Path, gaze: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """npz, Parquet and CSV say the same as the one table; a gap is nan, a row without time is left out."""
    table = pd.read_csv(gaze.with_name("gaze.csv"))
    (tmp_path / "folder").mkdir()
    parts = {name: part.drop(columns="recording") for name, part in table.groupby("recording")}
    parts["r0"].iloc[0, parts["r0"].columns.get_loc("x")] = np.inf
    late = parts["r1"].iloc[[0]].assign(time=np.nan)
    pd.concat([parts["r1"], late]).to_parquet(tmp_path / "folder" / "r1.parquet")
    parts["r2"].to_csv(tmp_path / "folder" / "r2.csv", index=False)
    who, zero = np.array(parts["r0"]["participant"].tolist()), parts["r0"]
    values = zero[["x", "y"]].to_numpy()
    np.savez(tmp_path / "folder" / "r0.npz", times=zero["time"].to_numpy(), values=values, participant=who)
    np.savez(tmp_path / "folder" / "r3.npz", times=np.arange(3), values=np.array([{}, 1, 2], object))
    parts["r4"].assign(z=1).to_csv(tmp_path / "folder" / "r4.csv", index=False)
    (tmp_path / "folder" / "r5.csv").write_text("time,x,y\n1,2,far\n")
    (tmp_path / "gaze.yaml").write_text(DECLARED % "folder")
    whole, found = read_added(gaze).rows["gaze"], read_added(tmp_path / "gaze.yaml").rows["gaze"]
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line.split("(")[-1].rsplit("/", 1)[-1] for line in lines] == ["r3.npz)", "r4.csv)", "r5.csv)"]
    assert "3 numbers a row (x, y, z), not the 2 that features says" in lines[1]
    assert set(found) == {"r0", "r1", "r2"}
    assert np.isnan(found["r0"]["values"]).sum() == 1
    for name in ("r1", "r2"):
        for key, values in whole[name].items():
            np.testing.assert_array_equal(found[name][key], values)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "gaze: {features: 2, cell_seconds: 0.1, data: gaze.csv}",
            "gaze needs features, cell_seconds, cells_per_token, data",
        ),
        ("gaze: {features: two, cell_seconds: 0.1, cells_per_token: 5, data: gaze.csv}", "whole numbers"),
        ("pose: {features: 2, cell_seconds: 0.1, cells_per_token: 5, data: gaze.csv}", "data_prep finds by itself"),
        (DECLARED % "nowhere", "no such file or folder"),
        ((DECLARED % "gaze.csv").replace("2", "3"), "2 numbers a row (x, y), not the 3"),
        ((DECLARED % "gaze.csv").replace("0.1", "0.3"), "no multiple of a token of gaze"),
        ("- gaze", "expected NAME"),
        ("gaze: {", "not a readable YAML"),
    ],
)
def test_mistakes_are_one_line(
    gaze: Path,
    square_shards: Path,
    small_release: Path,
    tmp_path: Path,
    text: str,
    says: str,
    capsys: pytest.CaptureFixture,
) -> None:
    file = gaze.with_name("wrong.yaml")
    file.write_text(text)
    assert cli(small_release, square_shards, gaze, "scene.csv", "mood", tmp_path, "--add_stream", str(file)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line


def test_at_step_0_the_encoder_says_what_it_said_and_the_new_gates_have_a_gradient(
    encoder: Encoder, square_shards: Path, gaze: Path
) -> None:
    before = encoder.encode_clips(clips_of(square_shards, range(3)))
    digest, known = weights_digest(encoder), len(encoder.modalities)
    clips = with_gaze(encoder, gaze, square_shards)
    probed = encoder.encode_clips(clips)  # what the linear probe reads
    torch.testing.assert_close(probed.tokens[probed.modality < known], before.tokens, atol=1e-6, rtol=1e-6)
    methods.install(encoder, AdapterConfig(), None, seed=0)
    after = encoder.encode_clips(clips)
    assert weights_digest(encoder) == digest
    assert (after.modality == known).sum() == 3 * 2 * 4  # clips, people, tokens of half a second
    torch.testing.assert_close(after.tokens[after.modality < known], before.tokens, atol=1e-6, rtol=1e-6)
    after.tokens[after.modality == 0].square().sum().backward()  # of video, which reads the new stream
    weights = stream_weights(encoder)
    assert len(weights) == 3 + 3 * encoder.config.layers
    for name, weight in weights.items():
        if name.endswith("gaze_scene"):
            assert weight.grad is not None
            assert weight.grad.abs().min() > 0
    learning = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert len(learning) == len(weights) + 4 * encoder.config.layers
    assert learning == set(methods.small_weights(encoder))


@pytest.fixture(scope="module")
def tuned(square_shards: Path, gaze: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an encoder with adapters and gaze, trained; said.npy: what it says of the first clips."""
    encoder, out = small_encoder(), tmp_path_factory.mktemp("tuned")
    config = settings(
        square_shards, out, "adapter", labels=gaze.with_name("scene.csv"), target="mood", group_by="recording",
        training=TrainingConfig(epochs=2, lr=1e-2), batch_size=12,
    )  # fmt: skip
    streams = read_added(gaze)
    add(encoder, streams.streams)
    encoder.requires_grad_(False)
    labels, index = read_labels(config.labels, config.target), read_index(square_shards)
    problem, splits = load_problem(encoder, labels, square_shards, index, config, encoder.modalities, streams)
    before = {name: value.detach().clone() for name, value in encoder.state_dict().items()}
    part = replace(splits[0][0], validation=splits[0][0].train)  # "validated" on what it learns: the best is kept
    head = training.train(encoder, problem, part, config, seed=0)
    np.save(out / "said.npy", training.predict(encoder, head, problem, np.arange(4), config))
    moved = {name for name, value in before.items() if not torch.equal(value, encoder.state_dict()[name])}
    assert moved == set(stream_weights(encoder))  # nothing that was released, nothing that was measured
    save_tuned(out, encoder, head, problem.task, problem.streams, config, people=False)  # and takes the method out
    again = encoder.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in before.items())  # the next fold starts anew
    return out


def test_the_tokenizer_and_the_gates_alone_move_and_are_saved(tuned: Path) -> None:
    """The fixture has looked at what moved."""
    names = {}
    for name in ("streams", "adapter"):
        saved = load_file(tuned / f"{name}.safetensors")
        names[name] = {name.partition(".reading.")[2] or name for name in saved if ".adapter." not in name}
    assert names["streams"] == {"streams.gaze.mean", "streams.gaze.std"}
    gates = {f"gates.gaze_{relation}" for relation in ("same", "other", "scene")}
    assert names["adapter"] == gates | {
        f"streams.gaze.{part}" for part in ("project.weight", "project.bias", "modality")
    }


def cli(release: Path, shards: Path, gaze: Path, labels: str, target: str, out: Path, *more: str) -> int:
    given = {"encoder": release, "data": shards, "labels": gaze.with_name(labels), "target": target, "out": out}
    quick = {"workers": 0, "training.epochs": 1, "folds": 2, "seeds": 1, "baselines": "false", "batch_size": 24}
    words = [word for name, value in (given | quick).items() for word in (f"--{name}", str(value))]
    return main(["run", *words, "--group_by", "recording", *more])


def accuracy(out: Path, row: str) -> float:
    return json.loads((out / "metrics.json").read_text())["rows"][row]["folds"]["accuracy"]["mean"]


@pytest.mark.parametrize(("labels", "target"), [("scene.csv", "mood"), ("person.csv", "looks")])
def test_a_label_that_lives_in_the_new_stream_alone_is_learnt_with_it(
    small_release: Path, square_shards: Path, gaze: Path, tmp_path: Path, labels: str, target: str
) -> None:
    """Held out, of scenes and of participants, by the probe and by the adapter."""
    before = (small_release / "model.safetensors").read_bytes()
    given = (small_release, square_shards, gaze, labels, target)
    assert cli(*given, tmp_path / "without", "--method", "linear") == 0
    assert cli(*given, tmp_path / "with", "--method", "adapter", "--add_stream", str(gaze)) == 0
    assert accuracy(tmp_path / "without", "linear") < 0.7
    assert accuracy(tmp_path / "with", "linear") > 0.9
    assert accuracy(tmp_path / "with", "adapter") > 0.9
    assert (small_release / "model.safetensors").read_bytes() == before
    costs = json.loads((tmp_path / "with" / "metrics.json").read_text())["costs"]["adapter"]
    assert (
        costs["elsewhere"] == 48 * 15 + 48 + 48 + 3 * 2 * 3
    )  # tokenizer; gates of three relations, two blocks, three heads


def test_what_is_saved_predicts_in_a_fresh_process_and_on_no_other_release(
    small_release: Path,
    square_shards: Path,
    gaze: Path,
    tuned: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "predictions.csv"
    words = ["predict", tuned, square_shards, "--out", out, "--encoder", small_release, "--pictures", 0, "--workers", 0]
    predict = [str(word) for word in (*words, "--add_stream", gaze)]
    subprocess.run([sys.executable, "-m", "finetune", *predict], check=True, timeout=300, cwd=ROOT)
    said = pd.read_csv(out)[["p(calm)", "p(tense)"]].to_numpy()
    np.testing.assert_allclose(said[:4], np.load(tuned / "said.npy"), atol=1e-5)
    assert main([str(word) for word in words]) == 2
    assert "was trained with gaze: --add_stream must declare the same" in capsys.readouterr().err
    other = small_encoder()
    with torch.no_grad():
        next(other.trunk.parameters()).view(-1)[0] += 1e-6
    with pytest.raises(UserError, match="trained on another encoder"):
        load_tuned(tuned, other)
    with pytest.raises(UserError, match="for which a release has no place"):
        merge(MergeConfig(tuned, small_release, tmp_path / "merged"))


def test_recordings_without_the_stream_are_ordinary(
    small_release: Path, split_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """r1 is trained on and r4 is tested, both without gaze."""
    gaze = write_gaze(tmp_path / "gaze", split_shards, missing=("r1", "r4"))
    more = ("--method", "linear", "--add_stream", str(gaze))
    assert cli(small_release, split_shards, gaze, "scene.csv", "mood", tmp_path / "out", *more) == 0
    assert "gaze: 2 (r1, r4) of 11 recordings have none" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 8 + 4
    table = pd.read_csv(gaze.with_name("gaze.csv")).set_index("recording")
    learnt = table.loc[
        ["r0", "r2", "r6", "r7", "r8", "r3", "r10"], ["x", "y"]
    ].to_numpy()  # train and val, nothing tested
    with safe_open(tmp_path / "out" / "streams.safetensors", "pt") as file:
        np.testing.assert_allclose(file.get_tensor("streams.gaze.mean"), learnt.mean(0), rtol=1e-4)


def test_the_statistics_of_the_numbers_are_those_of_recordings_to_train_on(
    encoder: Encoder, square_shards: Path, gaze: Path
) -> None:
    with_gaze(encoder, gaze, square_shards)
    table = pd.read_csv(gaze.with_name("gaze.csv"))
    mine = table[table["recording"].isin(["r0", "r1"])][["x", "y"]].to_numpy()
    state = stream_state(encoder)
    np.testing.assert_allclose(state["streams.gaze.mean"], mine.mean(0), rtol=1e-4)
    np.testing.assert_allclose(state["streams.gaze.std"], mine.std(0), rtol=1e-4)
    restart(encoder)
    assert torch.equal(stream_state(encoder)["streams.gaze.mean"], state["streams.gaze.mean"])
    with pytest.raises(UserError, match="no recording to train on"):
        fit_statistics(encoder, read_added(gaze), {"r99"})


def test_a_stream_of_other_recordings_is_refused(square_shards: Path, gaze: Path) -> None:
    streams = read_added(gaze)
    streams.rows["gaze"] = {f"session {name}": rows for name, rows in streams.rows["gaze"].items()}
    with pytest.raises(UserError, match=r"no recording of the data: it says 'session r0', the data say"):
        streams.notes(read_index(square_shards))


def test_clips_are_read_with_the_new_rows_by_loader_processes(square_shards: Path, gaze: Path) -> None:
    def count(clips: list[Clip], rows: Rows) -> dict[str, np.ndarray]:
        return {"rows": np.array([len(clips[clip].streams["gaze"]["times"]) for clip in rows.clip])}

    table = map_clips(
        square_shards, read_index(square_shards).iloc[:6], [count], ["pose"], workers=2, added=read_added(gaze)
    )
    assert table["rows"].tolist() == [80] * 6
