"""``finetune run`` on every kind of task, from the command line to the figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.finetune.test_run import main


def run(release: Path, shards: Path, labels: pd.DataFrame | str, target: str, out: Path, *more: str) -> int:
    """The linear probe on one seed; ``labels``: a table, or the text of an export."""
    path = out.with_suffix(".txt")
    path.write_text(labels if isinstance(labels, str) else labels.to_csv(index=False))
    arguments = {
        "encoder": release,
        "data": shards,
        "labels": path,
        "target": target,
        "out": out,
        "seeds": 1,
        "workers": 0,
    }
    words = [str(word) for name, value in arguments.items() for word in (f"--{name}", value)]
    return main(["run", *words, "--method", "linear", *more])


def figures(out: Path) -> dict[str, Any]:
    return {name: row["folds"] for name, row in json.loads((out / "metrics.json").read_text())["rows"].items()}


@pytest.fixture(scope="module")
def everything(square_shards: Path) -> pd.DataFrame:
    """A row a clip and person: does the square move, do they shake."""
    scene = pd.read_csv(square_shards / "scene.csv").assign(moves=lambda t: (t["moves"] == "right").astype(int))
    return pd.read_csv(square_shards / "person.csv").merge(scene).assign(shakes=lambda t: t["shakes"].astype(int))


def test_several_columns_are_labels(
    small_release: Path, square_shards: Path, everything: pd.DataFrame, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    more = ("--baselines", "false", "--folds", "3")
    assert run(small_release, square_shards, everything, "moves,shakes", out, *more) == 0
    row = figures(out)["linear"]
    assert row["mean_ap"]["mean"] > 0.8
    assert set(row["average_precision"]) == {"moves", "shakes"}
    assert row["interval"][0] <= row["mean_ap"]["mean"]
    predictions = pd.read_csv(out / "predictions.csv", keep_default_na=False)
    assert set(predictions["target"]) == {"", "moves", "shakes", "moves;shakes"}
    assert {"p(moves)", "p(shakes)"} < set(predictions.columns)
    said = predictions["prediction"].str.contains("shakes") == (predictions["p(shakes)"] >= 0.5)
    assert said.all()


def test_levels_in_order(small_release: Path, square_shards: Path, everything: pd.DataFrame, tmp_path: Path) -> None:
    out = tmp_path / "out"
    levels = everything.assign(grade=3 * everything["shakes"] + everything["moves"])
    more = ("--task", "ordinal", "--baselines", "false", "--folds", "3")
    assert run(small_release, square_shards, levels, "grade", out, *more) == 0
    assert json.loads((out / "metrics.json").read_text())["classes"] == ["0", "1", "3", "4"]
    row = figures(out)["linear"]
    assert row["quadratic_kappa"]["mean"] > 0.7
    assert row["mae_levels"]["mean"] < 0.8
    predictions = pd.read_csv(out / "predictions.csv")
    np.testing.assert_allclose(predictions[[f"p({level})" for level in "0134"]].sum(axis=1), 1, atol=1e-5)


def test_every_window_is_told_by_its_own_tokens(
    small_release: Path, square_shards: Path, everything: pd.DataFrame, tmp_path: Path
) -> None:
    """Whether a window is the first or the second of its clip: nothing pooled over the whole clip could tell."""
    out = tmp_path / "out"
    halves = [
        everything.assign(start=s, end=s + 1, half=h)
        for h, s in enumerate((everything["start"], everything["start"] + 1))
    ]
    more = ("--window_seconds", "1", "--baselines", "false", "--folds", "3")
    assert run(small_release, square_shards, pd.concat(halves), "half", out, *more) == 0
    row = figures(out)["linear"]
    assert row["examples"] == 12 * 4 * 2 * 2  # recordings, clips, people, windows
    assert row["accuracy"]["mean"] > 0.9
    assert row["participants"] is None  # everybody has both
    predictions = pd.read_csv(out / "predictions.csv")
    assert set(predictions["end"] - predictions["start"]) == {1.0}
    assert set(predictions["start"]) == set(range(8))
    assert json.loads((out / "config.json").read_text())["window_seconds"] == 1


def test_a_window_shorter_than_a_token_is_refused(
    small_release: Path,
    square_shards: Path,
    everything: pd.DataFrame,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(small_release, square_shards, everything, "moves", tmp_path / "out", "--window_seconds", "0.3") == 2
    assert "a token of pose lasts 0.5 s" in capsys.readouterr().err


def test_the_clinical_recipe_leaves_participants_out_and_tells_of_each(
    small_release: Path, square_shards: Path, everything: pd.DataFrame, tmp_path: Path
) -> None:
    """Patients shake: of everybody only clips that agree with what they are; two of one recording are left out together."""
    out = tmp_path / "out"
    some = everything[everything["recording"].isin([f"r{k}" for k in range(6)])]
    patient = some.groupby("participant")["shakes"].transform("first")
    labels = some.assign(group=np.where(patient == 1, "patient", "control"))[some["shakes"] == patient]
    more = ("--config", "clinical", "--positive", "patient", "--baselines", "false", "--streams", "[pose]")
    assert run(small_release, square_shards, labels, "group", out, *more) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["classes"] == ["control", "patient"]
    row = figures(out)["linear"]
    clips, participants = row, row["participants"]
    assert (clips["examples"], participants["examples"]) == (len(labels), 12)
    for part in (clips, participants):
        assert part["auroc"]["mean"] > 0.8
        assert {"sensitivity", "specificity", "brier", "calibration_error", "calibration"} < part.keys()
        assert sum(part["calibration"]["count"]) == part["examples"]
        assert part["sensitivity"]["interval"][0] <= part["sensitivity"]["mean"] <= part["sensitivity"]["interval"][1]
    predictions = pd.read_csv(out / "predictions.csv")
    assert predictions["split"].nunique() == 6
    assert (predictions.groupby("split")["recording"].nunique() == 1).all()
    assert (predictions.groupby("split")["threshold"].nunique() == 1).all()
    assert predictions["threshold"].nunique() > 1
    said = predictions["p(patient)"] >= predictions["threshold"] - 1e-6
    assert (said == (predictions["prediction"] == "patient")).all()
    whole = predictions.groupby("participant").agg({"p(patient)": "mean", "target": "first"})
    brier = np.square(whole["p(patient)"] - (whole["target"] == "patient")).mean()
    assert participants["brier"]["mean"] == pytest.approx(brier, abs=1e-5)
    assert "Of 12 participants" in (out / "report.md").read_text()
    assert "by resampling participants" in (out / "report.md").read_text()
    kept = json.loads((out / "config.json").read_text())["threshold"]
    assert kept != 0.5
    more = ("--workers", "0", "--pictures", "0")
    for threshold in (kept, 0.998):  # the second one parts those whom every threshold of training would call patients
        (out / "config.json").write_text(
            json.dumps(json.loads((out / "config.json").read_text()) | {"threshold": threshold})
        )
        said_of = tmp_path / f"said-{threshold}.csv"
        assert main([str(word) for word in ("predict", out, square_shards, "--out", said_of, *more)]) == 0
        table = pd.read_csv(said_of)
        assert ((table["prediction"] == "patient") == (table["p(patient)"] >= threshold)).all()
    assert table["p(patient)"].between(max(kept, 0.5), 0.998).any()


def test_an_export_of_boris_is_a_label_table(
    small_release: Path, square_shards: Path, everything: pd.DataFrame, tmp_path: Path
) -> None:
    """Who shakes when, as aggregated events of the coded videos."""
    out = tmp_path / "out"
    lines = ["Observation id\tMedia file\tSubject\tBehavior\tBehavior type\tStart (s)\tStop (s)"]
    for row in everything[everything["shakes"] == 1].itertuples():
        about = f"coding of {row.recording}\tvideos/{row.recording}.mp4\t{row.participant}"
        lines.append(f"{about}\tshakes\tSTATE\t{row.start}\t{row.end}")
    more = ("--baselines", "false", "--folds", "3", "--streams", "[pose]")
    assert run(small_release, square_shards, "\n".join(lines), "shakes", out, *more) == 0
    assert json.loads((out / "metrics.json").read_text())["classes"] == ["no", "yes"]
    row = figures(out)["linear"]
    coded = {line.split("\t")[2] for line in lines[1:]}
    assert row["examples"] == 4 * len(coded)
    assert row["accuracy"]["mean"] > 0.9


def test_a_training_that_got_nowhere_is_told(
    small_release: Path, square_shards: Path, everything: pd.DataFrame, tmp_path: Path
) -> None:
    """A rate at which no float32 moves: what is reported as an adapter is the linear probe."""
    more = (
        "--folds",
        "2",
        "--baselines",
        "false",
        "--method",
        "adapter",
        "--training.lr",
        "1e-30",
        "--training.epochs",
        "1",
    )
    some = everything[everything["recording"].isin([f"r{k}" for k in range(4)])]
    assert run(small_release, square_shards, some, "moves", tmp_path / "out", *more, "--streams", "[pose]") == 0
    told = "3 of 3 trainings of adapter kept what they began with"  # of two folds, and on everything
    assert told in (tmp_path / "out" / "report.md").read_text()
    rows = figures(tmp_path / "out")  # nobody has to be held out for it: the probe of the whole training part
    for metric in ("accuracy", "brier"):
        assert rows["adapter"][metric]["mean"] == pytest.approx(rows["linear"][metric]["mean"], abs=1e-4)


@pytest.mark.parametrize(
    ("target", "more", "says"),
    [
        ("level", ("--class_weights", "balanced"), "class_weights: a regression has no classes"),
        ("moves,shakes", ("--threshold", "youden"), "threshold youden: needs two classes"),
        ("moves", ("--positive", "2"), "positive '2': needs two classes and one of them"),
        ("moves,shakes", ("--positive", "moves"), "positive 'moves': of a multi-label task"),
        ("participant", ("--threshold", "youden"), "threshold youden: needs two classes"),
        ("moves,shakes", ("--task", "regression"), "several targets are a multi-label task"),
        ("none,shakes", (), "no target 'none'"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    small_release: Path,
    square_shards: Path,
    everything: pd.DataFrame,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    target: str,
    more: tuple[str, ...],
    says: str,
) -> None:
    assert run(small_release, square_shards, everything, target, tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.strip().splitlines()) == 1
