"""``kinesic finetune multiview SET MANIFEST LABELS --encoder CKPT``: does our port give a published VideoMAE's own figures?

The checkpoint's own head reads what our encoder makes of the views that VideoMAE's table is made of (views.py); probabilities
are averaged over the views of a video. Nothing is trained.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from configs import UserError, write_run_record
from data_prep.data_sets.kinetics import convention
from data_prep.decode import UnreadableError
from data_prep.manifest import read_manifest
from data_prep.report import write
from finetune.data import open_encoder
from finetune.labels import read_table
from finetune.protocols import Run
from finetune.protocols.video_classes import TARGET
from finetune.score import PAGE, TABLE, markdown, page, scores
from finetune.score_config import MultiviewConfig
from finetune.views import Sampling, views
from pretrain.encoder import Encoder
from pretrain.tokens import IMAGE_MEAN, IMAGE_STD
from pretrain.weights import is_videomae, read_head

SAMPLING: dict[str, tuple[Sampling, int]] = {"kinetics": ("dense", 5), "ssv2": ("uniform", 2)}
"""Of each set how frames are chosen, and how many segments."""


class Classifier(nn.Module):
    """An encoder with the norm and the head that a published checkpoint has. names: of the classes, where it tells them."""

    def __init__(self, encoder: Encoder, head: dict[str, Tensor], eps: float, names: list[str]):
        super().__init__()
        classes, dim = head["head.weight"].shape
        self.encoder, self.names = encoder, names
        self.head = nn.Linear(dim, classes)
        self.norm = nn.LayerNorm(dim, eps=eps) if "norm.weight" in head else None
        missing, unexpected = self.load_state_dict(head, strict=False)
        assert not unexpected
        assert all(name.startswith("encoder.") for name in missing)

    def forward(self, frames: Tensor) -> Tensor:
        """frames [view, frame, 3, height, width], normalised as VideoMAE does -> logits [view, class]"""
        tokens = self.encoder.encode(video=frames).tokens
        return self.head(tokens[:, 0] if self.norm is None else self.norm(tokens.mean(1)))

    @torch.inference_mode()
    def probabilities(self, pictures: Tensor) -> np.ndarray:
        """uint8 [view, frame, 3, height, width] -> [class], the mean of the views' softmax."""
        device, dtype = self.head.weight.device, self.head.weight.dtype
        mean, std = (
            torch.tensor(values, device=device, dtype=dtype)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD)
        )
        logits = self((pictures.to(device).to(dtype) / 255 - mean) / std)
        return logits.softmax(1).mean(0).cpu().numpy()


def load_classifier(path: Path, device: str) -> Classifier:
    """A published fine-tuned VideoMAE. Raises UserError for anything else."""
    if not is_videomae(path):
        raise UserError(
            f"--encoder {path}: no VideoMAE: a Hugging Face folder or a file of weights with its head is needed"
        )
    encoder = open_encoder(path, device)
    return Classifier(encoder, *read_head(path)).to(encoder.device).eval()


class Videos(Dataset[tuple[int, Tensor | str]]):
    """The views of videos: (number, uint8 [view, frame, 3, side, side]), or in their place why there are none."""

    def __init__(self, paths: list[Path], config: MultiviewConfig, length: int, side: int):
        self.paths, self.crops, self.length, self.side = paths, config.crops, length, side
        self.sampling, segments = SAMPLING[config.set]
        self.segments = config.segments or segments

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        try:
            return index, views(self.paths[index], self.sampling, self.length, self.segments, self.crops, self.side)
        except UnreadableError as error:
            return index, f"{self.paths[index]}: {error.args[0]}; left out"


def multiview(config: MultiviewConfig) -> int:
    """Writes predictions.csv, scores.csv, score.html; 3 where a video could not be read. Raises UserError."""
    classifier = load_classifier(config.encoder, config.device)
    about = classifier.encoder.config
    if about.image_height != about.image_width:
        raise UserError(
            f"--encoder {config.encoder}: reads {about.image_height} x {about.image_width}; views are squares"
        )
    videos = asked(config)
    names, number = class_names(classifier, videos, config.labels)
    write_run_record(config.out, config, seed=0)
    loader = DataLoader(
        Videos([Path(path) for path in videos["path"]], config, about.segment_frames, about.image_height),
        batch_size=None,
        num_workers=config.workers,
        multiprocessing_context="spawn" if config.workers else None,
    )
    rows, failed = [], 0
    for row, pictures in track(loader, "videos", total=len(videos)):
        if isinstance(pictures, str):
            print(pictures)
            failed += 1
            continue
        recording, label = videos["recording"].iloc[row], names[number[row]]
        p = classifier.probabilities(pictures)
        rows.append((recording, config.split, 0, label, names[int(p.argmax())], *p.astype(np.float64).round(6)))
    if not rows:
        raise UserError(f"{config.manifest}: not one of {len(videos)} videos could be read")
    columns = ["recording", "split", "seed", "target", "prediction", *(f"p({name})" for name in names)]
    predictions = pd.DataFrame(rows, columns=columns)
    write(config.out / "predictions.csv", predictions.to_csv(index=False).encode())
    report(config, predictions, failed)
    return 3 if failed else 0


def report(config: MultiviewConfig, predictions: pd.DataFrame, failed: int) -> None:
    """The same table and page as ``finetune score`` has."""
    segments = config.segments or SAMPLING[config.set][1]
    notes = [f"{failed} of {failed + len(predictions)} videos could not be read and are not counted."] if failed else []
    record = {
        "target": TARGET,
        "task": "classification",
        "method": f"{config.encoder.name}, {segments} x {config.crops} views",
        "tests_sha256": {config.split: ""},
        "seeds": 1,
        "notes": notes,
    }
    runs = [Run(config.out, record, predictions)]
    protocol = importlib.import_module(f"finetune.protocols.{config.set}")
    table = scores(protocol, runs, None)
    write(config.out / TABLE, table.to_csv(index=False).encode())
    write(config.out / PAGE, page(config.set, protocol, runs, table).encode())
    print("\n".join([markdown(config.set, protocol, table), *notes]))
    print(f"{config.out / PAGE}: open it in a browser; {config.out / TABLE}: the same figures")


def asked(config: MultiviewConfig) -> pd.DataFrame:
    """The labelled videos of the split: recording, path, action, class_number. Raises UserError where there is none."""
    recordings, failures = read_manifest(config.manifest)
    for failure in failures:
        print(f"{failure.recording} {failure.path}: {failure.reason}; {failure.remedy}")
    of_split = [recording for recording in recordings if recording.split == config.split]
    paths = [(r.name, str(r.views[0].sources[0].path)) for r in of_split]
    labels = read_table(config.labels)
    if missing := {"recording", TARGET, "class_number"} - set(labels):
        raise UserError(f"{config.labels}: no column {min(missing)}: the labels of manifest {config.set} are needed")
    videos = pd.DataFrame(paths, columns=["recording", "path"]).merge(labels, on="recording")
    if videos.empty:
        raise UserError(f"{config.manifest}: no recording of split {config.split!r} that {config.labels} labels")
    return videos


def class_names(classifier: Classifier, videos: pd.DataFrame, labels: Path) -> tuple[list[str], np.ndarray]:
    """The names of the checkpoint's classes, and the number of each video's class, int [video]: by the checkpoint's names where
    it has them, else by the labels' numbers. Raises UserError where a class is not one of the checkpoint's."""
    if classifier.names:
        number_of = {convention(name): number for number, name in enumerate(classifier.names)}
        unknown = sorted({name for name in videos[TARGET] if convention(name) not in number_of})
        if unknown:
            raise UserError(
                f"{labels}: {len(unknown)} classes that the checkpoint does not have, {unknown[0]!r} the first"
            )
        print("classes: by the names that the checkpoint has")
        return classifier.names, videos[TARGET].map(convention).map(number_of).to_numpy(np.int64)
    number = videos["class_number"].to_numpy(float)
    classes = classifier.head.out_features
    if not ((number >= 0) & (number < classes)).all():
        raise UserError(
            f"{labels}: class_number {np.nanmax(number):g}, or none, but the checkpoint has {classes} classes"
        )
    print("classes: by class_number, as the checkpoint names none")
    known = dict(zip(number.astype(int), videos[TARGET], strict=True))
    return [known.get(one, f"class {one}") for one in range(classes)], number.astype(np.int64)
