"""MultiMediate's rules, case by case as their public scripts have them, on cases computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, recall_score

from configs import UserError
from data_prep.data_sets.mpii_clips import BEHAVIOURS
from finetune.protocols import Run
from finetune.protocols import multimediate_backchannel as backchannel
from finetune.protocols import multimediate_bodily_behaviour as behaviour
from finetune.protocols import multimediate_engagement as engagement
from finetune.protocols import multimediate_eye_contact as eye_contact
from finetune.protocols import multimediate_next_speaker as next_speaker


def made_run(folder: Path, labels: pd.DataFrame, predictions: pd.DataFrame, target: str, task: str) -> Run:
    """A run that said ``predictions`` of labels, which lie in a file, as a real one's do."""
    folder.mkdir(exist_ok=True)
    labels.to_parquet(folder / "labels.parquet")
    record: dict[str, Any] = {"target": target, "task": task, "labels": str(folder / "labels.parquet")}
    return Run(folder, record, predictions)


# engagement: baseline/5_CreateResulttable.py of hcmlab/MultiMediate26


def test_concordance_by_hand_and_where_nothing_varies() -> None:
    # means 2 and 3, variances 2/3 and 8/3, covariance 4/3: 2 * 4/3 / (2/3 + 8/3 + 1)
    assert engagement.concordance([1, 2, 3], [1, 3, 5]) == pytest.approx((8 / 3) / (13 / 3))  # pyrefly: ignore
    assert engagement.concordance([1, 2, 3], [1, 2, 3]) == pytest.approx(1)
    assert engagement.concordance([1, 2, 3], [2, 2, 2]) == 0  # a constant prediction: 0, not nan
    assert engagement.concordance([2, 2], [3, 3]) == 0
    assert np.isnan(engagement.concordance([2, 2], [2, 2]))  # 0 / 0


def test_lines_without_a_number_are_dropped_file_by_file_and_the_shorter_file_counts(tmp_path: Path) -> None:
    labels, said = tmp_path / "a.annotation.csv", tmp_path / "a.pred.csv"
    labels.write_text("0.1\n\nNaN\n-nan(ind)\n0.2\n0.3\n0.4\n")
    said.write_text("0.5\nwrong\n0.7\n")
    x, y = engagement.read_pair(labels, said)
    # labels are 0.1 0.2 0.3 0.4, predictions 0.5 ? 0.7: cut to three, the pair with ? goes
    np.testing.assert_allclose(x, [0.1, 0.3], rtol=1e-6)
    np.testing.assert_allclose(y, [0.5, 0.7], rtol=1e-6)
    labels.write_bytes("0.5\n\xe4\n0.7\n".encode("latin-1"))
    np.testing.assert_allclose(engagement.read_pair(labels, said)[0], [0.5, 0.7], rtol=1e-6)


def frames(name: str, recording: str, role: str, values: list[float], first: int = 0) -> pd.DataFrame:
    """Labelled frames as the readers write them."""
    frame = first + np.arange(len(values))
    return pd.DataFrame({
        "recording": recording, "participant": f"{recording}.{role}", "start": frame / 25, "end": (frame + 1) / 25,
        "engagement": values, "split": "test_val", "set": name, "session": recording[-3:], "role": role, "frame": frame,
    })  # fmt: skip


def windows(recording: str, role: str, values: list[float], seconds: float = 0.08) -> pd.DataFrame:
    """Predictions for windows, as predictions.csv has them."""
    start = np.arange(len(values)) * seconds
    return pd.DataFrame({
        "recording": recording, "participant": f"{recording}.{role}", "start": start, "end": start + seconds,
        "split": "test_val", "prediction": values,
    })  # fmt: skip


def test_trap_ccc_is_computed_once_over_all_frames_of_a_data_set(tmp_path: Path) -> None:
    """One recording is low and one is high: within each the prediction is inverted, over both it is nearly right."""
    labels = pd.concat(
        [
            frames("NoXi", "noxi-001", "expert", [0.1, 0.1, 0.2, 0.2]),
            frames("NoXi", "noxi-002", "novice", [0.8, 0.8, 0.9, 0.9]),
            frames("NoXi-J", "noxi-j-086", "expert", [0.0, 0.0, 1.0, 1.0]),
        ]
    )
    said = pd.concat(
        [
            windows("noxi-001", "expert", [0.2, 0.1]),
            windows("noxi-002", "novice", [0.9, 0.8]),
            windows("noxi-j-086", "expert", [0.5, 0.5]),
        ]
    )
    found = engagement.score(engagement.read([made_run(tmp_path, labels, said, "engagement", "regression")], None))
    x, y = [0.1, 0.1, 0.2, 0.2, 0.8, 0.8, 0.9, 0.9], [0.2, 0.2, 0.1, 0.1, 0.9, 0.9, 0.8, 0.8]
    pooled = 2 * np.mean((np.array(x) - 0.5) * (np.array(y) - 0.5)) / (np.var(x) + np.var(y))
    assert pooled > 0.9
    assert found["NoXi"] == pytest.approx(pooled, rel=1e-5)
    assert found["NoXi-J"] == 0  # a constant
    assert np.isnan(found["MPIIGI"])
    assert found["mean"] == pytest.approx(pooled / 2, rel=1e-5)  # of the data sets that are there
    assert found["unanswered"] == 0


def test_a_frame_takes_its_window_and_frames_beyond_take_the_last() -> None:
    said = pd.DataFrame({"start": [0.0, 1.0, 4.0], "prediction": [1.0, 2.0, 3.0]})
    times = np.array([-0.5, 0.0, 0.99, 1.0, 3.9, 4.0, 99.0])
    assert engagement.at_frames(times, said).tolist() == [1, 1, 1, 2, 2, 3, 3]
    assert np.isnan(engagement.at_frames(times, None)).all()


def test_frames_without_a_label_and_people_without_a_prediction(tmp_path: Path) -> None:
    labels = pd.concat([frames("NoXi", "noxi-001", role, [0.2, 0.4, 0.9]) for role in ("expert", "novice")])
    labels = labels[~((labels["role"] == "expert") & (labels["frame"] == 1))]
    other = labels.assign(split="train", recording="noxi-009", participant="noxi-009.expert")
    run = made_run(
        tmp_path, pd.concat([labels, other]), windows("noxi-001", "expert", [0.1, 0.7]), "engagement", "regression"
    )
    found = engagement.read([run], None)
    expert = found[found["role"] == "expert"]
    assert expert[["frame", "prediction"]].to_numpy().tolist() == [[0, 0.1], [2, 0.7]]
    figures = engagement.score(found)
    assert figures["unanswered"] == 1
    assert figures["NoXi"] == pytest.approx(engagement.concordance([0.2, 0.9], [0.1, 0.7]))  # pyrefly: ignore
    assert "noxi-009" not in set(found["recording"])
    folder = engagement.submission(found, tmp_path / "out")
    written = folder / "noxi-base" / "001" / "expert.engagement.pred.csv"
    assert written.read_text() == "0.100000\nnan\n0.700000\n"
    assert not (folder / "noxi-base" / "001" / "novice.engagement.pred.csv").exists()
    # through the organisers' rule the file gives the same pairs as ours
    (tmp_path / "label.csv").write_text("0.2\nnan\n0.9\n")
    x, y = engagement.read_pair(tmp_path / "label.csv", written)
    np.testing.assert_allclose(np.stack([x, y]), [[0.2, 0.9], [0.1, 0.7]], rtol=1e-6)


# bodily behaviour: the mean of 14 average precisions


def clips(truth: np.ndarray, said: np.ndarray) -> behaviour.Clips:
    index = [f"{number:05d}" for number in range(len(truth))]
    return behaviour.Clips(*(pd.DataFrame(part, index, list(BEHAVIOURS)) for part in (truth, said)))


def test_average_precision_by_hand_and_a_behaviour_without_positives_counts_one() -> None:
    truth, said = np.zeros((4, 14), int), np.tile([[0.9], [0.8], [0.7], [0.6]], (1, 14))
    truth[:, 0] = [1, 0, 1, 0]  # precision 1 at the first, 2/3 at the third
    truth[:, 1] = [0, 0, 0, 1]  # 1/4 at the last
    found = behaviour.score(clips(truth, said))
    assert found["Settle"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["Legs crossed"] == pytest.approx(1 / 4)
    assert found["Groom"] == 1.0
    assert found["mean AP"] == pytest.approx((5 / 6 + 1 / 4 + 12) / 14)


def test_average_precision_is_scikit_learns_with_ties() -> None:
    rng = np.random.default_rng(0)
    truth, said = rng.integers(0, 2, (50, 14)), rng.integers(0, 5, (50, 14)) / 4
    found = behaviour.score(clips(truth, said))
    expected = [average_precision_score(truth[:, k], said[:, k]) for k in range(14)]
    assert found["mean AP"] == pytest.approx(np.mean(expected))


def test_truth_and_predictions_are_of_the_same_clips(tmp_path: Path) -> None:
    names, target = list(BEHAVIOURS), ",".join(reversed(BEHAVIOURS))
    labels = pd.DataFrame(np.eye(3, 14, dtype=int), columns=names)
    labels = labels.assign(recording=["val-3", "val-1", "val-2"], split="test_val", sample_id=["3", "1", "2"])
    said = pd.DataFrame({"recording": ["val-1", "val-2", "val-3"], "split": "test_val"})
    said = said.assign(**{f"p({name})": [0.1, 0.2, 0.3] for name in names[1:]})  # of Settle the run knows nothing
    run = made_run(tmp_path, labels, said, target, "multi-label")
    read = behaviour.read([run], None)
    assert read.truth.index.tolist() == read.said.index.tolist() == ["1", "2", "3"]
    assert read.said["Groom"].tolist() == [0.1, 0.2, 0.3]
    assert read.said["Settle"].tolist() == [0, 0, 0]
    assert read.truth.loc["3"].tolist() == [1] + 13 * [0]
    file = behaviour.submission(read, tmp_path)
    assert file.read_text().splitlines()[0] == "sample_id," + ",".join(BEHAVIOURS)
    with pytest.raises(UserError, match="no prediction of 1 of 3 clips"):
        behaviour.read([made_run(tmp_path, labels, said[:2], target, "multi-label")], None)
    with pytest.raises(UserError, match="of the 14 behaviours"):
        behaviour.read([made_run(tmp_path, labels, said, "Settle,Groom", "multi-label")], None)
    with pytest.raises(UserError, match="different clips"):
        behaviour.score(behaviour.Clips(read.truth, read.said.iloc[::-1]))


# samples of lists: run.py of hcmlab/multimediate-participants


def sample_rows(target: str, rows: list[tuple[str, str, int, float, object]]) -> pd.DataFrame:
    """index, recording, seat, start, label -> labels as the reader writes them."""
    table = pd.DataFrame(rows, columns=["index", "recording", "number", "start", target])
    seat = "subjectPos" + table["number"].astype(str)
    table = table.assign(seat=seat, participant=table["recording"].str.split(".").str[0] + "." + seat)
    return table.assign(end=table["start"] + 10, split="test_val")


def said_of(labels: pd.DataFrame, values: list[str]) -> pd.DataFrame:
    return labels[["recording", "participant", "start", "end", "split"]].assign(prediction=values)


def test_eye_contact_is_accuracy_over_all_samples(tmp_path: Path) -> None:
    rows = [
        ("0", "r09", 2, 0.0, "0"),
        ("1", "r09", 3, 0.0, "2"),
        ("2", "r09.2", 2, 5.34567891, "4"),
        ("3", "r09", 2, 10.0, "1"),
    ]
    labels = sample_rows("eye_contact", rows)  # pyrefly: ignore[bad-argument-type]
    said = said_of(labels[:3], ["0", "3", "4"])
    said["start"] = said["start"].round(6)  # as clips have them
    said["end"] -= 0.3  # the recording ends before the window does
    run = made_run(tmp_path, labels, said, "eye_contact", "classification")
    found = eye_contact.read([run], None)
    assert eye_contact.score(found) == {"accuracy": 0.5, "unanswered": 1}  # two of four; the last was not read
    file = eye_contact.submission(found, tmp_path)
    assert file.read_text() == "index,prediction\n0,0\n1,3\n2,4\n3,0\n"
    with pytest.raises(UserError, match="its target is gaze"):
        eye_contact.read([made_run(tmp_path, labels, said, "gaze", "classification")], None)
    with pytest.raises(UserError, match="takes one run"):
        eye_contact.read([run, run], None)
    with pytest.raises(UserError, match="needs --task classification"):
        eye_contact.read([made_run(tmp_path, labels, said, "eye_contact", "regression")], None)


def test_next_speaker_pools_all_seats_and_averages_two_recalls(tmp_path: Path) -> None:
    labels = sample_rows(
        "next_speaker",
        [("0", "r07", seat, 0.0, label) for seat, label in zip((1, 2, 3, 4), "1000", strict=True)]
        + [("1", "r07", seat, 10.0, label) for seat, label in zip((1, 2, 3, 4), "0101", strict=True)],
    )
    seats = labels[labels["number"] != 3]  # nobody sits there: no prediction
    run = made_run(tmp_path, labels, said_of(seats, list("110011")), "next_speaker", "classification")
    found = next_speaker.read([run], None)
    # 1: two of three found ... sample 0: 1 1 - 0, sample 1: 0 1 - 1; labels 1 0 0 0, 0 1 0 1
    assert next_speaker.score(found) == {"uar": pytest.approx((3 / 3 + 4 / 5) / 2), "unanswered": 2}
    assert next_speaker.score(found)["uar"] == pytest.approx(
        recall_score([1, 0, 0, 0, 0, 1, 0, 1], [1, 1, 0, 0, 0, 1, 0, 1], average="macro")
    )
    file = next_speaker.submission(found, tmp_path)
    header = "index,prediction_1,prediction_2,prediction_3,prediction_4"
    assert file.read_text() == f"{header}\n0,1,1,0,0\n1,0,1,0,1\n"


def test_next_speaker_is_no_mean_over_seats(tmp_path: Path) -> None:
    """Seat 1 always speaks and is found, seat 2 never and is not: seat by seat that is 1 and 0, pooled it is 1 and 0.5."""
    labels = sample_rows(
        "next_speaker", [(str(k), "r07", seat, 10.0 * k, str(int(seat == 1))) for k in (0, 1) for seat in (1, 2, 3)]
    )
    run = made_run(tmp_path, labels, said_of(labels, list("110110")), "next_speaker", "classification")
    assert next_speaker.score(next_speaker.read([run], None))["uar"] == pytest.approx((1 + 0.5) / 2)


def test_backchannel_says_that_its_rule_is_not_confirmed(tmp_path: Path) -> None:
    labels = sample_rows("backchannel", [(str(k), "r07", 1, 10.0 * k, label) for k, label in enumerate("00010")])
    run = made_run(tmp_path, labels, said_of(labels[:4], list("0101")), "backchannel", "classification")
    # label 0: two of four said (one not read), label 1: one of one
    expected = {"accuracy": 3 / 5, "uar": pytest.approx((2 / 4 + 1) / 2), "unanswered": 1}
    assert backchannel.score(backchannel.read([run], None)) == expected
    assert "not confirmed" in backchannel.RULE


def test_labels_of_numbers_and_folds(tmp_path: Path) -> None:
    """A label that a table holds as 2.0 is class 2; where folds were reported, the samples of their recordings count."""
    labels = sample_rows(
        "eye_contact", [("0", "r07", 1, 0.0, 2.0), ("1", "r11", 1, 0.0, 3.0), ("2", "r12", 1, 0.0, 3.0)]
    )
    said = said_of(labels[:2], ["2", "2"]).assign(split=["fold 0", "fold 1"])
    run = made_run(tmp_path, labels, said, "eye_contact", "classification")
    assert eye_contact.score(eye_contact.read([run], None)) == {"accuracy": 0.5, "unanswered": 0}
    (tmp_path / "labels.parquet").unlink()
    run.record["labels"] = str(tmp_path / "other.parquet")
    with pytest.raises(UserError, match=r"other\.parquet: no such file"):
        eye_contact.read([run], None)
