"""EPIC-KITCHENS-100 action recognition: top-1 and top-5 accuracy of verb, noun and action over segments, and the file that
the challenge's server takes; by the authors' evaluator (epic-kitchens/C1-Action-Recognition: evaluate.py, utils/metrics.py,
utils/scoring.py).

Two runs, of the targets ``verb`` and ``noun``. They predict for windows of time; what is said of the windows that a segment
overlaps is averaged, weighted by the overlap, and its logarithm is the score: the evaluator takes logits, and ranks actions by
the sum of verb's and noun's. (Of probabilities it would rank them by p(verb) + p(noun), not by the product.)
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from configs import UserError
from data_prep.data_sets.epic_kitchens import CLASSES, read_segments
from finetune.labels import read_table
from finetune.protocols import Run
from finetune.protocols.rivals import Rival
from finetune.report_record import probabilities

RULE = (
    "Accuracy over action segments in per cent; an action is right where verb and noun are. Actions are ranked by the sum of "
    "the logarithms of verb's and noun's probability, each averaged over the windows that a segment overlaps. unseen: segments "
    "of participants who are not in train; tail: of rare verbs, of rare nouns, and for actions of either."
)
ACTION = "all_action_accuracy_at_1"
RIVALS = (
    Rival(
        "ViViT, single model",
        ACTION,
        47.4,
        "arXiv 2106.05058",
        "With test_validation, where no segment is missing: the same segments and the same rule, trained whole on the train part.",
        split="validation",
    ),
    Rival(
        "GSF + XViT, ensemble, RGB",
        ACTION,
        44.82,
        "arXiv 2110.02902",
        "With no figure here: labels of the challenge's test are not public, the server tells the figure of a submission.",
        split="test",
    ),
)
CHALLENGE = "test"
"""The split whose labels are not public."""
CHALLENGE_FILE = "challenge.parquet"
"""What ``finetune predict RUN MANIFEST --out RUN/challenge.parquet`` said of its videos."""
SMALLEST = 1e-8
"""Probability of what is never said: JSON knows no infinity."""
SUPERVISION = {"sls_pt": 4, "sls_tl": 3, "sls_td": 3}
"""What a submission declares (epic-kitchens/sls): self-supervised on public data and on EPIC; times of segments; train alone."""
TOP = 5
NEAR = 2.0
"""Seconds from a segment to a window that may stand for it."""


@dataclass
class Scored:
    """Segments [segment, ...], and their scores by "verb" and "noun": float64 [segment, class], in the order of ``segments``.

    missing: how many segments of the same part nothing was said of. folders: the runs by target. labels: all segments.
    """

    segments: pd.DataFrame
    scores: dict[str, np.ndarray]
    missing: int
    folders: dict[str, Path]
    labels: pd.DataFrame


def read(runs: Sequence[Run], annotations: Path | None) -> Scored:
    """What the runs say of the segments of their test set. Raises UserError unless there is one of verb and one of noun.

    annotations: folder of the authors' lists; None = the labels that the runs were trained on.
    """
    by_target = {run.target: run for run in runs}
    if set(by_target) != set(CLASSES):
        raise UserError(
            f"epic-kitchens: give a run of each target, {' and '.join(CLASSES)}; these are of {', '.join(by_target)}"
        )
    labels = _labels(runs[0], annotations)
    said = {kind: run.predictions for kind, run in by_target.items()}
    official = labels["split"].isin(set(said["verb"]["split"]))
    asked = labels[official if official.any() else labels["recording"].isin(said["verb"]["recording"])]
    scores = {kind: pooled(asked, said[kind], numbers(labels, kind), CLASSES[kind]) for kind in CLASSES}
    there = np.isfinite(np.concatenate(list(scores.values()), axis=1)).all(1)
    if not there.any():
        raise UserError("epic-kitchens: no window of the predictions overlaps a segment")
    folders = {kind: run.folder for kind, run in by_target.items()}
    scores = {kind: of_kind[there] for kind, of_kind in scores.items()}
    kept = asked.iloc[np.flatnonzero(there)].reset_index(drop=True)
    return Scored(kept, scores, int((~there).sum()), folders, labels)


def _labels(run: Run, annotations: Path | None) -> pd.DataFrame:
    """All segments, as ``manifest epic-kitchens`` writes them. Raises UserError."""
    if annotations is not None:
        return read_segments(annotations)
    path = Path(run.record["labels"])
    if not path.is_file():
        raise UserError(
            f"{run.folder} was trained on {path}, which is not there: name the lists' folder by --annotations"
        )
    labels = read_table(path)
    needed = {"narration_id", "split", "unseen"} | {f"{part}{kind}" for kind in CLASSES for part in ("", "tail_")}
    if missing := sorted(needed - set(labels)):
        raise UserError(
            f"{path}: no column {missing[0]}: labels of manifest epic-kitchens, or --annotations, are needed"
        )
    return labels


def numbers(labels: pd.DataFrame, kind: str) -> dict[str, int]:
    """A class's number by its name."""
    known = labels[[kind, f"{kind}_class"]].dropna().drop_duplicates()
    return dict(zip(known[kind], known[f"{kind}_class"].astype(int), strict=True))


def pooled(segments: pd.DataFrame, windows: pd.DataFrame, number: dict[str, int], classes: int) -> np.ndarray:
    """Scores float64 [segment, class]: the logarithm of the probabilities of windows, averaged by their overlap; of a segment
    that no window overlaps (the last moment of a video) the nearest one's, nan where none is near.

    windows: recording, start, end (seconds), p(CLASS). Raises UserError for a class without a number.
    """
    given = probabilities(windows)
    names = [str(name) for name in given]
    if strange := [name for name in names if name not in number]:
        raise UserError(f"epic-kitchens: no class is called {strange[0]!r}; was the run trained on other labels?")
    p = np.zeros((len(windows), classes))
    p[:, [number[name] for name in names]] = given.to_numpy()
    found = np.full((len(segments), classes), np.nan)
    rows_of = windows.groupby("recording").indices
    start, end = (windows[name].to_numpy(float) for name in ("start", "end"))
    about = segments[["recording", "start", "end"]].itertuples(index=False)
    for row, (recording, begins, ends) in enumerate(about):
        rows = rows_of.get(recording, np.empty(0, np.int64))
        overlap = np.minimum(end[rows], ends) - np.maximum(start[rows], begins)
        weights = np.maximum(overlap, 0)
        if len(rows) and not weights.any() and overlap.max() > -NEAR:
            weights = overlap == overlap.max()
        if weights.any():
            found[row] = np.log(np.maximum(np.average(p[rows], axis=0, weights=weights), SMALLEST))
    return found


def ranked(scores: np.ndarray) -> np.ndarray:
    """Classes [segment, rank] from the highest score down; of equal ones the highest number first, as numpy's argsort reversed."""
    return np.argsort(scores, axis=1, kind="stable")[:, ::-1]


def ranked_actions(verb: np.ndarray, noun: np.ndarray) -> np.ndarray:
    """(verb, noun) [segment, TOP, 2] of the pairs with the highest sums of scores.

    The evaluator multiplies softmaxes that run over all segments and classes together: within a segment that ranks by the sum. It
    looks at the 100 best of each; the five best pairs are among the five best of each.
    """
    best = [ranked(scores)[:, :TOP] for scores in (verb, noun)]
    values = [np.take_along_axis(scores, of, 1) for scores, of in zip((verb, noun), best, strict=True)]
    sums = (values[0][:, :, None] + values[1][:, None]).reshape(len(verb), -1)
    which = ranked(sums)[:, :TOP]
    pair = np.unravel_index(which, (TOP, TOP))
    return np.stack([np.take_along_axis(of, part, 1) for of, part in zip(best, pair, strict=True)], 2)


def score(found: Scored) -> dict[str, float]:
    """The evaluator's figures by its names, in per cent (nan where there is no such segment); of how many segments they are."""
    truth = found.segments[[f"{kind}_class" for kind in CLASSES]].to_numpy(np.int64)
    right = {
        kind: ranked(found.scores[kind])[:, :TOP] == truth[:, [number]] for number, kind in enumerate(found.scores)
    }
    right["action"] = (ranked_actions(found.scores["verb"], found.scores["noun"]) == truth[:, None]).all(2)
    tail = {kind: found.segments[f"tail_{kind}"].to_numpy(bool) for kind in CLASSES}
    tail["action"] = tail["verb"] | tail["noun"]
    unseen = found.segments["unseen"].to_numpy(bool)
    figures = {}
    for kind in ("action", "verb", "noun"):
        for top in (1, TOP):
            figures[f"all_{kind}_accuracy_at_{top}"] = _share(right[kind][:, :top].any(1))
        figures[f"unseen_{kind}_accuracy_at_1"] = _share(right[kind][unseen, 0])
        figures[f"tail_{kind}_accuracy_at_1"] = _share(right[kind][tail[kind], 0])
    return figures | {"segments": float(len(truth)), "segments missing": float(found.missing)}


def _share(right: np.ndarray) -> float:
    return 100 * float(right.mean()) if len(right) else float("nan")


def submission(found: Scored, folder: Path) -> Path | None:
    """Writes submission.zip with the scores of every challenge segment, out of what ``predict`` wrote into the runs' folders;
    None, with a line, where it is not there. Raises UserError where a segment has no prediction: the server takes all or none."""
    files = {kind: run / CHALLENGE_FILE for kind, run in found.folders.items()}
    if missing := [file for file in files.values() if not file.is_file()]:
        print(f"no submission: kinesic finetune predict {missing[0].parent} MANIFEST --out {missing[0]} comes first")
        return None
    asked = found.labels[found.labels["split"] == CHALLENGE].reset_index(drop=True)
    scores = {}
    for kind, file in files.items():
        scores[kind] = pooled(asked, read_table(file), numbers(found.labels, kind), CLASSES[kind])
        if lacking := int(np.isnan(scores[kind]).any(1).sum()):
            raise UserError(f"{file}: nothing is said of {lacking} of the {len(asked)} challenge segments")
    results = {
        name: {kind: {str(c): round(float(s), 4) for c, s in enumerate(of[row])} for kind, of in scores.items()}
        for row, name in enumerate(asked["narration_id"])
    }
    content = {"version": "0.2", "challenge": "action_recognition", **SUPERVISION, "results": results}
    path = folder / "submission.zip"
    temporary = folder / ".submission.tmp.zip"
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("test.json", json.dumps(content))
    temporary.replace(path)
    print(f"{path} declares {SUPERVISION}: correct that in its test.json where it is not so (epic-kitchens/sls)")
    return path
