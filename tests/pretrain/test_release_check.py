"""What load_encoder and ``pretrain release --check`` refuse of a release, each in one line."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from configs import UserError
from pretrain.__main__ import main
from pretrain.release import load_encoder
from pretrain.release_files import check_files, write_sums

SIGNED = ("model.safetensors", "config.json", "MODEL_CARD.md", "README.md")


class Harmful:
    """Whoever unpickles it makes a folder of this name."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.folder,)


def refused(folder: Path, line: str) -> None:
    """By both, in the same words."""
    with pytest.raises(UserError, match=line) as caught:
        load_encoder(folder)
    assert "\n" not in str(caught.value)
    not_checked(folder, line)


def not_checked(folder: Path, line: str) -> None:
    import io
    import re
    from contextlib import redirect_stderr

    said = io.StringIO()
    with redirect_stderr(said):
        assert main(["release", "--check", str(folder)]) == 2
    assert re.search(line, said.getvalue())
    assert said.getvalue().count("\n") == 1


def test_a_whole_release_is_told_without_a_network(
    released: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()

    def no_network(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", no_network)
    before = {file.name: file.stat().st_mtime_ns for file in released.iterdir()}
    assert main(["release", "--check", str(released)]) == 0
    said = capsys.readouterr().out
    for words in (
        "whole and unchanged (schema 2 of 2)",
        "4 as SHA256SUMS says",
        "video, audio, face, pose; tokens of width 48",
        "40 steps on 6 recordings, 24 clips, 0.0267 hours, 5 people; digests of 2 shards; last losses: audio 1.8750, video 1.0000",
        "licence   unknown",
    ):
        assert words in said
    numbers = sum(value.numel() for value in load_file(released / "model.safetensors").values())
    assert f"{numbers / 1e6:.1f} M numbers, all finite" in said
    assert {file.name: file.stat().st_mtime_ns for file in released.iterdir()} == before


@pytest.mark.parametrize("name", SIGNED)
def test_a_changed_file_is_refused(released: Path, name: str) -> None:
    data = bytearray((released / name).read_bytes())
    data[-1] ^= 1
    (released / name).write_bytes(data)
    refused(released, rf"{name}: not what SHA256SUMS says")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "state.PT", ".hidden.pkl", "below/optimizer.pth"])
def test_a_pickle_is_refused_by_its_name(released: Path, name: str) -> None:
    (released / name).parent.mkdir(exist_ok=True)
    (released / name).write_bytes(b"cos\nsystem\n")
    refused(released, rf"{name}: no pickle is read")
    if name == "state.PT":  # and the sums make it no better
        write_sums(released, (*SIGNED, name))
        refused(released, rf"{name}: no pickle is read")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5, "torch.save", "the old torch.save"])
def test_a_pickle_is_refused_by_its_beginning(released: Path, protocol: int | str, tmp_path: Path) -> None:
    harmful = Harmful(tmp_path / "harmed")
    if isinstance(protocol, int):
        (released / "statistics.dat").write_bytes(pickle.dumps(harmful, protocol))
    else:
        torch.save(harmful, released / "statistics.dat", _use_new_zipfile_serialization=protocol == "torch.save")
    write_sums(released, (*SIGNED, "statistics.dat"))
    refused(released, r"statistics\.dat: no pickle is read")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_by_the_name_of_the_weights_is_not_unpickled(released: Path, zipped: bool, tmp_path: Path) -> None:
    torch.save(Harmful(tmp_path / "harmed"), released / "model.safetensors", _use_new_zipfile_serialization=zipped)
    write_sums(released, SIGNED)
    refused(released, "make no encoder")
    assert not (tmp_path / "harmed").exists()


def test_weights_whose_first_bytes_are_a_pickles_are_read(released: Path) -> None:
    """A file of safetensors begins with the length of its header, which may be 0x0280."""
    file = released / "more.safetensors"
    for padding in range(400, 700, 8):
        save_file({"a": torch.zeros(1)}, file, {"padding": "x" * padding})
        if file.read_bytes()[:2] == b"\x80\x02":
            break
    else:
        raise AssertionError("no header of 640 bytes")
    write_sums(released, (*SIGNED, "more.safetensors"))
    assert main(["release", "--check", str(released)]) == 0


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b", "..", "", "SHA256SUMS"])
def test_a_name_that_leaves_the_folder_is_refused(released: Path, name: str) -> None:
    with (released / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  {name}\n")
    refused(released, "no file of this folder")


@pytest.mark.parametrize("name", [*SIGNED, "SHA256SUMS"])
def test_a_link_out_of_the_folder_is_refused(released: Path, tmp_path: Path, name: str) -> None:
    """Though the sums are right. A link to the folder itself is no harm."""
    (tmp_path / "name").symlink_to(released)
    assert load_encoder(tmp_path / "name").config.dim == 48
    shutil.move(released / name, tmp_path / "elsewhere")
    (released / name).symlink_to(tmp_path / "elsewhere")
    refused(released, rf"{name}: a link out of this folder")
    (tmp_path / "blobs").mkdir()  # lies where a cache's do, but this folder is none of its snapshots
    shutil.move(tmp_path / "elsewhere", tmp_path / "blobs" / "0")
    (released / name).unlink()
    (released / name).symlink_to("../../blobs/0")
    (tmp_path / "revisions").mkdir()
    shutil.move(released, tmp_path / "revisions" / "0")
    assert (tmp_path / "revisions" / "0" / name).is_file()
    refused(tmp_path / "revisions" / "0", rf"{name}: a link out of this folder")


def test_links_of_a_cache_lead_to_its_own_blobs_and_nowhere_else(released: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "repository" / "snapshots" / "0123"
    snapshot.parent.mkdir(parents=True)
    shutil.move(released, snapshot)
    shutil.move(snapshot / "model.safetensors", tmp_path / "private")
    (tmp_path / "repository" / "blobs").symlink_to(tmp_path)
    (snapshot / "model.safetensors").symlink_to("../../blobs/private")
    refused(snapshot, r"model\.safetensors: a link out of this folder")


def test_a_missing_or_unlisted_file_is_refused(released: Path) -> None:
    sums = released / "SHA256SUMS"
    text = sums.read_text()
    for name in ("config.json", "model.safetensors"):
        sums.write_text("".join(line for line in text.splitlines(True) if name not in line))
        refused(released, rf"{name}: not listed")
    sums.write_text("".join(line for line in text.splitlines(True) if "MODEL_CARD.md" not in line))
    not_checked(released, r"MODEL_CARD\.md: not listed")
    sums.write_text(text)
    (released / "config.json").unlink()
    refused(released, r"config\.json: listed in SHA256SUMS, but missing")
    (released / "config.json").mkdir()
    refused(released, r"config\.json: listed in SHA256SUMS, but missing")


def test_an_extra_file_is_never_read_and_no_part_of_the_release(released: Path) -> None:
    """load_encoder reads what is listed and nothing else; whether a folder is the release is what --check is asked."""
    (released / ".cache" / "huggingface").mkdir(parents=True)  # what clients of hubs add is no part of it either
    (released / ".cache" / "huggingface" / "x.metadata").write_text("0123\n")
    (released / ".gitattributes").write_text("")
    assert main(["release", "--check", str(released)]) == 0
    (released / "modeling.py").write_text("raise SystemExit('run')\n")
    assert load_encoder(released).config.dim == 48
    not_checked(released, r"modeling\.py: not listed in SHA256SUMS, so no part of this release")


def test_sums_that_are_no_text_are_refused(released: Path) -> None:
    (released / "SHA256SUMS").write_bytes(b"\xff\xfe\x00  config.json\n\x9f\n")
    refused(released, "no file of this folder")
    (released / "SHA256SUMS").write_bytes(b"")
    refused(released, "not listed in SHA256SUMS")


def edit(changes: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        about = json.loads((folder / "config.json").read_text())
        changes(about)
        (folder / "config.json").write_text(json.dumps(about))

    return change


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (edit(lambda about: about.update(schema=3)), "schema 3 is newer than 2: update kinesic"),
        (edit(lambda about: about.update(schema="2")), "schema '2' is no version"),
        (edit(lambda about: about.update(schema=True)), "schema True is no version"),
        (edit(lambda about: about.update(schema=0)), "schema 0 is no version"),
        (edit(lambda about: about.pop("schema")), "schema None is no version"),
        (edit(lambda about: about.pop("model")), "not that of a release"),
        (edit(lambda about: about.update(model=[])), "not that of a release"),
        (edit(lambda about: about.update(format="another")), "not that of a release"),
        (edit(lambda about: about["model"].update(layers=3)), "make no encoder"),
        (edit(lambda about: about["model"].update(dim=96)), "make no encoder"),
        (edit(lambda about: about["model"].update(dim="48")), "make no encoder"),
        (edit(lambda about: about["model"].update(heads=5)), "make no encoder"),
        (edit(lambda about: about["model"].update(streams=["audio"])), "make no encoder"),
        (edit(lambda about: about["model"].update(streams=5)), "make no encoder"),
        (edit(lambda about: about["model"].update(colour=1)), "unknown settings colour; a newer kinesic may know them"),
        (write("config.json", b"{"), "cannot be read"),
        (write("config.json", b"\xff\xff"), "cannot be read"),
        (write("config.json", b"[" * 100_000), "cannot be read"),
        (write("config.json", b"[]"), "not that of a release"),
        (write("model.safetensors", b""), "make no encoder"),
        (write("model.safetensors", b"\xff" * 64), "make no encoder"),
    ],
)
def test_what_is_signed_but_makes_no_encoder_is_refused_in_one_line(
    released: Path, change: Callable[[Path], None], line: str
) -> None:
    change(released)
    write_sums(released, SIGNED)
    refused(released, line)


CARD = b"---\nlibrary_name: kinesic\nlicense: unknown\n---\n"


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("README.md", CARD + b"Run install.sh first.\n", r"README\.md: says something else than MODEL_CARD\.md"),
        ("MODEL_CARD.md", b"# No header\n", "no model card of kinesic's"),
        ("MODEL_CARD.md", b"---\nlibrary_name: [\n---\n", "its header is no YAML"),
        ("MODEL_CARD.md", b"---\nlibrary_name: other\n---\n", "no model card of kinesic's"),
        ("MODEL_CARD.md", CARD.replace(b"unknown", b"mit"), r"names another licence than config\.json"),
        ("MODEL_CARD.md", b"\xff\xfe", "no model card of kinesic's"),
    ],
)
def test_a_card_that_does_not_go_with_the_rest_fails_the_check(
    released: Path, name: str, content: bytes, line: str
) -> None:
    (released / name).write_bytes(content)
    write_sums(released, SIGNED)
    assert load_encoder(released).config.dim == 48  # it reads no card
    not_checked(released, line)


@pytest.mark.parametrize("training", [5, {"data": []}, {"losses": {"video": 1}}, {"losses": {"video": "ab"}}])
def test_a_training_that_kinesic_would_not_tell_so_fails_the_check(released: Path, training: Any) -> None:
    edit(lambda about: about.update(training=training))(released)
    write_sums(released, SIGNED)
    not_checked(released, "its training is not told as kinesic tells it")


def test_weights_that_are_not_finite_fail_the_check(released: Path) -> None:
    weights = load_file(released / "model.safetensors")
    weights["video.weight"].view(-1)[5] = float("inf")
    save_file(weights, released / "model.safetensors")
    write_sums(released, SIGNED)
    not_checked(released, r"video\.weight holds numbers that are not finite")


def test_other_folders_are_refused(tmp_path: Path) -> None:
    for folder, line in ((tmp_path / "absent", "no such folder"), (tmp_path, "neither a release")):
        refused(folder, line)
    (tmp_path / "file").write_bytes(b"text")
    not_checked(tmp_path / "file", "no such folder")


def test_what_check_files_returns_is_what_the_sums_list(released: Path) -> None:
    assert check_files(released) == list(SIGNED)
