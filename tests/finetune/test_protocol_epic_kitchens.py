"""EPIC-KITCHENS-100's rule, case by case as the authors' evaluator has it (C1-Action-Recognition), and the submission."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from configs import UserError
from finetune.protocols import Run
from finetune.protocols.epic_kitchens import (
    CLASSES,
    Scored,
    numbers,
    pooled,
    ranked,
    ranked_actions,
    read,
    score,
    submission,
)


def segments(*rows: tuple) -> pd.DataFrame:
    """Rows of (recording, start, end, verb, noun, split, unseen, tail verb, tail noun); verbs are v<number>, nouns n<number>."""
    names = ["recording", "start", "end", "verb_class", "noun_class", "split", "unseen", "tail_verb", "tail_noun"]
    table = pd.DataFrame(rows, columns=names)
    for kind in CLASSES:
        said = [None if pd.isna(number) else f"{kind[0]}{number:g}" for number in table[f"{kind}_class"]]
        table[kind] = pd.Series(said, dtype=object)
    return table.assign(participant="P01", narration_id=[f"s{row}" for row in range(len(table))])


LABELS = segments(
    ("P01_01", 0.0, 10.0, 0, 0, "train", False, False, False),
    ("P01_01", 10.0, 20.0, 1, 1, "train", False, False, False),
    ("P02_01", 0.0, 2.0, 0, 0, "test_validation", False, False, False),
    ("P18_01", 1.0, 3.0, 1, 1, "test_validation", True, True, False),
    ("P18_01", 2.5, 4.0, 0, 1, "test_validation", True, False, True),
    ("P33_01", 0.0, 2.0, None, None, "test", True, False, False),
    ("P33_01", 1.0, 4.0, None, None, "test", True, False, False),
)


def windows(**of_recording: list[tuple[float, float]]) -> pd.DataFrame:
    """Windows of 2 s: of each recording the (p of class 0 of verbs, of nouns)."""
    rows = [
        (name, 2.0 * number, 2.0 * number + 2, verb, noun)
        for name, said in of_recording.items()
        for number, (verb, noun) in enumerate(said)
    ]
    return pd.DataFrame(rows, columns=["recording", "start", "end", "verb", "noun"])


def runs(folder: Path, said: pd.DataFrame, labels: pd.DataFrame = LABELS) -> list[Run]:
    """Runs of verb and noun whose labels lie in the folder."""
    labels.to_parquet(folder / "labels.parquet")
    found = []
    for kind in CLASSES:
        p = said[kind].to_numpy()
        table = said[["recording", "start", "end"]].assign(split="test_validation", seed=0)
        table = table.assign(**{f"p({kind[0]}0)": p, f"p({kind[0]}1)": 1 - p})
        (folder / kind).mkdir(exist_ok=True)
        found.append(Run(folder / kind, {"target": kind, "labels": str(folder / "labels.parquet")}, table))
    return found


def test_windows_are_averaged_by_their_overlap_with_a_segment(tmp_path: Path) -> None:
    """The second segment, 1 to 3 s, has a second of each of two windows; the third 1.5 s of the second alone."""
    said = windows(P02_01=[(0.9, 0.8)], P18_01=[(0.8, 0.6), (0.2, 0.2)])
    found = read(runs(tmp_path, said), None)
    assert found.missing == 0
    np.testing.assert_allclose(np.exp(found.scores["verb"][:, :2]), [[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    np.testing.assert_allclose(np.exp(found.scores["noun"][:, 1]), [0.2, 0.6, 0.8])
    assert found.scores["verb"].shape == (3, 97)
    assert found.scores["noun"].shape == (3, 300)


def test_figures_of_a_small_case(tmp_path: Path) -> None:
    """Verbs: right, wrong, wrong. Nouns: all right. Segments 2 (of a tail verb) and 3 (of a tail noun) are unseen."""
    said = windows(P02_01=[(0.9, 0.8)], P18_01=[(0.9, 0.4), (0.2, 0.2)])
    figures = score(read(runs(tmp_path, said), None))
    third = 100 / 3
    assert figures == pytest.approx(
        {
            "all_action_accuracy_at_1": third,
            "all_action_accuracy_at_5": 100,
            "unseen_action_accuracy_at_1": 0,
            "tail_action_accuracy_at_1": 0,
            "all_verb_accuracy_at_1": third,
            "all_verb_accuracy_at_5": 100,
            "unseen_verb_accuracy_at_1": 0,
            "tail_verb_accuracy_at_1": 0,
            "all_noun_accuracy_at_1": 100,
            "all_noun_accuracy_at_5": 100,
            "unseen_noun_accuracy_at_1": 100,
            "tail_noun_accuracy_at_1": 100,
            "segments": 3,
            "segments missing": 0,
        }
    )


def test_tail_action_is_a_tail_verb_or_a_tail_noun() -> None:
    """Three segments, all said to be (0, 0): the first has a tail verb and is right, the second a tail noun, the third neither."""
    about = segments(
        ("a", 0, 1, 0, 0, "test_validation", False, True, False),
        ("a", 1, 2, 1, 0, "test_validation", False, False, True),
        ("a", 2, 3, 0, 0, "test_validation", False, False, False),
    )
    scores = {kind: np.tile(np.linspace(0, -1, classes), (3, 1)) for kind, classes in CLASSES.items()}
    figures = score(Scored(about, scores, 0, {}, about))
    assert figures["tail_action_accuracy_at_1"] == 50
    assert figures["tail_verb_accuracy_at_1"] == 100
    assert figures["all_action_accuracy_at_1"] == pytest.approx(200 / 3)
    assert np.isnan(figures["unseen_action_accuracy_at_1"])  # the evaluator leaves them out


def test_trap_the_evaluator_takes_logits_not_probabilities() -> None:
    """p(v) = .5 .3, p(n) = .1 .02. By the product (v1, n0) .03 is second, before (v0, n1) .01; by the sum it would be (v0, n1) with
    .52 before (v1, n0) with .4. The scores of a run are logarithms, so that sums of them rank by the product."""
    one = pd.DataFrame({"recording": ["a"], "start": [0.0], "end": [1.0]})
    p = {"verb": (0.5, 0.3), "noun": (0.1, 0.02)}
    scores = {}
    for kind, of_kind in p.items():
        said = one.assign(**{f"p(c{number})": [value] for number, value in enumerate(of_kind)})
        scores[kind] = pooled(one, said, {"c0": 0, "c1": 1}, CLASSES[kind])
    assert ranked_actions(scores["verb"], scores["noun"])[0, :3].tolist() == [[0, 0], [1, 0], [0, 1]]
    wrong = ranked_actions(np.exp(scores["verb"]), np.exp(scores["noun"]))
    assert wrong[0, :2].tolist() == [[0, 0], [0, 1]]


def test_actions_are_ranked_as_by_softmax_over_everything_and_an_outer_product() -> None:
    """The evaluator's own lines, on random logits: softmax over all segments and classes together, best 100 pairs."""
    from scipy.special import softmax

    rng = np.random.default_rng(0)
    verb, noun = rng.normal(0, 2, (40, 97)), rng.normal(0, 2, (40, 300))
    pairs = softmax(verb)[:, :, None] * softmax(noun)[:, None]
    best = pairs.reshape(40, -1).argsort(-1)[:, ::-1][:, :5]
    expected = np.stack(np.unravel_index(best, (97, 300)), 2)
    np.testing.assert_array_equal(ranked_actions(verb, noun), expected)


def test_of_equal_scores_the_highest_class_comes_first() -> None:
    assert ranked(np.array([[0.3, 0.1, 0.3, 0.2]])).tolist() == [[2, 0, 3, 1]]


def test_segments_of_which_nothing_is_said_are_counted(tmp_path: Path) -> None:
    found = read(runs(tmp_path, windows(P02_01=[(0.9, 0.8)])), None)
    figures = score(found)
    assert (figures["segments"], figures["segments missing"]) == (1, 2)
    with pytest.raises(UserError, match="no window of the predictions overlaps"):
        read(runs(tmp_path, windows(P77_01=[(0.9, 0.8)])), None)


def test_the_last_moment_of_a_video_is_what_the_window_before_it_is() -> None:
    """A window that would last less than half of the others is left out: a segment in it takes the nearest one's."""
    late = segments(("a", 4.1, 4.6, 0, 0, "test_validation", False, False, False))
    said = windows(a=[(0.9, 0.8), (0.7, 0.6)]).rename(columns={"verb": "p(v0)"})
    assert np.exp(pooled(late, said, {"v0": 0}, 97)[0, 0]) == pytest.approx(0.7)
    assert np.isnan(pooled(late.assign(start=6.5, end=7.0), said, {"v0": 0}, 97)).all()


def test_the_submission_has_all_classes_of_all_challenge_segments(tmp_path: Path) -> None:
    found = read(runs(tmp_path, windows(P02_01=[(0.9, 0.8)], P18_01=[(0.8, 0.6), (0.2, 0.2)])), None)
    assert submission(found, tmp_path) is None
    for kind in CLASSES:
        p = np.array([0.5, 0.25])
        said = windows(P33_01=[(0, 0), (0, 0)])[["recording", "start", "end"]]
        said.assign(**{f"p({kind[0]}0)": p, f"p({kind[0]}1)": 1 - p}).to_parquet(tmp_path / kind / "challenge.parquet")
    path = submission(found, tmp_path)
    assert path is not None
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == ["test.json"]
        content = json.loads(file.read("test.json"))
    assert {name: content[name] for name in ("version", "challenge")} == {
        "version": "0.2",
        "challenge": "action_recognition",
    }
    assert all(content[name] in range(6) for name in ("sls_pt", "sls_tl", "sls_td"))
    assert list(content["results"]) == ["s5", "s6"]
    of_segment = content["results"]["s6"]
    assert list(of_segment["verb"]) == [str(number) for number in range(97)]
    assert list(of_segment["noun"]) == [str(number) for number in range(300)]
    assert of_segment["verb"]["0"] == pytest.approx(np.log((0.5 + 2 * 0.25) / 3), abs=1e-4)
    assert of_segment["noun"]["299"] == pytest.approx(np.log(1e-8), abs=1e-4)
    assert not list(tmp_path.glob(".*"))


def test_a_submission_with_gaps_is_refused(tmp_path: Path) -> None:
    found = read(runs(tmp_path, windows(P02_01=[(0.9, 0.8)])), None)
    for kind in CLASSES:
        said = pd.DataFrame({"recording": ["P33_01"], "start": [5.5], "end": [7.5], f"p({kind[0]}0)": [1.0]})
        said.to_parquet(tmp_path / kind / "challenge.parquet")
    with pytest.raises(UserError, match="nothing is said of 1 of the 2 challenge segments"):
        submission(found, tmp_path)


def test_what_makes_no_figure_is_one_line(tmp_path: Path) -> None:
    both = runs(tmp_path, windows(P02_01=[(0.9, 0.8)]))
    with pytest.raises(UserError, match="give a run of each target, verb and noun; these are of verb"):
        read(both[:1], None)
    with pytest.raises(UserError, match="no class is called 'v0'"):
        pooled(LABELS, both[0].predictions, {"v1": 1}, 97)
    assert numbers(LABELS, "verb") == {"v0": 0, "v1": 1}
    LABELS.drop(columns="unseen").to_parquet(tmp_path / "labels.parquet")
    with pytest.raises(UserError, match="no column unseen"):
        read(both, None)
    (tmp_path / "labels.parquet").unlink()
    with pytest.raises(UserError, match="by --annotations"):
        read(both, None)
