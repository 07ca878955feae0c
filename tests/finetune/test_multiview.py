"""``finetune multiview``: a published fine-tuned VideoMAE on the views of its own table gives what transformers gives."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification
from videomae_for_tests import difference, original_finetuned, redraw

from configs import UserError
from finetune.__main__ import main
from finetune.multiview import load_classifier
from finetune.views import chosen_frames, cropped, scaled, views
from pretrain.tokens import IMAGE_MEAN, IMAGE_STD
from tests.data_sets.moving_pictures import write_stretches

SIDE = 32
SIZES = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 320}
CLASSES = ("abseiling", "playing bass guitar", "shooting goal (soccer)", "zumba", "yoga", "yawning")


def published(names: bool = True, **changes) -> VideoMAEForVideoClassification:
    """A model of transformers, every parameter redrawn."""
    labels = {"id2label": dict(enumerate(CLASSES))} if names else {"num_labels": len(CLASSES)}
    model = VideoMAEForVideoClassification(VideoMAEConfig(**{**SIZES, "image_size": SIDE, **labels, **changes})).eval()
    redraw(model)
    return model


def save_original(model: VideoMAEForVideoClassification, file: Path) -> None:
    """As VideoMAE's repository saves it, whose norms all have an epsilon of 1e-6."""
    model.fc_norm.eps = 1e-6
    arguments = argparse.Namespace(input_size=SIDE, num_frames=16, num_segments=1)
    torch.save({"model": original_finetuned(model), "args": arguments}, file)


@pytest.mark.parametrize("mean_pooling", [True, False])
def test_head_and_all_of_a_hugging_face_folder(mean_pooling: bool, tmp_path: Path) -> None:
    model = published(use_mean_pooling=mean_pooling)
    model.save_pretrained(tmp_path / "hub")
    ours = load_classifier(tmp_path / "hub", "cpu")
    assert ours.names == list(CLASSES)
    same_logits(ours, model)


def test_head_and_all_of_an_original_checkpoint(tmp_path: Path) -> None:
    model = published(layer_norm_eps=1e-6)
    save_original(model, tmp_path / "checkpoint.pth")
    ours = load_classifier(tmp_path / "checkpoint.pth", "cpu")
    assert ours.names == []
    same_logits(ours, model)


def same_logits(ours: torch.nn.Module, model: VideoMAEForVideoClassification) -> None:
    frames = torch.randn(2, 16, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert difference(ours.float()(frames.float()), model.float()(frames.float()).logits) <= 1e-5
        assert difference(ours.double()(frames), model.double()(frames).logits) <= 1e-9


def test_probabilities_of_views_are_averaged_not_their_logits(tmp_path: Path) -> None:
    model = published()
    model.save_pretrained(tmp_path / "hub")
    generator = torch.Generator().manual_seed(2)
    levels = torch.randint(0, 256, (3, 1, 1, 1, 1), generator=generator)
    noise = torch.randn(3, 16, 3, SIDE, SIDE, generator=generator)
    pictures = (levels + 40 * noise).clamp(0, 255).to(torch.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
    with torch.no_grad():
        logits = model((pictures / 255 - mean) / std).logits
    expected = logits.softmax(1).mean(0)
    assert (expected - logits.mean(0).softmax(0)).abs().max() > 1e-3
    np.testing.assert_allclose(load_classifier(tmp_path / "hub", "cpu").probabilities(pictures), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("frames", "starts"),
    [
        (300, [0, 14, 29, 44, 59]),  # 75 strided frames: int(k * 59 / 4)
        (64, [0, 0, 0, 0, 0]),
        (68, [0, 0, 0, 0, 1]),
    ],
)
def test_dense_segments(frames: int, starts: list[int]) -> None:
    expected = [[4 * (start + number) for number in range(16)] for start in starts]
    assert chosen_frames("dense", frames, 16, 5) == expected


def test_a_short_video_repeats_its_last_strided_frame() -> None:
    assert chosen_frames("dense", 10, 16, 5) == [[0, 4, *[8] * 14]] * 5


@pytest.mark.parametrize("frames", [1, 5, 16, 37, 48, 117])
def test_uniform_segments_are_the_two_halves_of_videomaes_list(frames: int) -> None:
    """Its own lines: middles and beginnings in one sorted list, of which each segment takes every second."""
    tick = frames / 16.0
    both = [int(tick / 2.0 + tick * x) for x in range(16)] + [int(tick * x) for x in range(16)]
    both = sorted(both)
    assert chosen_frames("uniform", frames, 16, 2) == [both[0::2], both[1::2]]
    assert max(both) < frames


def test_crops_lie_along_the_longer_side() -> None:
    wide = torch.arange(57).expand(1, 3, 32, 57)
    assert [int(crop[0, 0, 0, 0]) for crop in cropped(wide, 3, 32)] == [0, 12, 25]
    assert [int(crop[0, 0, 0, 0]) for crop in cropped(wide.mT, 3, 32)] == [0, 12, 25]
    assert [int(crop[0, 0, 0, 0]) for crop in cropped(wide, 1, 32)] == [12]
    assert all(crop.shape == (1, 3, 32, 32) for crop in cropped(wide.mT, 3, 32))


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (20, 33), (32, 40)])
def test_scaled_as_opencv_does(height: int, width: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    ours = scaled(picture, SIDE).permute(1, 2, 0).numpy().astype(int)
    size = (int(SIDE * width / height), SIDE) if width > height else (SIDE, int(SIDE * height / width))
    theirs = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR).astype(int)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1


def by_videomae(path: Path, dense: bool) -> torch.Tensor:
    """float32 [view, frame, 3, side, side], normalised: VideoMAE's loader, line by line, with PyAV in the place of decord."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    if dense:
        index = list(range(0, len(frames), 4))
        while len(index) < 16:
            index.append(index[-1])
    else:
        tick = len(frames) / 16.0
        index = sorted([int(tick / 2 + tick * x) for x in range(16)] + [int(tick * x) for x in range(16)])
    height, width = frames[0].shape[:2]
    size = (int(SIDE * width / height), SIDE) if height <= width else (SIDE, int(SIDE * height / width))
    buffer = np.stack([cv2.resize(frames[number], size, interpolation=cv2.INTER_LINEAR) for number in index])
    found = []
    for chunk in range(5 if dense else 2):
        for split in range(3):
            spatial = int(split * (max(buffer.shape[1:3]) - SIDE) / 2)
            if dense:
                start = int(chunk * max((len(buffer) - 16) / 4, 0))
                part = buffer[start : start + 16]
            else:
                part = buffer[chunk::2]
            part = part[:, spatial : spatial + SIDE] if height >= width else part[:, :, spatial : spatial + SIDE]
            found.append((part / 255 - np.array(IMAGE_MEAN)) / np.array(IMAGE_STD))
    return torch.from_numpy(np.stack(found)).permute(0, 1, 4, 2, 3).float()


@pytest.mark.parametrize("size", [(64, 48), (48, 64)])
@pytest.mark.parametrize("dense", [True, False])
def test_views_are_those_of_videomaes_loader(dense: bool, size: tuple[int, int], tmp_path: Path) -> None:
    path = write_stretches(tmp_path / "v.mp4", 12.0, [(0, 5, 60, True), (5, 12, 180, True)], size=size)
    segments = 5 if dense else 2
    ours = views(path, "dense" if dense else "uniform", 16, segments, 3, SIDE).float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
    theirs = by_videomae(path, dense)
    assert theirs.shape == (3 * segments, 16, 3, SIDE, SIDE)
    assert ((ours - mean) / std - theirs).abs().max() < 1.01 / 255 / min(IMAGE_STD)
    assert (theirs[0] - theirs[-1]).abs().max() > 1  # the views differ


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Six videos, manifest.csv and labels.parquet as ``manifest kinetics`` writes them. Returns the folder."""
    rows, labels = [], []
    for number, name in enumerate(CLASSES):
        look = [(0.0, 12.0, 20 + 35 * number, number % 2 == 0)]
        write_stretches(tmp_path / f"{name}.mp4", 12.0, look)
        rows.append(
            {"path": f"{name}.mp4", "recording": f"r{number}", "split": "test_validation" if number else "train"}
        )
        labels.append((f"r{number}", name, number))
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    pd.DataFrame(labels, columns=["recording", "action", "class_number"]).to_parquet(tmp_path / "labels.parquet")
    return tmp_path


def run(folder: Path, checkpoint: Path, *more: str, out: str = "out", set_: str = "kinetics") -> int:
    command = ["multiview", set_, str(folder / "manifest.csv"), str(folder / "labels.parquet")]
    return main([*command, "--encoder", str(checkpoint), "--out", str(folder / out), "--workers", "0", *more])


def test_the_command_gives_what_transformers_gives_on_the_same_views(
    videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = published()
    model.save_pretrained(videos / "hub")
    assert run(videos, videos / "hub") == 0
    said = capsys.readouterr().out
    table = pd.read_csv(videos / "out" / "predictions.csv").set_index("recording")
    assert sorted(table.index) == ["r1", "r2", "r3", "r4", "r5"]  # the train part is not looked at
    right = top5 = 0
    for number in range(1, 6):
        with torch.no_grad():
            theirs = model(by_videomae(videos / f"{CLASSES[number]}.mp4", True)).logits.softmax(1).mean(0)
        ours = table.loc[f"r{number}", [f"p({name})" for name in CLASSES]].to_numpy(float)
        np.testing.assert_allclose(ours, theirs.numpy(), atol=5e-3)  # a grey level, here and there, by scaling
        assert table.loc[f"r{number}", "target"] == CLASSES[number]
        order = np.argsort(-theirs.numpy())
        right += order[0] == number
        top5 += number in order[:5]
    scores = pd.read_csv(videos / "out" / "scores.csv").set_index("metric")["value"]
    assert scores["top-1"] == pytest.approx(100 * right / 5)
    assert scores["top-5"] == pytest.approx(100 * top5 / 5)
    assert scores["videos"] == 5
    assert "VideoMAE ViT-B, no extra data" in said
    assert "MODEL_ZOO.md" in (videos / "out" / "score.html").read_text()


def test_an_original_checkpoint_counts_by_class_number_and_reads_uniform_views(videos: Path) -> None:
    model = published(names=False, layer_norm_eps=1e-6)
    save_original(model, videos / "ssv2.pth")
    assert run(videos, videos / "ssv2.pth", set_="ssv2") == 0
    table = pd.read_csv(videos / "out" / "predictions.csv").set_index("recording")
    with torch.no_grad():
        theirs = model(by_videomae(videos / f"{CLASSES[3]}.mp4", False)).logits.softmax(1).mean(0)
    ours = table.loc["r3", [column for column in table if column.startswith("p(")]].to_numpy(float)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=5e-3)
    assert "p(class 0)" in table  # no label of the split names it


def test_a_video_that_cannot_be_read_is_told_and_not_counted(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published().save_pretrained(videos / "hub")
    (videos / f"{CLASSES[2]}.mp4").write_bytes(b"no film" * 300)
    assert run(videos, videos / "hub", "--workers", "1", "--crops", "1", "--segments", "1") == 3
    said = capsys.readouterr().out
    assert f"{CLASSES[2]}.mp4: not a media file that FFmpeg reads" in said
    assert "1 of 5 videos could not be read and are not counted" in said
    assert len(pd.read_csv(videos / "out" / "predictions.csv")) == 4


def test_what_cannot_be_checked_is_one_line(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretrained = VideoMAEForPreTraining(
        VideoMAEConfig(
            **SIZES, image_size=SIDE, decoder_hidden_size=48, decoder_num_attention_heads=3, decoder_num_hidden_layers=1
        )
    )
    pretrained.save_pretrained(videos / "pretrained")
    assert run(videos, videos / "pretrained") == 2
    assert "it was pretrained, not fine-tuned" in capsys.readouterr().err
    published(names=False, num_labels=3).save_pretrained(videos / "three")
    assert run(videos, videos / "three") == 2
    assert "class_number 5, or none, but the checkpoint has 3 classes" in capsys.readouterr().err
    published(id2label=dict(enumerate(("abseiling", "zumba", "yoga", "yawning")))).save_pretrained(videos / "four")
    assert run(videos, videos / "four") == 2
    assert "2 classes that the checkpoint does not have, 'playing bass guitar' the first" in capsys.readouterr().err
    assert run(videos, videos / "four", "--split", "validation") == 2
    assert "no recording of split 'validation'" in capsys.readouterr().err
    assert run(videos, videos / "labels.parquet") == 2
    assert "no VideoMAE" in capsys.readouterr().err
    assert not (videos / "out").exists()
    with pytest.raises(UserError, match="no classes in it"):
        load_classifier(videos / "pretrained", "cpu")
