"""UDIVA the whole way by its recipes on a tree of its layout: manifest, shards, pretraining, five traits, the official figure."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import data_prep.__main__
import finetune.__main__
import pretrain.__main__
from data_prep.shards import read_index, read_sample
from finetune.added_streams import read_added
from finetune.data import open_encoder
from finetune.features import Rows
from finetune.labels import people_of
from finetune.tuned import load_tuned
from pretrain.clips import Clip, read_clip
from tests.data_sets.udiva_tree import SESSIONS, TRAITS, traits_of

SMALL = {
    "dim": 48, "layers": 2, "heads": 3, "mlp_dim": 96, "image_height": 32, "image_width": 32, "frame_rate": 8.0,
    "decoder_dim": 24, "decoder_layers": 1, "decoder_heads": 3,
}  # fmt: skip


def words(**settings: object) -> list[str]:
    return [str(word) for name, value in settings.items() for word in (f"--{name}", value)]


@pytest.fixture(scope="module")
def shards(udiva_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe's shards at the size of the scenes, whose landmarks are known; labels and streams beside them."""
    folder = tmp_path_factory.mktemp("udiva_shards")
    files = {"labels": folder / "labels.parquet", "streams": folder / "streams", "synchronised": "true"}
    line = ["manifest", "udiva", str(udiva_root), str(folder / "udiva.csv"), *words(**files)]
    assert data_prep.__main__.main(line) == 0
    given = {"clip_seconds": 4, "fps": 8, "short_side": 64, "landmarks": "given", "workers": 1, "speech": "false"}
    line = ["build", str(folder / "udiva.csv"), str(folder / "shards"), "--config", "udiva", *words(**given)]
    assert data_prep.__main__.main(line) == 0
    return folder


@pytest.fixture(scope="module")
def release(shards: Path) -> Path:
    """Pretrained for a few steps, with rates at which gates open in them."""
    more = {f"model.{name}": value for name, value in SMALL.items()} | {"data.shards": shards / "shards"}
    more |= {"steps": 4, "batch": 2, "accumulate": 1, "precision": "fp32", "data.workers": 0, "checkpoint_every": 4}
    more |= {"picture_every": 4, "optimizer.warmup_steps": 1, "optimizer.gate_lr": 0.1, "data.statistics_clips": 4}
    run, folder = shards / "run", shards / "release"
    assert pretrain.__main__.main(["run", "--config", "udiva", "--out", str(run), *words(**more)]) == 0
    assert pretrain.__main__.main(["release", str(run), str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def runs(shards: Path, release: Path) -> Path:
    """A run a trait, as docs/data_sets.md loops over them."""
    for trait in TRAITS:
        if trait != TRAITS[0]:  # the same clips: the same features
            shutil.copytree(shards / "runs" / TRAITS[0] / "cache", shards / "runs" / trait / "cache")
        given = {"encoder": release, "data": shards / "shards", "labels": shards / "labels.parquet", "target": trait}
        given |= {"out": shards / "runs" / trait, "workers": 0, "seeds": 1, "streams": "[face,pose]"}
        assert finetune.__main__.main(["run", "--config", "udiva", *words(**given)]) == 0
    return shards / "runs"


def clip_of(shards: Path, recording: str) -> Clip:
    """The first clip of a recording."""
    index = read_index(shards / "shards")
    row = index[index["recording"] == recording].iloc[0]
    return read_clip(read_sample(shards / "shards", row), ("video", "audio", "face", "pose"))


def test_a_clip_holds_both_views_and_people_and_roles_stay(shards: Path) -> None:
    clip = clip_of(shards, "002003_talk")
    assert set(clip.views) == {"fc1", "fc2"}
    assert {name: view["participants"] for name, view in clip.meta["views"].items()} == {"fc1": ["003"], "fc2": ["002"]}
    person = people_of(clip.meta)
    for view, participant in (("fc1", "003"), ("fc2", "002")):
        assert clip.views[view].frames is not None
        assert clip.views[view].audio is not None
        for stream in (clip.views[view].face, clip.views[view].pose):
            assert stream is not None
            assert set(stream["person"].tolist()) == {person[participant]}
    assert clip.start == 1.0  # where task_limits.json lets the task begin
    alone = clip_of(shards, "055128_talk")
    assert set(alone.views) == {"fc1"}
    assert set(people_of(alone.meta)) == {"055"}


def test_the_corpus_own_landmarks_reach_the_right_person(shards: Path) -> None:
    added = read_added(shards / "streams" / "streams.yaml")
    assert any("recordings have none" in note for note in added.notes(read_index(shards / "shards")))  # of speaking
    clip = added.put(clip_of(shards, "002003_talk"))
    rows = clip.streams["body24"]
    assert set(rows["person"].tolist()) == set(people_of(clip.meta).values())
    first = rows["values"][rows["times"] == 0]
    assert (first == 8.0).all()  # frame 8 of 8 a second is where the clip starts
    speaking = clip.streams["speaking"]
    of = speaking["person"] == people_of(clip.meta)["003"]
    assert speaking["values"][of][:15, 0].tolist() == [1.0] * 15  # PART.1 speaks for the first 1.5 s


def test_the_partners_streams_reach_what_is_said_of_a_person(shards: Path, release: Path, runs: Path) -> None:
    """Another partner changes the prediction, by the gated branch alone: where its gates are closed nothing changes."""
    encoder = open_encoder(release, "cpu")
    tuned = load_tuned(runs / "EXTRAVERSION_Z", encoder)
    assert tuned.people
    clip, other = clip_of(shards, "020021_talk"), clip_of(shards, "191192_talk")
    target, partner = people_of(clip.meta)["021"], people_of(clip.meta)["020"]
    swapped = copy.deepcopy(clip)
    for stream in ("face", "pose"):
        theirs = dict(getattr(other.views["fc2"], stream))
        theirs["person"] = np.full_like(theirs["person"], partner)
        setattr(swapped.views["fc2"], stream, theirs)
    rows = Rows.of([(0, target, -np.inf, np.inf)])
    before, after = (float(tuned.predict([one], rows)[0, 0]) for one in (clip, swapped))
    assert abs(after - before) > 1e-6
    with torch.no_grad():
        for reading in tuned.encoder.trunk.readings():
            for gate in reading.gates.values():
                gate.zero_()
    before, after = (float(tuned.predict([one], rows)[0, 0]) for one in (clip, swapped))
    assert after == pytest.approx(before, abs=1e-7)


def test_from_the_folders_to_the_official_figure(runs: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(runs / trait) for trait in TRAITS]
    assert finetune.__main__.main(["score", "udiva", *folders, "--out", str(shards / "score")]) == 0
    table = pd.read_csv(shards / "score" / "scores.csv").set_index(["row", "metric"])["value"]
    assert set(table.index.get_level_values(0)) == {"linear probe", "mean predictor", "metadata"}
    train = {p: traits_of(p) for parts in SESSIONS["train"].values() for p in parts if p != "128"}  # FC2 is missing
    test = np.array([traits_of(p) for parts in SESSIONS["test"].values() for p in parts])
    said = json.loads((runs / TRAITS[0] / "metrics.json").read_text())["rows"]["mean predictor"]["test"]
    assert said["participants"]["examples"] == len(test)
    # everybody has the same number of clips but 002 and 003, who played lego as well, and 005 and 013, whose video is not cut
    predictions = pd.read_csv(runs / "EXTRAVERSION_Z" / "baselines" / "mean predictor.csv", dtype={"participant": str})
    clips = read_index(shards / "shards").explode("people")
    count = clips[clips["split"] == "train"].groupby("people").size()
    expected = np.average([train[p][2] for p in count.index], weights=count)
    assert predictions["prediction"].to_numpy() == pytest.approx(expected, abs=0.02)
    by_hand = ((test[:, 2] - predictions["prediction"].iloc[0]) ** 2).mean()
    assert table["mean predictor", "E"] == pytest.approx(by_hand)
    assert "TimeSformer, video only" in (shards / "score" / "score.html").read_text()
    assert "1.309 ± 0.040" in capsys.readouterr().out
