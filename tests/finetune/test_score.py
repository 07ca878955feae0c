"""``finetune score``: a data set's official figures of real runs, beside the literature's rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from finetune.__main__ import main
from finetune.protocols.udiva import RIVALS, TRAITS
from tests.finetune.test_report import Page, cells, run


@pytest.fixture(scope="module")
def runs(small_release: Path, split_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each trait on shards with two test sets. That of O is real; the others are its copies with other
    targets and predictions, for a run takes its time."""
    folder = tmp_path_factory.mktemp("traits")
    labels = pd.read_csv(split_shards / "person.csv")[["recording", "participant"]].drop_duplicates()
    rng = np.random.default_rng(0)
    labels["OPENMINDEDNESS_Z"] = rng.normal(0, 1, len(labels))
    labels.to_csv(folder / "labels.csv", index=False)
    more = ("--seeds", "2", "--task", "regression")
    first = run(small_release, split_shards, folder / "labels.csv", "OPENMINDEDNESS_Z", folder / "O", *more)
    for number, (trait, short) in enumerate(list(TRAITS.items())[1:], 1):
        other = shutil.copytree(first, folder / short, ignore=shutil.ignore_patterns("cache"))
        record = json.loads((other / "metrics.json").read_text()) | {"target": trait}
        (other / "metrics.json").write_text(json.dumps(record))
        for file in [other / "predictions.csv", *other.glob("baselines/*.csv")]:
            table = pd.read_csv(file)
            changed = {"target": -table["target"], "prediction": number * table["prediction"]}
            table.assign(**changed).to_csv(file, index=False)
    return folder


def score(runs: Path, out: Path, traits: str = "OCEAN") -> int:
    return main(["score", "udiva", *(str(runs / trait) for trait in traits), "--out", str(out)])


def copied(runs: Path, to: Path) -> Path:
    """The same runs without their cache, to be changed."""
    return shutil.copytree(runs, to / "runs", ignore=shutil.ignore_patterns("cache"))


def by_hand(file: Path, test: str) -> tuple[float, float]:
    """MSE over participants of the means over their clips: mean and deviation over seeds."""
    table = pd.read_csv(file)
    of_seeds = []
    for _, rows in table[table["split"] == test].groupby("seed"):
        pooled = rows.groupby("participant")[["target", "prediction"]].mean()
        of_seeds.append(((pooled["target"] - pooled["prediction"]) ** 2).mean())
    return float(np.mean(of_seeds)), float(np.std(of_seeds, ddof=1))


def test_the_figures_are_those_of_the_predictions_beside_baselines_and_literature(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = copied(runs, tmp_path)
    for file in runs.glob("*/baselines/metadata.csv"):  # these shards' metadata tell nothing: the mean predictor again
        table = pd.read_csv(file)
        table.assign(prediction=table["prediction"] + 0.5).to_csv(file, index=False)
    assert score(runs, tmp_path / "out") == 0
    said = capsys.readouterr().out
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert set(table["row"]) == {"linear probe", "mean predictor", "metadata"}
    assert set(table["test"]) == {"test", "test_reversed"}
    assert (table["seeds"] == 2).all()
    files = {"linear probe": "predictions.csv"}
    files |= {row: f"baselines/{row}.csv" for row in ("mean predictor", "metadata")}
    found, spread = (table.set_index(["test", "row", "metric"])[column] for column in ("value", "std"))
    for test in ("test", "test_reversed"):
        for row, file in files.items():
            expected = {trait: by_hand(runs / trait / file, test) for trait in "OCEAN"}
            for trait, (value, std) in expected.items():
                assert found[test, row, trait] == pytest.approx(value)
                assert spread[test, row, trait] == pytest.approx(std, abs=1e-9)
            assert found[test, row, "mean"] == pytest.approx(np.mean([value for value, _ in expected.values()]))

    page = Page((tmp_path / "out" / "score.html").read_text())
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    head, *rows = map(cells, page.tables["results test"])
    assert head[:7] == ["", "O", "C", "E", "A", "N", "mean"]
    assert [row[0] for row in rows[:3]] == ["linear probe", "mean predictor", "metadata"]
    assert rows[0][6].startswith(f"{found['test', 'linear probe', 'mean']:.3f} ± ")
    by_name = {row[0]: row for row in rows[3:]}
    assert set(by_name) == {rival.name for rival in RIVALS}
    assert by_name["TimeSformer, video only"][6] == "1.309 ± 0.040"
    assert by_name["TimeSformer, video only"][1:6] == [""] * 5
    assert "third-party" in by_name["TimeSformer, video only"][-1]
    assert "Only roughly" in page.text
    assert "a participant counts once" in page.text
    assert "| TimeSformer, video only |" in said
    assert "## test_reversed" in said


def test_without_baselines_only_ours_and_the_literature_are_shown(runs: Path, tmp_path: Path) -> None:
    runs = copied(runs, tmp_path)
    shutil.rmtree(runs / "N" / "baselines")  # a row of four traits would be another rule
    assert score(runs, tmp_path / "out") == 0
    assert set(pd.read_csv(tmp_path / "out" / "scores.csv")["row"]) == {"linear probe"}


def test_runs_that_make_up_no_result_are_one_line(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copied(runs, tmp_path) / "N"
    record = json.loads((other / "metrics.json").read_text())
    for given, words in (
        (["O", "C", "E", "A"], "no run of NEGATIVEEMOTIONALITY_Z"),
        (["O", "C", "E", "A", "A", "N"], "AGREEABLENESS_Z is the target of another run"),
        (["O", "C", "E", "A", other], "other test sets or seeds"),
        ([tmp_path], "no metrics.json"),
    ):
        (other / "metrics.json").write_text(json.dumps(record | {"seeds": 5}))
        folders = [str(runs / name) if isinstance(name, str) else str(name) for name in given]
        assert main(["score", "udiva", *folders, "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert len(error.strip().splitlines()) == 1


def test_names_with_leading_zeros_stay_as_they_are(runs: Path, tmp_path: Path) -> None:
    """012 and 12 are two people: read as numbers they would be pooled to one."""
    changed = copied(runs, tmp_path)
    for file in changed.glob("*/predictions.csv"):
        table = pd.read_csv(file)
        names = dict(zip(table["participant"].unique(), ("012", "12", "003", "3", "0", "00"), strict=False))
        table.assign(participant=table["participant"].map(names)).to_csv(file, index=False)
    assert score(changed, tmp_path / "out") == 0
    renamed = pd.read_csv(tmp_path / "out" / "scores.csv").set_index(["test", "row", "metric"])["value"]
    assert renamed["test", "linear probe", "O"] == pytest.approx(by_hand(runs / "O" / "predictions.csv", "test")[0])
