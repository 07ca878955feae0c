"""The report of a run: the page shows the figures of metrics.json, needs nothing else, and metrics.json is what was predicted."""

from __future__ import annotations

import html.parser
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from configs import UserError
from data_prep.shards import read_index, read_sample
from finetune.__main__ import main
from finetune.config import Method, RunConfig
from finetune.data import open_encoder
from finetune.evaluation import metrics_of
from finetune.features import of_one
from finetune.problem import Problem
from finetune.report import markdown
from finetune.report_html import page
from finetune.report_mlflow import log, needs_mlflow
from finetune.report_occlusion import LEAST_SAID, STRETCHES, WithoutStream, WithoutStretch
from finetune.report_record import calibration, confusion, read_record
from finetune.tasks import Task
from finetune.tuned import load_tuned
from pretrain.clips import Clip, read_clip
from pretrain.encoder import Encoder
from tests.data_prep.browser import browser, why_not

EVIL = "<script>alert('$\\frac$')</script> & \"right\""


class Page(html.parser.HTMLParser):
    """What a page refers to and holds: its tags, the cells of its tables by ``data-test`` or ``data-of``, its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._rows: list[list[str]] = []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        self.tags.append(tag)
        self.addresses += [str(of[name]) for name in ("src", "href", "srcset", "data", "action") if name in of]
        if tag == "table":
            name = f"{(of.get('class') or '').split()[-1]} {of.get('data-test') or of.get('data-of') or ''}".strip()
            self._rows = self.tables.setdefault(name, [])
        if tag == "tr":
            self._rows.append([])
        if tag in {"td", "th"}:
            self._rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in {"td", "th"}

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell:
            self._rows[-1][-1] += data.strip() + " " if data.strip() else ""


def between(interval: list[float] | None) -> str:
    return "{:.3f} to {:.3f}".format(*interval) if interval else ""


def cells(row: list[str]) -> list[str]:
    return [cell.strip() for cell in row]


def run(release: Path, shards: Path, labels: Path, target: str, out: Path, *more: str) -> Path:
    arguments = ["run", "--encoder", release, "--data", shards, "--labels", labels, "--target", target, "--out", out]
    assert main([str(word) for word in (*arguments, "--method", "linear", "--workers", "0", *more)]) == 0
    return out


@pytest.fixture(scope="module")
def told(small_release: Path, split_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two test sets and all baselines, a class of which is called like a script."""
    folder = tmp_path_factory.mktemp("told")
    labels = pd.read_csv(split_shards / "scene.csv")
    labels["moves"] = labels["moves"].replace("right", EVIL)
    labels.to_csv(folder / "labels.csv", index=False)
    return run(small_release, split_shards, folder / "labels.csv", "moves", folder / "run", "--seeds", "2")


@pytest.fixture(scope="module")
def levels(small_release: Path, square_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A regression of people, in folds."""
    more = ("--seeds", "1", "--baselines", "false", "--folds", "3")
    return run(
        small_release, square_shards, square_shards / "person.csv", "level", tmp_path_factory.mktemp("levels"), *more
    )


def strict(folder: Path) -> dict:
    """metrics.json, in which nothing may stand that JSON does not know."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads((folder / "metrics.json").read_text(), parse_constant=refuse)


def lead(told: dict) -> str:
    ends = told["interval"]  # one recording has none
    return f"{told['mean']:+.3f}" + (f" ({ends[0]:+.3f} to {ends[1]:+.3f})" if ends else "")


def test_the_page_shows_the_figures_of_metrics_json(told: Path) -> None:
    record, shown = strict(told), Page((told / "report.html").read_text())
    assert len(record["rows"]) > 4
    for test in ("test", "test_reversed"):
        heading, *rows = map(cells, shown.tables[f"results {test}"])
        names = [name for name in metrics_of(record["rows"]["linear"][test]) if name != "accuracy"]
        assert heading == ["", "", "accuracy", "95 % interval", "method ahead by", *names]
        assert {"auroc", "sensitivity", "macro_f1"} < set(names)
        assert len(rows) == len(record["rows"])
        for row, (name, tests) in zip(rows, record["rows"].items(), strict=True):
            found = tests[test]
            accuracy = f"{found['accuracy']['mean']:.3f} ± {found['accuracy']['std']:.3f}"
            expected = [{"linear": "linear probe"}.get(name, name), "", accuracy, between(found["interval"])]
            assert ("ahead" in found) == (name != "linear")
            if name != "linear":
                gain = record["rows"]["linear"][test]["accuracy"]["mean"] - found["accuracy"]["mean"]
                assert found["ahead"]["mean"] == pytest.approx(gain, abs=1e-9)
            expected.append("" if name == "linear" else lead(found["ahead"]))
            for metric in names:
                value = found[metric] or {}
                spread = f"{value['mean']:.3f} ± {value['std']:.3f}" if value else ""
                expected.append(f"{spread} {between(value.get('interval'))}".strip())
            assert row == expected
        first, second = (cells(row)[1:] for row in shown.tables[f"confusion {test}"][1:])
        (a, b), (c, d) = record["confusion"][test]
        assert first == [f"{a / (a + b):.2f} {a}", f"{b / (a + b):.2f} {b}"]
        assert second == [f"{c / (c + d):.2f} {c}", f"{d / (c + d):.2f} {d}"]
        assert f"expected calibration error {record['calibration'][test]['error']:.3f}" in shown.text
    for row, (name, found) in zip(shown.tables["bars streams"], record["left_out"]["streams"].items(), strict=True):
        assert cells(row)[0] == name
        assert cells(row)[2:4] == [f"{100 * found['share']:.1f} %", f"mean {found['drop']:.3f}"]
    weights = record["costs"]["linear"]["head"]
    assert [f"{weights:,}" in row for row in map(cells, shown.tables["rows costs"][1:])] == [True]


def test_metrics_json_is_what_was_predicted(told: Path) -> None:
    record = strict(told)
    predictions = pd.read_csv(told / "predictions.csv")
    classes = record["classes"]
    assert set(classes) == {EVIL, "still"}
    for test, counts in record["confusion"].items():
        rows = predictions[predictions["split"] == test]
        assert len(rows) == 2 * record["rows"]["linear"][test]["examples"]
        pairs = zip(rows["target"], rows["prediction"], strict=True)
        expected = np.zeros((2, 2), int)
        for target, said in pairs:
            expected[classes.index(target), classes.index(said)] += 1
        assert counts == expected.tolist()
        p, so = rows[f"p({classes[1]})"].to_numpy(), (rows["target"] == classes[1]).to_numpy()
        steps = [(p >= k / 10) & ((p < (k + 1) / 10) | (k == 9)) for k in range(10)]
        error = sum(abs(p[step].mean() - so[step].mean()) * step.mean() for step in steps if step.any())
        assert record["calibration"][test]["error"] == pytest.approx(error, abs=1e-6)
        assert sum(record["calibration"][test]["count"]) == len(rows)
        assert record["calibration"][test]["of"] == classes[1]
    assert record["costs"]["linear"]["backbone"] == 0
    assert record["costs"]["linear"]["fits"] == 2
    assert 0 < record["costs"]["linear"]["seconds"] < 60
    assert f"{record['costs']['linear']['head']:,} in the head" in record["trained"]
    assert record["encoder"]["sha256"] == json.loads((told / "config.json").read_text())["encoder_sha256"]


def test_confusion_counts_targets_in_rows() -> None:
    rows = pd.DataFrame({"target": ["a", "a", "b"], "prediction": ["a", "b", "b"]})
    assert confusion(rows, ["a", "b"]) == [[1, 1], [0, 1]]
    assert confusion(rows.assign(prediction="a;b"), ["a", "b"]) is None  # labels side by side


def test_calibration_of_more_than_two_classes_is_that_of_the_predicted_one() -> None:
    rows = pd.DataFrame({"target": ["a", "b", "c", "c"]})
    for name, values in {"a": (0.62, 0.64, 0.2, 0.1), "b": (0.2, 0.2, 0.1, 0.1), "c": (0.18, 0.16, 0.7, 0.8)}.items():
        rows[f"p({name})"] = values
    found = calibration(rows)
    assert found is not None
    assert found["of"] is None
    assert (found["count"][0], found["predicted"][0], found["observed"][0]) == (2, pytest.approx(0.63), 0.5)
    assert found["error"] == pytest.approx((2 * 0.13 + 0.3 + 0.2) / 4)
    assert calibration(rows.assign(**{"p(a)": 0.9})) is None  # labels that hold side by side are no distribution


def test_the_page_needs_nothing_else_and_runs_no_name(told: Path) -> None:
    text = (told / "report.html").read_text()
    shown = Page(text)
    assert all(address.startswith(("data:", "#")) for address in shown.addresses)
    pictures = [address for address in shown.addresses if address.startswith("data:image/svg")]
    assert len(pictures) == 2 + 3 + 1 + 2  # calibration, recordings of the tests, stretches, costs
    assert "script" not in shown.tags
    assert EVIL in shown.text
    assert "default-src 'none'" in text
    assert "url(" not in text


def test_a_browser_shows_it_without_complaint(told: Path, tmp_path: Path) -> None:
    if reason := why_not():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with browser(tmp_path) as chromium:
        chromium.open(told / "report.html")
        assert [one for one in chromium.requests if not one.startswith("data:")] == [(told / "report.html").as_uri()]
        assert chromium.complaints == []
        drawn = "[...document.images].map(one => one.complete && one.naturalWidth > 100)"
        assert set(chromium.run(drawn)) == {True}
        assert chromium.run("document.documentElement.scrollWidth <= innerWidth")


def test_a_regression_in_folds_has_a_scatter_and_no_confusion(levels: Path) -> None:
    record, shown = strict(levels), Page((levels / "report.html").read_text())
    assert record["folds"] == 3
    assert record["confusion"] == {"folds": None}
    assert record["calibration"] == {"folds": None}
    assert record["costs"]["linear"]["fits"] == 3
    assert "Targets and predictions" in shown.text
    assert "Confusion" not in shown.text
    assert "Calibration" not in shown.text
    assert len(shown.tables["results folds"]) == 2
    left = record["left_out"]
    assert left["measure"] == "absolute change of the prediction"
    assert left["streams"]["pose"]["share"] > 0.6  # who shakes how much is told by the pose alone
    assert len(left["each"]) == left["examples"] >= 4
    assert len({one["recording"] for one in left["each"]}) > 1
    assert min(left["stretches"]) >= 0


def test_whatever_a_task_returns_is_shown(told: Path) -> None:
    """A metric with an interval of its own, one that is not known, whole participants, labels side by side."""
    record = strict(told)
    of_people = {"examples": 4, "accuracy": {"mean": 0.125, "std": 0.0}, "interval": [0.0, 0.375]}
    for tests in record["rows"].values():
        tests["test"] |= {"new_one": {"mean": 0.5, "std": 0.0, "interval": [0.25, 0.75]}, "r": None}
        tests["test"] |= {"accuracy": None, "interval": None, "participants": of_people}
        tests["test"] |= {"average_precision": {"<left>": 0.625, "right": None}}
    record["confusion"]["test"] = [[6, 2], [1, 9]]
    assert (record["adapted"], record["added"]) == (None, None)
    record |= {"adapted": "ANOTHER_ROOM", "added": "gaze.yaml"}
    shown = Page(page(record, pd.read_csv(told / "predictions.csv"), "run"))
    said = [[cell.split() for cell in cells(row)[1:]] for row in shown.tables["confusion test"][1:]]
    assert all(given in shown.text for given in ("ANOTHER_ROOM", "gaze.yaml"))
    assert said == [[["0.75", "6"], ["0.25", "2"]], [["0.10", "1"], ["0.90", "9"]]]
    heading, *rows = map(cells, shown.tables["results test"])
    assert heading[2:6] == ["accuracy", "95 % interval", "method ahead by", "balanced_accuracy"]
    assert heading[-2:] == ["new_one", "r"]
    assert rows[0][2:4] == ["", ""]
    assert rows[0][-2:] == ["0.500 ± 0.000 0.250 to 0.750", ""]
    assert cells(shown.tables["results test, participants"][1])[2:] == ["0.125 ± 0.000", "0.000 to 0.375", ""]
    assert [cells(row)[::2] for row in shown.tables["bars test"]] == [
        ["<left>", "0.625"],
        ["right", "no example has it"],
    ]


def some_clips(shards: Path) -> list[Clip]:
    index = read_index(shards)
    return [read_clip(read_sample(shards, index.iloc[row]), ("video", "pose")) for row in range(2)]


def test_a_stream_is_left_out_as_if_the_clip_lacked_it(encoder: Encoder, square_shards: Path) -> None:
    clips = some_clips(square_shards)
    blind = [replace(clip, views={"main": replace(clip.views["main"], frames=None)}) for clip in clips]
    with torch.inference_mode():
        without = WithoutStream(encoder, "video").encode_clips(clips, ("video", "pose"))
        expected = encoder.encode_clips(blind)
        whole = encoder.encode_clips(clips)
        assert torch.equal(without.tokens, expected.tokens)
        assert torch.equal(without.clip, expected.clip)
        assert not torch.allclose(without.tokens, whole.tokens[whole.modality == 1])  # pose had read the pictures
        mixed = WithoutStream(encoder, "pose").encode_clips([replace(blind[0]), clips[1]])
        assert set(mixed.clip.tolist()) == {1}  # nothing is left of the first
        assert len(WithoutStream(encoder, "pose").encode_clips(blind).clip) == 0


def test_the_stretches_take_each_token_away_once(encoder: Encoder, square_shards: Path) -> None:
    clips = some_clips(square_shards)
    with torch.inference_mode():
        whole = encoder.encode_clips(clips)
        lost = torch.zeros(len(whole.time))
        for number in range(STRETCHES):
            rest = WithoutStretch(encoder, number).encode_clips(clips)
            start, end = (2.0 * (number + more) / STRETCHES for more in (0, 1))
            inside = (whole.time >= start) & ((whole.time < end) | (number == STRETCHES - 1))
            assert torch.equal(rest.tokens, whole.tokens[~inside])
            assert torch.equal(rest.place, whole.place[~inside])
            lost += inside
    assert (lost == 1).all()


def test_the_evidence_is_the_change_of_the_saved_model(told: Path, small_release: Path, split_shards: Path) -> None:
    """Asked again of what the run saved: the drop of one example, stream by stream and stretch by stretch."""
    encoder = open_encoder(small_release, "cpu")
    tuned = load_tuned(told, encoder)
    one = strict(told)["left_out"]["each"][1]
    index = read_index(split_shards)
    row = index[(index["recording"] == one["recording"]) & (index["start"] == one["start"])].iloc[0]
    clip = read_clip(read_sample(split_shards, row), tuned.streams)
    number = tuned.task.classes.index(one["prediction"])

    def said(encoder: object) -> float:
        tuned.encoder = encoder  # pyrefly: ignore[bad-assignment]
        return float(np.log(max(tuned.predict([clip])[0, number], LEAST_SAID)))

    whole = said(encoder)
    for stream, drop in one["streams"].items():
        assert drop == pytest.approx(whole - said(WithoutStream(encoder, stream)), abs=1e-3)
    drops = [whole - said(WithoutStretch(encoder, stretch)) for stretch in range(STRETCHES)]
    assert one["stretches"] == pytest.approx(drops, abs=1e-4)
    assert max(map(abs, drops)) > 1e-3


def test_a_head_that_reads_kept_tokens_is_asked_of_the_clips(
    small_release: Path, split_shards: Path, tmp_path: Path
) -> None:
    """``attentive`` predicts from tokens that were kept: what it rests on needs the clips, also where one stream is all."""
    more = (
        "--method",
        "attentive",
        "--seeds",
        "1",
        "--training.epochs",
        "1",
        "--streams",
        "[pose]",
        "--baselines",
        "false",
    )
    record = strict(run(small_release, split_shards, split_shards / "scene.csv", "moves", tmp_path / "run", *more))
    (pose,) = record["left_out"]["streams"].values()
    assert abs(pose["drop"]) > 1e-3
    assert max(map(abs, record["left_out"]["stretches"])) > 1e-4


def test_mlflow_holds_the_same(told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"sqlite:///{tmp_path}/all.db"
    record = strict(told)
    config = RunConfig(
        Path("RELEASE"), Path("SHARDS"), Path("labels.csv"), "moves", told, method="linear", tracking_uri=uri
    )
    needs_mlflow(config)
    log(config, record)
    assert capsys.readouterr().err == ""
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("kinesic finetune")
    (found,) = client.search_runs([experiment.experiment_id])
    accuracy = record["rows"]["linear"]["test"]
    logged = found.data.metrics
    assert logged["linear/test/accuracy"] == accuracy["accuracy"]["mean"]
    assert [logged[f"linear/test/accuracy/{end}"] for end in ("low", "high")] == accuracy["interval"]
    assert logged["majority/test_reversed/macro_f1"] == record["rows"]["majority"]["test_reversed"]["macro_f1"]["mean"]
    assert logged["majority/test/ahead"] == record["rows"]["majority"]["test"]["ahead"]["mean"]
    assert logged["linear/cost/head"] == record["costs"]["linear"]["head"]
    assert str(found.info.artifact_uri).startswith(tmp_path.as_uri())
    assert found.data.params["method"] == "linear"
    assert found.data.params["training.epochs"] == "10"
    for name in ("report.html", "metrics.json"):
        kept = Path(client.download_artifacts(found.info.run_id, name))
        assert kept.read_bytes() == (told / name).read_bytes()
    log(replace(config, tracking_uri="ftp://nowhere"), record)  # a store that fails costs a line
    assert "MLflow failed" in capsys.readouterr().err


def test_a_store_that_fails_without_a_word_costs_a_line_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise TimeoutError

    monkeypatch.setattr("finetune.report_mlflow._log", fails)
    log(RunConfig(Path("R"), Path("S"), Path("l.csv"), "t", tmp_path, tracking_uri="sqlite:///all.db"), {})
    assert "MLflow failed (TimeoutError)" in capsys.readouterr().err


@pytest.mark.parametrize(("method", "says"), [("full", "(tuned)"), ("adapter", "(frozen)")])
def test_an_encoder_whose_weights_were_all_trained_is_not_called_frozen(
    told: Path, tmp_path: Path, method: Method, says: str
) -> None:
    config = RunConfig(Path("R"), Path("S"), Path("l.csv"), "t", tmp_path, method=method)
    figures = {"examples": 1, "recordings": 1, "participants": None, "interval": None, "accuracy": None}
    examples = pd.DataFrame({"recording": ["a"]})
    task = Task("classification", ("no", "yes"))
    nothing = np.zeros((1, 1))
    problem = Problem(tmp_path, examples, examples, task, ("video",), nothing, nothing, of_one(nothing))
    assert f"Encoder `R` {says}" in markdown(config, problem, {method: {"test": figures}}, "trained: 1")
    record = strict(told)
    kept = ("rows", "costs")
    record |= {key: record[key] | {method: record[key]["linear"]} for key in kept} | {"method": method}
    shown = page(record, pd.read_csv(told / "predictions.csv", dtype={"recording": str}), "x")
    assert ("a frozen encoder" in shown) == (method != "full")


def test_mlflow_that_is_not_there_is_missed_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(Path("R"), Path("S"), Path("l.csv"), "t", tmp_path)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    needs_mlflow(config)
    with pytest.raises(UserError, match="pip install mlflow"):
        needs_mlflow(replace(config, tracking_uri="sqlite:///all.db"))


@pytest.mark.parametrize(("content", "says"), [("{}", "no schema"), ('{"schema": 99}', "newer"), ("{", "not readable")])
def test_metrics_of_another_version_are_refused(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(UserError, match=says):
        read_record(tmp_path)
