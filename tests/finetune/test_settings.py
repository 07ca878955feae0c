"""Trained in one room, reported in another, and nobody in both."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from configs import UserError
from data_prep.shards import ShardWriter, read_index, read_sample, write_index
from finetune.__main__ import main
from finetune.config import RunConfig
from finetune.settings import named_split, settings_of


def config(**changes) -> RunConfig:
    given = {
        "encoder": Path("R"),
        "data": Path("D"),
        "labels": Path("L"),
        "target": "t",
        "out": Path("O"),
        "test_setting": "b",
    }
    return RunConfig(**(given | changes))


def examples(settings: str, people: str = "pqrstu", splits: str | None = None) -> pd.DataFrame:
    """One letter an example, each of a recording of its own."""
    names = [f"r{number}" for number in range(len(settings))]
    words = {"r": "train", "v": "val", "t": "test", " ": ""}
    frame = pd.DataFrame({"recording": names, "participant": list(people[: len(names)]), "people": "", "files": names})
    frame["split"] = [words[s] for s in splits] if splits else ""
    return frame.assign(setting=[s.strip() for s in settings])


def parts(split) -> tuple[list[int], list[int], dict[str, list[int]]]:
    return split.train.tolist(), split.validation.tolist(), {name: rows.tolist() for name, rows in split.tests.items()}


def test_what_is_learnt_from_and_what_is_reported() -> None:
    assert parts(named_split(examples("aabc "), config())) == ([0, 1, 3], [], {"b": [2]})
    assert parts(named_split(examples("aabc "), config(train_setting="c"))) == ([3], [], {"b": [2]})
    both = examples("aaabbb", splits="rvtrvt")  # splits of the manifest within each setting
    assert parts(named_split(both, config())) == ([0], [1], {"b": [5]})
    assert named_split(both, config(test_setting=None)).tests.keys() == {"test"}  # pyrefly: ignore


def test_who_stands_in_both_settings_is_named() -> None:
    with pytest.raises(UserError, match="1 participants stand in training and in b: q"):
        named_split(examples("aabb", "pqqr"), config())
    split = named_split(examples("aabb", "pqqr"), config(group_by="recording"))  # the user said that people may recur
    assert split is not None
    with pytest.raises(UserError, match="name the participants"):
        named_split(examples("aabb", "pq r").assign(participant=["p", "q", "", "r"]), config())


def test_a_setting_that_is_not_there() -> None:
    with pytest.raises(UserError, match="no labelled recording has setting 'bb'; did you mean b"):
        named_split(examples("aab"), config(test_setting="bb"))
    with pytest.raises(UserError, match="nothing is left to train on"):
        named_split(examples("abb", splits="trt"), config())
    with pytest.raises(ValueError, match="give test_setting"):
        config(train_setting="a", test_setting=None)


def with_rooms(shards: Path, folder: Path) -> Path:
    """The same clips with a room in the manifest's own column: r0 to r5 in hall, the others in lab."""
    folder.mkdir()
    writer = ShardWriter(folder / "shard-0.tar", folder / ".tmp")
    for row in read_index(shards).to_dict("records"):
        sample = {name: data for name, data in read_sample(shards, row).items() if name != "__key__"}
        room = "hall" if int(row["recording"][1:]) < 6 else "lab"
        sample["meta.json"] = json.dumps(json.loads(sample["meta.json"]) | {"extra": {"room": room}}).encode()
        about = {name: row[name] for name in ("recording", "start", "end", "people")}
        writer.write(row["key"], sample, {**about, "split": None})
    writer.publish()
    write_index(folder, writer.rows)
    return folder


def test_the_command_reports_in_the_other_room(
    small_release: Path, square_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The room out of the manifest, then out of the labels; then somebody comes into both."""
    shards = with_rooms(square_shards, tmp_path / "shards")
    table = pd.read_csv(square_shards / "scene.csv")
    table["participant"] = "person of " + table["recording"]
    given = ["--encoder", small_release, "--data", shards, "--target", "moves", "--method", "linear", "--seeds", "1"]
    given += ["--workers", "0", "--baselines", "false", "--setting", "room", "--train_setting", "hall"]
    given += ["--out", tmp_path / "out", "--labels", tmp_path / "labels.csv", "--test_setting", "lab"]
    words = ["run", *map(str, given)]
    table.to_csv(tmp_path / "labels.csv", index=False)
    assert main(words) == 0
    assert "trained in hall, reported in lab" in capsys.readouterr().out
    said = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert set(said["recording"]) == {f"r{number}" for number in range(6, 12)}
    assert set(said["split"]) == {"lab"}
    rows = json.loads((tmp_path / "out" / "metrics.json").read_text())["rows"]
    assert rows["linear"]["lab"]["examples"] == 24
    assert (tmp_path / "out" / "head.safetensors").is_file()

    table["room"] = ["hall" if name in {"r0", "r1"} else "lab" for name in table["recording"]]
    table.to_csv(tmp_path / "labels.csv", index=False)
    assert main(words) == 0
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 10 * 4

    capsys.readouterr()
    table["participant"] = ["anna" if name in {"r0", "r11"} else name for name in table["recording"]]
    table.to_csv(tmp_path / "labels.csv", index=False)
    assert main(words) == 2
    assert "1 participants stand in training and in lab: anna" in capsys.readouterr().err


def test_a_column_that_is_nowhere_and_a_recording_in_two_rooms(square_shards: Path, tmp_path: Path) -> None:
    index = pd.DataFrame({"recording": ["r0", "r1"], "meta": [{"extra": {"room": "a"}}, {"extra": {}}]})
    with pytest.raises(
        UserError, match=r"neither .* has a column 'setting' nor the manifest x\.setting; .* has x\.room"
    ):
        settings_of(config(labels=square_shards / "scene.csv"), index)
    assert settings_of(config(labels=square_shards / "scene.csv", setting="room"), index) == {"r0": "a", "r1": ""}
    table = pd.DataFrame({"recording": ["r0", "r0", "r1"], "setting": ["a", "b", None], "t": 1})
    table.to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(UserError, match="r0: has several values of setting: a, b"):
        settings_of(config(labels=tmp_path / "labels.csv"), index)
