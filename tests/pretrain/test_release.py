"""From a checkpoint's files to a release, and everything that load_encoder must refuse."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from clips_for_tests import make_clip, tiny_mask, tiny_model
from safetensors.torch import save_file

from configs import UserError, plain
from pretrain.checkpoint import consolidated
from pretrain.config import DataConfig, ReleaseConfig, RunConfig
from pretrain.objective import MaskedAutoencoder
from pretrain.release import load_encoder, release
from pretrain.schema import SCHEMA

FILES = {"model.safetensors", "config.json", "MODEL_CARD.md", "SHA256SUMS"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MaskedAutoencoder]:
    """What a run leaves behind, as far as a release reads it, with weights drawn at random."""
    folder = tmp_path_factory.mktemp("secret_hospital") / "run"
    config = RunConfig(folder, DataConfig(Path("/data/secret_hospital/shards")), tiny_model(), tiny_mask())
    torch.manual_seed(0)
    model = MaskedAutoencoder(config.model, config.mask)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    written = folder / "checkpoints" / "step-00000040"
    written.mkdir(parents=True)
    save_file(consolidated(model), written / "weights.safetensors")
    (written / "config.json").write_text(json.dumps({"schema": SCHEMA, "state": {"step": 40}, "config": plain(config)}))
    summary = {"clips": 24, "recordings": 6, "hours": 0.0267, "people": 5, "streams": {"video": 24, "audio": 20}}
    prepared = {"manifest": "/data/secret_hospital/list.csv", "clip_seconds": 4.0, "streams": ["video", "audio"]}
    (folder / "data.json").write_text(json.dumps({"summary": summary, "preprocessing": prepared}))
    (folder / "versions.json").write_text(json.dumps({"packages": {"torch": "2.14.1"}, "command": ["secret_hospital"]}))
    (folder / "metrics.csv").write_text(
        "step,loss_video,loss_audio,loss_face,loss_pose\n1,1.5,2.5,,\n40,0.5,1.25,,\n41,99,99,,\n"
    )
    return folder, model


@pytest.fixture
def released(run: tuple[Path, MaskedAutoencoder], tmp_path: Path) -> Path:
    release(ReleaseConfig(run[0], tmp_path / "release"))
    return tmp_path / "release"


def sign(folder: Path) -> None:
    """SHA256SUMS anew, for what a test changed on purpose."""
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in sorted(FILES - {"SHA256SUMS"})
    ]
    (folder / "SHA256SUMS").write_text("".join(lines))


def test_the_released_encoder_computes_what_the_trained_one_did(
    run: tuple[Path, MaskedAutoencoder], released: Path
) -> None:
    assert {file.name for file in released.iterdir()} == FILES
    encoder = load_encoder(released)
    assert not encoder.training
    clips = [make_clip("a", seed=1), make_clip("b", seed=2, views=2)]
    with torch.no_grad():
        assert torch.equal(encoder.encode_clips(clips).tokens, run[1].encoder.eval().encode_clips(clips).tokens)
    check = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=released, capture_output=True, text=True)
    assert check.returncode == 0, check.stdout


def test_the_same_run_gives_the_same_bytes(run: tuple[Path, MaskedAutoencoder], released: Path, tmp_path: Path) -> None:
    for number in range(4):  # safetensors orders the keys of a header at random: once would be luck
        release(ReleaseConfig(run[0], tmp_path / f"again{number}"))
        for name in FILES:
            assert (tmp_path / f"again{number}" / name).read_bytes() == (released / name).read_bytes(), name


def test_the_card_tells_numbers_and_neither_names_nor_paths(released: Path) -> None:
    card = (released / "MODEL_CARD.md").read_text()
    assert "6 recordings, 24 clips, 0.0267 hours, 5 people" in card
    assert "| video | 1.0000 | 1.0000 |" in card  # the mean over the two steps up to the checkpoint, not step 41's 99
    assert "| clip_seconds | 4.0 |" in card
    assert "$" not in card
    assert "secret_hospital" not in "".join((released / name).read_text() for name in FILES - {"model.safetensors"})


def test_a_release_is_not_overwritten_and_needs_a_checkpoint(
    run: tuple[Path, MaskedAutoencoder], released: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="exists"):
        release(ReleaseConfig(run[0], released))
    with pytest.raises(UserError, match="no checkpoint there"):
        release(ReleaseConfig(tmp_path, tmp_path / "other"))
    assert {path.name for path in tmp_path.iterdir()} == {"release"}


def test_a_changed_file_is_refused(released: Path) -> None:
    file = released / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"model\.safetensors: not what SHA256SUMS says"):
        load_encoder(released)


def test_a_pickle_is_refused_even_if_it_is_listed(released: Path) -> None:
    (released / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: no pickle is read"):
        load_encoder(released)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b", ".."])
def test_a_name_that_leaves_the_folder_is_refused(released: Path, name: str) -> None:
    with (released / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  {name}\n")
    with pytest.raises(UserError, match="no file of this folder"):
        load_encoder(released)


def test_a_missing_or_unlisted_file_is_refused(released: Path) -> None:
    sums = released / "SHA256SUMS"
    text = sums.read_text()
    sums.write_text("".join(line for line in text.splitlines(True) if "config.json" not in line))
    with pytest.raises(UserError, match=r"config\.json: not listed"):
        load_encoder(released)
    sums.write_text(text)
    (released / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json: listed in SHA256SUMS, but missing"):
        load_encoder(released)


def test_a_future_schema_is_refused(released: Path) -> None:
    about = json.loads((released / "config.json").read_text())
    (released / "config.json").write_text(json.dumps(about | {"schema": SCHEMA + 1}))
    sign(released)
    with pytest.raises(UserError, match=f"schema {SCHEMA + 1} is newer than {SCHEMA}: update kinesic"):
        load_encoder(released)


def test_a_run_that_learnt_faces_told_otherwise_is_not_released(
    run: tuple[Path, MaskedAutoencoder], tmp_path: Path
) -> None:
    """Its release would bear today's schema. The first checkpoints named none."""
    older = tmp_path / "older"
    shutil.copytree(run[0], older)
    file = older / "checkpoints" / "step-00000040" / "config.json"
    file.write_text(
        json.dumps({name: value for name, value in json.loads(file.read_text()).items() if name != "schema"})
    )
    with pytest.raises(UserError, match="learnt faces as schema 1 told them"):
        release(ReleaseConfig(older, tmp_path / "release"))
    assert not (tmp_path / "release").exists()


def test_an_encoder_that_learnt_faces_told_otherwise_is_refused(released: Path) -> None:
    about = json.loads((released / "config.json").read_text())
    assert "face" in about["model"]["streams"]
    (released / "config.json").write_text(json.dumps(about | {"schema": 1}))
    sign(released)
    with pytest.raises(UserError, match="learnt faces as schema 1 told them"):
        load_encoder(released)


@pytest.mark.parametrize(("setting", "value"), [("layers", 3), ("dim", 96), ("colour", 1), ("heads", 5)])
def test_weights_that_do_not_fit_the_config_are_refused_in_one_line(released: Path, setting: str, value: int) -> None:
    about = json.loads((released / "config.json").read_text())
    about["model"][setting] = value
    (released / "config.json").write_text(json.dumps(about))
    sign(released)
    with pytest.raises(UserError, match="make no encoder") as caught:
        load_encoder(released)
    assert "\n" not in str(caught.value)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load_encoder(tmp_path / "absent")
    with pytest.raises(UserError, match="neither a release"):
        load_encoder(tmp_path)


def test_loading_needs_the_core_packages_only(released: Path) -> None:
    """In a fresh process: none of the extras' packages is imported on the way."""
    extras = [
        "deepspeed",
        "webdataset",
        "mlflow",
        "pandas",
        "pyarrow",
        "matplotlib",
        "torchaudio",
        "decord",
        "cv2",
        "scipy",
    ]
    code = (
        f"import sys\nfor name in {extras}: sys.modules[name] = None\n"
        "from kinesic import load_encoder\nprint(load_encoder(sys.argv[1]).config.dim)"
    )
    shown = subprocess.run([sys.executable, "-c", code, str(released)], capture_output=True, text=True)
    assert shown.stdout.strip() == "48", shown.stderr
