"""From a checkpoint's files to a release: what it computes, what its card says, and that hubs and later versions read it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from clips_for_tests import make_clip
from safetensors.torch import load_file, save_file

from configs import UserError
from pretrain.__main__ import main
from pretrain.config import ReleaseConfig
from pretrain.objective import MaskedAutoencoder
from pretrain.release import load_encoder, release
from pretrain.release_files import write_sums
from pretrain.schema import SCHEMA

FILES = {"model.safetensors", "config.json", "MODEL_CARD.md", "README.md", "SHA256SUMS"}
ROOT = Path(__file__).parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, at any depth, hidden ones too."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_released_encoder_computes_what_the_trained_one_did(
    drawn_run: tuple[Path, MaskedAutoencoder], released: Path
) -> None:
    assert set(contents(released)) == FILES
    encoder = load_encoder(released)
    assert not encoder.training
    clips = [make_clip("a", seed=1), make_clip("b", seed=2, views=2)]
    with torch.no_grad():
        assert torch.equal(encoder.encode_clips(clips).tokens, drawn_run[1].encoder.eval().encode_clips(clips).tokens)
    check = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=released, capture_output=True, text=True)
    assert check.returncode == 0, check.stdout
    assert (
        len({file.stat().st_mode for file in released.iterdir()}) == 1
    )  # whoever may read the card may read the weights


def test_the_same_run_gives_the_same_bytes(
    drawn_run: tuple[Path, MaskedAutoencoder], released: Path, tmp_path: Path
) -> None:
    for number in range(4):  # safetensors orders the keys of a header at random: once would be luck
        release(ReleaseConfig(drawn_run[0], tmp_path / f"again{number}"))
        assert contents(tmp_path / f"again{number}") == contents(released)
    command = [sys.executable, "-m", "pretrain", "release", str(drawn_run[0]), "elsewhere"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Tokyo"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert contents(tmp_path / "elsewhere") == contents(released)


def test_the_card_tells_numbers_and_neither_names_nor_paths(released: Path) -> None:
    card = (released / "MODEL_CARD.md").read_text()
    assert "6 recordings, 24 clips, 0.0267 hours, 5 people" in card
    assert "(video, audio, face, pose)" in card
    assert "| video | 1.0000 | 1.0000 |" in card  # the mean over the two steps up to the checkpoint, not step 41's 99
    assert "| clip_seconds | 4.0 |" in card
    assert f"{'1' * 64}  shard-1.tar" in card
    assert "Started from random weights; 40 steps of 256 clips" in card
    for title in ("Licence", "Intended use", "Limits", "Privacy"):
        assert f"\n## {title}\n" in card
    settings = yaml.safe_load(card.partition("```yaml\n")[2].partition("```")[0])
    assert settings["model"]["dim"] == 48
    assert settings["training"]["mask"]["target"] == "teacher"
    assert settings["training"]["optimizer"]["lr"] == 0.001
    assert "$" not in card
    assert b"secret_hospital" not in b"".join(contents(released).values())


def test_a_run_older_than_the_digests_is_released_and_says_so(
    drawn_run: tuple[Path, MaskedAutoencoder], tmp_path: Path
) -> None:
    older = shutil.copytree(drawn_run[0], tmp_path / "older")
    data = json.loads((older / "data.json").read_text())
    del data["summary"]["shards"]
    (older / "data.json").write_text(json.dumps(data))
    release(ReleaseConfig(older, tmp_path / "release"))
    assert "not recorded: the run is older" in (tmp_path / "release" / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize(
    ("given", "header", "said"),
    [
        ([], {"license": "unknown"}, "None was named"),
        (["--license", "cc-by-nc-4.0"], {"license": "cc-by-nc-4.0"}, "`cc-by-nc-4.0`"),
        (["--license", "lab-only-1.0"], {"license": "other", "license_name": "lab-only-1.0"}, "`lab-only-1.0`"),
    ],
)
def test_the_licence(
    given: list[str],
    header: dict[str, str],
    said: str,
    drawn_run: tuple[Path, MaskedAutoencoder],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A hub knows some by name; any other is `other` with a name there."""
    assert main(["release", str(drawn_run[0]), str(tmp_path / "release"), *given]) == 0
    assert ("names no licence" in capsys.readouterr().out) == (not given)
    card = (tmp_path / "release" / "README.md").read_text()
    found = yaml.safe_load(card.split("---\n")[1])
    assert {name: value for name, value in found.items() if name.startswith("license")} == header
    assert said in card.partition("## Licence")[2].partition("##")[0]
    assert json.loads((tmp_path / "release" / "config.json").read_text())["license"] == (given or ["", "unknown"])[1]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "give RUN and OUT, or --check RELEASE"),
        (["RUN"], "give RUN and OUT, or --check RELEASE"),
        (["RUN", "OUT", "--check", "RELEASE"], "check: stands alone"),
        (["--check", "RELEASE", "--license", "mit"], "check: stands alone"),
        (["RUN", "OUT", "--license", "Our Own"], "license: 'Our Own'"),
    ],
)
def test_a_command_line_that_makes_no_sense(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["release", *arguments]) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


def test_a_release_is_not_overwritten_and_needs_a_checkpoint(
    drawn_run: tuple[Path, MaskedAutoencoder], released: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="exists"):
        release(ReleaseConfig(drawn_run[0], released))
    with pytest.raises(UserError, match="no checkpoint there"):
        release(ReleaseConfig(tmp_path, tmp_path / "other"))
    assert {path.name for path in tmp_path.iterdir()} == {"release"}


@pytest.mark.parametrize("name", ["data.json", "versions.json", "metrics.csv"])
def test_a_run_that_lacks_a_file_is_not_released(
    name: str, drawn_run: tuple[Path, MaskedAutoencoder], tmp_path: Path
) -> None:
    (shutil.copytree(drawn_run[0], tmp_path / "copy") / name).unlink()
    with pytest.raises(UserError, match=f"copy: lacks something that a run writes: .*{name}"):
        release(ReleaseConfig(tmp_path / "copy", tmp_path / "release"))
    assert {file.name for file in tmp_path.iterdir()} == {"copy"}


def test_a_run_that_learnt_faces_told_otherwise_is_not_released(
    drawn_run: tuple[Path, MaskedAutoencoder], tmp_path: Path
) -> None:
    """Its release would bear today's schema. The first checkpoints named none."""
    older = shutil.copytree(drawn_run[0], tmp_path / "older")
    file = older / "checkpoints" / "step-00000040" / "config.json"
    saved = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in saved.items() if name != "schema"}))
    with pytest.raises(UserError, match="learnt faces as schema 1 told them"):
        release(ReleaseConfig(older, tmp_path / "release"))
    assert not (tmp_path / "release").exists()


def test_weights_that_are_not_finite_are_not_released(
    drawn_run: tuple[Path, MaskedAutoencoder], tmp_path: Path
) -> None:
    broken = shutil.copytree(drawn_run[0], tmp_path / "broken")
    file = broken / "checkpoints" / "step-00000040" / "weights.safetensors"
    weights = load_file(file)
    weights["encoder.trunk.blocks.1.norm1.weight"][3] = float("nan")
    save_file(weights, file)
    with pytest.raises(UserError, match=r"trunk\.blocks\.1\.norm1\.weight holds numbers that are not finite"):
        release(ReleaseConfig(broken, tmp_path / "release"))
    assert not (tmp_path / "release").exists()


def test_an_older_release_is_read_where_it_means_the_same(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As kinesic wrote it before README.md, licence, digests and losses; its config lacks settings that came later."""
    encoder = load_encoder(released)
    about = json.loads((released / "config.json").read_text())
    del about["model"]["table"]
    about["training"] = {"step": 40, "batch": 256, "data": {"clips": 24, "hours": 0.0267, "people": 5}}
    del about["license"]
    (released / "config.json").write_text(json.dumps(about))
    (released / "README.md").unlink()
    (released / "MODEL_CARD.md").write_text(
        "---\nlibrary_name: kinesic\npipeline_tag: video-classification\n---\n\n# E\n"
    )
    write_sums(released, ("model.safetensors", "config.json", "MODEL_CARD.md"))
    again = load_encoder(released)
    assert again.config == encoder.config
    with torch.no_grad():
        assert torch.equal(again.encode_clips([make_clip()]).tokens, encoder.encode_clips([make_clip()]).tokens)
    assert main(["release", "--check", str(released)]) == 0
    assert "older kinesic wrote no licence" in capsys.readouterr().out


def test_an_encoder_that_weighed_nothing_is_refused_unless_it_reads_video_alone(released: Path) -> None:
    """Seen with releases of the first commits: others' tokens off by a quarter of their deviation, video's by 1e-8."""
    about = json.loads((released / "config.json").read_text())
    for name in ("table", "causal", "pooling", "upper_layers", "upper_rate"):
        del about["model"][name]
    (released / "config.json").write_text(json.dumps(about | {"schema": 1}))
    write_sums(released, sorted(FILES - {"SHA256SUMS"}))
    with pytest.raises(UserError, match="read audio, face, pose without weighing what it pooled"):
        load_encoder(released)
    about["model"]["streams"] = {}
    weights = load_file(released / "model.safetensors")
    others = ("audio", "face", "pose")
    save_file(
        {n: value for n, value in weights.items() if not any(name in n for name in others)},
        released / "model.safetensors",
    )
    (released / "config.json").write_text(json.dumps(about | {"schema": 1}))
    write_sums(released, sorted(FILES - {"SHA256SUMS"}))
    assert load_encoder(released).modalities == ("video",)


def test_an_encoder_of_the_first_schema_is_read_unless_it_reads_faces(released: Path) -> None:
    about = json.loads((released / "config.json").read_text())
    (released / "config.json").write_text(json.dumps(about | {"schema": 1}))
    write_sums(released, sorted(FILES - {"SHA256SUMS"}))
    with pytest.raises(UserError, match="learnt faces as schema 1 told them"):
        load_encoder(released)
    weights = {n: value for n, value in load_file(released / "model.safetensors").items() if "face" not in n}
    del about["model"]["streams"]["face"]
    (released / "config.json").write_text(json.dumps(about | {"schema": 1}))
    save_file(weights, released / "model.safetensors")
    write_sums(released, sorted(FILES - {"SHA256SUMS"}))
    assert load_encoder(released).modalities == ("video", "audio", "pose")


def test_a_hub_reads_the_card_and_its_clients_folders_load(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By huggingface_hub itself, offline: what its client parses of README.md, and the cache that it keeps, which is all links."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from huggingface_hub import ModelCard, constants, snapshot_download

    card = ModelCard.load(released / constants.REPOCARD_NAME)
    assert isinstance(card.data.tags, list)
    assert card.data.tags[:4] == ["video", "audio", "face", "pose"]
    assert (card.data.library_name, card.data.license) == ("kinesic", "unknown")
    assert card.content == (released / "MODEL_CARD.md").read_text()  # nothing of the header was lost or mended

    repository, revision = tmp_path / "cache" / "models--lab--encoder", "0123456789abcdef0123456789abcdef01234567"
    snapshot = repository / "snapshots" / revision
    for folder in (repository / "blobs", repository / "refs", snapshot):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    (released / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")  # as a hub adds it
    for number, file in enumerate(sorted(released.iterdir())):
        shutil.move(file, repository / "blobs" / f"{number:040x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:040x}")
    found = snapshot_download("lab/encoder", cache_dir=tmp_path / "cache", local_files_only=True)
    assert load_encoder(found).config.dim == 48
    assert main(["release", "--check", found]) == 0


def test_a_future_schema_is_refused(released: Path) -> None:
    about = json.loads((released / "config.json").read_text())
    (released / "config.json").write_text(json.dumps(about | {"schema": SCHEMA + 1}))
    write_sums(released, sorted(FILES - {"SHA256SUMS"}))
    with pytest.raises(UserError, match=f"schema {SCHEMA + 1} is newer than {SCHEMA}: update kinesic"):
        load_encoder(released)
