"""``finetune compare``: the table over two real runs, and what is refused or marked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from configs import UserError
from finetune.__main__ import main
from finetune.compare import named
from tests.finetune.conftest import tiny_config
from tests.finetune.test_report import Page, cells

PARTS = ("backbone", "elsewhere", "head")


@pytest.fixture(scope="module")
def runs(small_release: Path, split_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs ``linear`` and ``prompt`` on the same splits."""
    folder = tmp_path_factory.mktemp("runs")
    for method in ("linear", "prompt"):
        given = {
            "encoder": small_release,
            "data": split_shards,
            "labels": split_shards / "scene.csv",
            "target": "moves",
        }
        given |= {"out": folder / method, "method": method, "seeds": 1, "workers": 0}
        given |= {"training.epochs": 1, "baselines": str(method == "linear").lower()}
        assert main(["run", *(str(word) for name, value in given.items() for word in (f"--{name}", value))]) == 0
    return folder


@pytest.fixture
def changed(runs: Path, tmp_path: Path):
    """Copies of the run ``prompt`` whose metrics.json says something else."""

    def make(**changes: object) -> Path:
        folder = shutil.copytree(runs / "prompt", tmp_path / "changed")
        record = json.loads((folder / "metrics.json").read_text())
        (folder / "metrics.json").write_text(json.dumps(record | changes))
        return folder

    return make


def compare(out: Path, *runs: Path) -> int:
    return main(["compare", *map(str, runs), "--out", str(out)])


def test_the_table_has_the_figures_of_the_runs(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(tmp_path, runs / "linear", runs / "prompt") == 0
    said = capsys.readouterr().out
    records = {name: json.loads((runs / name / "metrics.json").read_text()) for name in ("linear", "prompt")}
    table = pd.read_csv(tmp_path / "compare.csv")
    assert list(table[table["of_the_run"]]["run"]) == ["linear", "prompt"] * 2
    shown = Page((tmp_path / "compare.html").read_text())
    assert all(address.startswith(("data:", "#")) for address in shown.addresses)
    assert sum(address.startswith("data:image/svg") for address in shown.addresses) == 2
    for test in ("test", "test_reversed"):
        lines = [
            line.strip("| ").split(" | ") for line in said.split(f"## {test}\n")[1].splitlines() if line[:1] == "|"
        ]
        on_page = {(row[0], row[1]): row for row in map(cells, shown.tables[f"results {test}"])}
        for run, record in records.items():
            found, cost = record["rows"][run][test], record["costs"][run]
            row = table[(table["test"] == test) & (table["run"] == run) & table["of_the_run"]].iloc[0]
            assert row["accuracy"] == found["accuracy"]["mean"]
            assert row["trained_in_backbone"] == cost["backbone"]
            assert row["trained_in_head"] == cost["head"]
            assert row["seconds"] == cost["seconds"]
            assert row["encoder_sha256"] == record["encoder"]["sha256"]
            expected = f"{found['accuracy']['mean']:.3f} ± 0.000"
            line = next(line for line in lines if line[0] == run)
            assert line[2] == expected
            assert on_page[run, line[1]][2] == expected
            assert f"{cost['backbone'] + cost['head']:,}" in line
    assert records["linear"]["costs"]["linear"]["backbone"] == 0
    assert records["prompt"]["costs"]["prompt"]["backbone"] == 20 * tiny_config().dim * tiny_config().layers  # prompts
    beside = table[~table["of_the_run"]]
    assert set(beside["row"]) >= {"majority", "mean picture", "motion only", "raw streams"}
    assert beside["row"][beside["test"] == "test"].is_unique
    auroc = records["prompt"]["rows"]["prompt"]["test"]["auroc"]
    row = table[(table["test"] == "test") & (table["run"] == "prompt") & table["of_the_run"]].iloc[0]
    assert [row["auroc_low"], row["auroc_high"]] == auroc["interval"]
    assert (table["trained"][:2] == [sum(r["costs"][m][part] for part in PARTS) for m, r in records.items()]).all()
    assert beside["seconds"].isna().all()  # the linear probe beside the prompt is the run linear: it stands there once
    assert "†" not in said


def test_other_targets_and_other_test_examples_are_refused(
    runs: Path, changed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tests = json.loads((runs / "prompt" / "metrics.json").read_text())["tests_sha256"]
    for what, changes in {
        "target": {"target": "looks"},
        "test examples": {"tests_sha256": tests | {"test": "0"}},
    }.items():
        other = changed(**changes)
        assert compare(tmp_path / "out", runs / "linear", other) == 2
        assert f"has other {what} than linear" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
        shutil.rmtree(other)


def test_a_relabelled_example_is_another_test(
    small_release: Path, split_shards: Path, runs: Path, tmp_path: Path
) -> None:
    """The digests tell the test from the training part: relabelling one clip of each changes one of them."""
    expected = json.loads((runs / "linear" / "metrics.json").read_text())
    for recording, same_test in (("r4", False), ("r0", True)):
        labels = pd.read_csv(split_shards / "scene.csv")
        row = labels.index[labels["recording"] == recording][0]
        labels.loc[row, "moves"] = "still" if labels.loc[row, "moves"] == "right" else "right"
        labels.to_csv(tmp_path / "labels.csv", index=False)
        given = {"encoder": small_release, "data": split_shards, "labels": tmp_path / "labels.csv", "target": "moves"}
        given |= {"out": tmp_path / recording, "method": "linear", "seeds": 1, "baselines": "false", "workers": 0}
        assert main(["run", *(str(word) for name, value in given.items() for word in (f"--{name}", value))]) == 0
        found = json.loads((tmp_path / recording / "metrics.json").read_text())
        assert (found["tests_sha256"]["test"] == expected["tests_sha256"]["test"]) is same_test
        assert found["tests_sha256"]["test_reversed"] == expected["tests_sha256"]["test_reversed"]
        assert found["splits_sha256"] != expected["splits_sha256"]


def test_other_training_examples_are_marked(
    runs: Path, changed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = changed(splits_sha256="0")
    assert compare(tmp_path / "out", runs / "linear", other) == 0
    said = capsys.readouterr().out
    assert "† changed: other training examples, folds or seeds than linear" in said
    assert "| changed † | prompt |" in said
    assert "| linear | linear probe |" in said
    assert "† changed" in Page((tmp_path / "out" / "compare.html").read_text()).text
    table = pd.read_csv(tmp_path / "out" / "compare.csv")
    assert set(table[table["other_training"]]["run"]) == {"changed"}


def test_mistakes_are_one_line(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given, says in (
        ((tmp_path,), "no metrics.json"),
        ((runs / "linear", runs / "linear"), "named twice"),
        ((), "runs"),
    ):
        assert compare(tmp_path / "out", *given) == 2
        error = capsys.readouterr().err
        assert says in error
        assert len(error.strip().splitlines()) == 1


def test_runs_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    assert named(folders) == {"a/run": folders[0], "b/run": folders[1]}
    assert list(named([tmp_path / "a", tmp_path / "b"])) == ["a", "b"]
    with pytest.raises(UserError, match="twice"):
        named([tmp_path / "a", tmp_path / "." / "a"])
