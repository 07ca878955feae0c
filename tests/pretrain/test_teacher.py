"""The target "teacher": a frozen encoder's features of the whole video, computed once a clip, and no part of what is trained."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clips_for_tests import make_clip, tiny_mask, tiny_model
from runs_for_tests import column
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import layer_norm, smooth_l1_loss
from videomae_for_tests import redraw

import configs
from configs import UserError
from pretrain import checkpoint, teacher
from pretrain.__main__ import COMMANDS
from pretrain.clips import Clip
from pretrain.config import MaskConfig, ReleaseConfig
from pretrain.encoder import Encoder
from pretrain.engine import run
from pretrain.masking import NOT_REBUILT, draw_mask
from pretrain.objective import MaskedAutoencoder
from pretrain.pictures import draw_reconstructions
from pretrain.reconstruction import reconstruct
from pretrain.release import load_encoder, release
from pretrain.teacher import Teacher
from pretrain.tokens import IMAGE_MEAN, IMAGE_STD, tokenize

MODEL = tiny_model()
MASK = replace(tiny_mask(), target="teacher", teacher=Path("teacher"))


def open_teacher(folder: Path) -> Teacher:
    """Another width than the student, streams of its own and open gates, as a release has them."""
    encoder = Encoder(tiny_model(dim=24, layers=3))
    redraw(encoder)
    return Teacher(encoder, MODEL, folder, Path("teacher"))


def student(folder: Path) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(MODEL, MASK, open_teacher(folder))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each call of a teacher's trunk read."""
    seen: list[int] = []
    before = Teacher.__init__

    def counted(self: Teacher, *arguments: object) -> None:
        before(self, *arguments)  # pyrefly: ignore[bad-argument-type]
        self.encoder.trunk.register_forward_hook(lambda module, given, out: seen.append(len(out)))

    monkeypatch.setattr(Teacher, "__init__", counted)
    return seen


def by_hand(encoder: Encoder, clip: Clip) -> Tensor:
    """Each segment of each view through ``encode`` alone: layer-normed [token, dim]."""
    found = []
    for view in clip.views.values():
        assert view.frames is not None
        pixels = (torch.from_numpy(view.frames).float() / 255 - torch.tensor(IMAGE_MEAN)) / torch.tensor(IMAGE_STD)
        for segment in pixels.permute(0, 3, 1, 2).split(encoder.config.segment_frames):
            found.append(encoder.encode(video=segment[None]).tokens[0])
    return layer_norm(torch.cat(found), (encoder.config.dim,))


@pytest.mark.parametrize("at_once", [1, 16])
def test_targets_are_the_teachers_features_of_whole_segments(at_once, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher, "AT_ONCE", at_once)
    model = student(tmp_path)
    clips = [make_clip("a", views=2, seconds=5.0), make_clip("b", seed=1)]
    batch = model.collate(clips, [3, 4])
    target, valid, weight = model.targets("video", batch)
    assert valid is None
    assert weight is None
    expected = []
    for clip, seed in zip(clips, [3, 4], strict=True):
        tokens = tokenize(clip, 0, MODEL, MODEL.modalities)
        rebuilt = draw_mask(clip, tokens, MODEL, MASK, seed).rebuilt["video"]
        assert model.teacher is not None
        expected.append(by_hand(model.teacher.encoder, clip)[torch.from_numpy(rebuilt != NOT_REBUILT)])
    torch.testing.assert_close(target, torch.cat(expected), atol=2e-3, rtol=1e-3)  # kept in float16
    error = smooth_l1_loss(model.rebuild(batch)["video"], target, reduction="none").mean(1).sum()
    torch.testing.assert_close(model(batch)["video"], error)
    streams = MaskedAutoencoder(MODEL, tiny_mask())
    for name in ("audio", "face", "pose"):  # keep the targets that they have without a teacher
        assert torch.equal(model.targets(name, batch)[0], streams.targets(name, batch)[0])


def test_a_student_in_bfloat16_has_the_same_targets(tmp_path):
    part = tokenize(make_clip(), 0, MODEL, ["video"])["video"]
    found = open_teacher(tmp_path).read(part)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(open_teacher(tmp_path).read(part), found)


def test_nothing_is_learnt_through_the_teacher_and_it_is_no_part_of_the_weights(tmp_path):
    model = student(tmp_path)
    assert model.teacher is not None
    losses = model(model.collate([make_clip()], [0]))
    torch.stack(list(losses.values())).sum().backward()
    theirs = list(model.teacher.encoder.parameters())
    assert all(p.grad is None and not p.requires_grad for p in theirs)
    assert not {id(p) for p in theirs} & {id(p) for p in model.parameters()}
    assert all(p.grad is not None for p in model.parameters())
    plain = MaskedAutoencoder(MODEL, tiny_mask())
    assert set(model.state_dict()) == set(plain.state_dict())
    head = model.decoder.heads["video"]
    assert head.out_features == 24  # the teacher's width is all that differs
    count = sum(p.numel() for p in plain.parameters()) - sum(
        p.numel() for p in plain.decoder.heads["video"].parameters()
    )
    assert sum(p.numel() for p in model.parameters()) == count + sum(p.numel() for p in head.parameters())


def test_a_clip_that_comes_again_is_not_encoded_again(tmp_path, calls):
    model = student(tmp_path)
    clips = [make_clip("a"), make_clip("b", seed=1, seconds=2.0)]
    first = model.targets("video", model.collate(clips[:1], [0]))[0]
    assert calls == [64]
    both = model.targets("video", model.collate(clips, [0, 1]))[0]
    assert calls == [64, 32]  # the new one alone
    torch.testing.assert_close(both[: len(first)], first, rtol=0, atol=0)
    again = student(tmp_path).collate(clips, [0, 1])
    assert all(lesson.video is None for lesson in again.lessons)  # workers send no pixels of known clips
    assert torch.equal(student(tmp_path).targets("video", again)[0], both)
    assert len(calls) == 2
    assert model.teacher is not None
    assert {file.name for file in model.teacher.folder.iterdir()} == {"a.npz", "b.npz"}
    with np.load(model.teacher.folder / "a.npz", allow_pickle=False) as file:
        assert (file["features"].dtype, file["features"].shape) == (np.float16, (64, 24))


def test_two_passes_that_were_prepared_together_encode_a_clip_once(tmp_path, calls):
    model = student(tmp_path)
    early = [model.collate([make_clip()], [seed]) for seed in (0, 0)]
    first, second = (model.targets("video", batch)[0] for batch in early)
    assert torch.equal(first, second)
    assert len(calls) == 1


@pytest.mark.parametrize("left", [b"", b"PK\x03\x04 half", None])
def test_a_damaged_or_foreign_file_is_written_anew(left, tmp_path, calls):
    model = student(tmp_path)
    assert model.teacher is not None
    whole = model.targets("video", model.collate([make_clip()], [0]))[0]
    file = model.teacher.folder / "a.npz"
    if left is None:
        np.savez(file, features=np.zeros((3, 24), np.float16))  # of another clip by that name
    else:
        file.write_bytes(left)
    assert torch.equal(model.targets("video", model.collate([make_clip()], [0]))[0], whole)
    assert len(calls) == 2


def test_another_teacher_has_another_folder(tmp_path):
    encoder = Encoder(tiny_model(dim=24, layers=3))
    redraw(encoder)
    folders = {Teacher(encoder, MODEL, tmp_path, Path()).folder, open_teacher(tmp_path).folder}
    encoder.video.bias.data[0] += 1e-3
    assert len(folders | {Teacher(encoder, MODEL, tmp_path, Path()).folder}) == 1 + len(folders) == 2


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"patch": 8}, r"model\.patch: 8 there and 16 here"),
        ({"image_height": 48}, r"tokens of a segment \(time, height, width\): \(8, 3, 2\) there and \(8, 2, 2\) here"),
    ],
)
def test_a_teacher_of_other_tokens_is_refused(other, message, tmp_path):
    with pytest.raises(UserError, match=f"mask.teacher teacher: {message}"):
        Teacher(Encoder(tiny_model(**other)), MODEL, tmp_path, Path("teacher"))


def test_target_and_teacher_go_together():
    with pytest.raises(ValueError, match=r"mask\.target: teacher needs mask\.teacher"):
        MaskConfig(target="teacher")
    with pytest.raises(ValueError, match=r"mask\.teacher: nothing asks it with mask\.target pixels"):
        MaskConfig(teacher=Path("release"))


def test_the_picture_shows_how_near_the_features_are(tmp_path):
    model = student(tmp_path / "cache")
    clip = make_clip()
    video = reconstruct(model, clip, 0)["video"]
    assert 0.3 < video.hidden.mean() < 0.7
    np.testing.assert_array_equal(video.rebuilt[~video.hidden], video.original[~video.hidden])
    told = video.rebuilt[video.hidden]
    assert 0 <= told.min() < told.max() <= 1
    assert (told == told[:, :1]).all()  # grey
    draw_reconstructions(model, [clip], [0], tmp_path)
    assert (tmp_path / "reconstructions.png").stat().st_size > 0


def test_a_run_with_a_teacher_goes_on_and_releases_none(two_processes: Path, recipe: Path, tmp_path: Path) -> None:
    """Stopped after half of its steps, without what the teacher had said so far: the same losses, bit by bit."""
    release(ReleaseConfig(two_processes, tmp_path / "taught"))
    shared = ["--steps", "4", "--tracking_uri", f"sqlite:///{two_processes}/mlflow.db", "--mask.target", "teacher"]

    def parse(out: Path, *more: str):
        return configs.parse("pretrain", "run", COMMANDS["run"], ["--config", str(recipe), "--out", str(out), *more])

    with pytest.raises(UserError, match=r"mask\.teacher"):
        parse(tmp_path / "run", *shared)
    out, again = tmp_path / "run", tmp_path / "again"
    shared += ["--mask.teacher", str(tmp_path / "taught")]
    assert run(parse(out, *shared)) == 0
    files = list((out / "teacher").glob("*/*"))
    assert files
    assert all(file.suffix == ".npz" for file in files)
    shutil.copytree(out, again, ignore=shutil.ignore_patterns("finished", "teacher", "step-00000004"))
    assert run(parse(again, *shared, "--data.workers", "2")) == 0
    assert column(again, "loss_video") == column(out, "loss_video")
    assert column(again, "step") == ["1", "2", "3", "4"]
    newest = checkpoint.newest(out)
    assert newest is not None
    assert not [name for name in load_file(newest / "weights.safetensors") if "teacher" in name]
    release(ReleaseConfig(out, tmp_path / "released"))
    trained, taught = load_encoder(tmp_path / "released"), load_encoder(tmp_path / "taught")
    assert set(trained.state_dict()) == set(taught.state_dict())
