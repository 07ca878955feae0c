"""The wheel, installed in another venv and called from an empty folder where folders of the same names lie."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from tests.videos_for_tests import write_video

ROOT = Path(__file__).parent.parent.parent
STAGES = ("data_prep", "pretrain", "finetune", "slurm")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("kinesic-*.whl")
    return wheel


def pip(venv: Path, *command: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), *command]
    return subprocess.run(words, capture_output=True, text=True, timeout=300)


def new_venv(folder: Path, wheel: Path) -> Path:
    """A venv with the project out of its wheel and nothing else; returns its site-packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    installed = pip(folder, "install", "-q", "--no-deps", "--no-index", str(wheel))
    assert installed.returncode == 0, installed.stderr
    (site,) = (folder / "lib").glob("python*/site-packages")
    return site


@pytest.fixture(scope="module")
def venv(wheel: Path) -> Path:
    """A venv with the project out of its wheel; the heavy dependencies are those of this venv, which would take 7 GB again.

    They come in by a .pth file. The .pth files of a folder that comes in that way are not read, so this venv's editable
    installation of the project stays out.
    """
    site = new_venv(wheel.parent / "venv", wheel)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return wheel.parent / "venv"


def required(requirements: list[str], extras: set[str]) -> dict[str, Distribution]:
    """The distributions that pip installs for the requirements of a package with extras, and for theirs, and so on."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()

    def add(lines: list[str], extras: set[str]) -> None:
        for wanted in map(Requirement, lines):
            name, own = re.sub(r"[-_.]+", "-", wanted.name).lower(), frozenset(wanted.extras)
            asked = wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras)
            if asked and (name, own) not in seen:
                seen.add((name, own))
                found[name] = distribution(name)
                add(found[name].requires or [], {"", *own})

    add(requirements, {"", *extras})
    return found


def files(package: Distribution) -> Iterator[tuple[str, Path]]:
    """What pip put into site-packages for a distribution, and what Python compiled of it since: name there, file."""
    for name in map(str, package.files or []):
        file = Path(str(package.locate_file(name)))
        if not name.startswith("..") and file.is_file():  # bin/ and share/ lie outside
            yield name, file
            compiled = Path(importlib.util.cache_from_source(str(file)))
            if name.endswith(".py") and compiled.is_file():
                yield str(Path(name).parent / "__pycache__" / compiled.name), compiled


@pytest.fixture(scope="module")
def core(wheel: Path) -> Path:
    """A venv with the project out of its wheel and what that requires without extras: the rest is not hidden, it is not there.

    The requirements are read from the wheel and from those of its requirements. Their files are links to those that pip has
    installed in this venv, since PyTorch with CUDA, which is what PyPI has for Linux, would take 3 GB from the network and
    5.5 GB on disk once more.
    """
    site = new_venv(wheel.parent / "core", wheel)
    (project,) = distributions(path=[str(site)])
    for package in required(project.requires or [], set()).values():
        for name, file in files(package):
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).symlink_to(file)
    return wheel.parent / "core"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the commands are called: nothing in it but folders that would shadow the packages."""
    for name in (*STAGES, "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('a folder of the same name was imported')")
    return tmp_path


def run(venv: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONSAFEPATH"}}
    environment |= {"PATH": f"{venv / 'bin'}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    command = (str(venv / "bin" / command[0]), *command[1:])
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)


def test_the_packages_are_the_wheels(venv: Path, folder: Path) -> None:
    names = (*STAGES, "configs", "kinesic")
    code = "import importlib, sys; print(*(importlib.import_module(name).__file__ for name in sys.argv[1:]), sep='\\n')"
    result = run(venv, folder, "python", "-P", "-c", code, *names)
    assert result.returncode == 0, result.stderr
    for file in result.stdout.splitlines():
        assert Path(file).is_relative_to(venv), file


@pytest.mark.parametrize("command", [[], *([stage] for stage in STAGES)], ids=" ".join)
def test_help(command: list[str], venv: Path, folder: Path) -> None:
    result = run(venv, folder, "kinesic", *command, "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage: kinesic")


def test_every_recipe_is_in_the_wheel_and_found_by_name(venv: Path, folder: Path) -> None:
    recipes = [f"{path.parent.name}/{path.stem}" for path in sorted((ROOT / "configs").glob("*/*.yaml"))]
    code = "import configs, sys; print(*(configs.find_recipe(*name.split('/')) for name in sys.argv[1:]), sep='\\n')"
    result = run(venv, folder, "python", "-P", "-c", code, *recipes)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == len(recipes) > 0
    for file in result.stdout.splitlines():
        assert Path(file).is_relative_to(venv), file


def test_a_recipe_by_name_and_a_command_that_starts_another(venv: Path, folder: Path) -> None:
    stage = ("--data.shards", "SHARDS", "--out", "RUN")
    result = run(venv, folder, "kinesic", "slurm", "pretrain", "--cluster_config", "two_nodes", "--dry_run", *stage)
    assert result.returncode == 0, result.stderr
    assert "#SBATCH --nodes=2" in result.stdout
    assert f"{venv}/bin/python" in result.stdout


def test_build_from_a_folder_of_videos(venv: Path, folder: Path) -> None:
    write_video(folder / "videos" / "square.mp4")
    result = run(
        venv, folder, "kinesic", "data_prep", "build", "videos", "out", "--clip_seconds", "1", "--landmarks", "none",
        "--short_side", "48", "--fps", "8",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    code = "import kinesic, sys; print(*kinesic.read_index(sys.argv[1])['start'])"
    read = run(venv, folder, "python", "-P", "-c", code, "out")
    assert read.stdout.split() == ["0.0", "1.0"], read.stderr


EXTRAS = (
    *("cv2", "deepspeed", "matplotlib", "mediapipe", "mlflow", "pandas", "pyarrow", "scipy"),
    *("silero_vad", "sklearn", "soundfile", "submitit", "transformers", "webdataset", "xformers"),
)
ABSENT = """
import importlib.util, sys
print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name)))
"""
THREE_LINES = """
from kinesic import load_encoder
encoder = load_encoder("RELEASE")
tokens = encoder.encode(**streams).tokens
"""
FEATURES = f"""
import sys
import numpy as np, torch
given = np.load("streams.npz")
def of(name):
    return [{{n.removeprefix(name + "."): given[n] for n in given.files if n.startswith(name + ".")}}]
streams = dict(video=torch.from_numpy(given["video"]), audio=torch.from_numpy(given["audio"]), face=of("face"), pose=of("pose"))
torch.set_grad_enabled(False)
{THREE_LINES}
np.save(sys.argv[1], tokens.numpy())
for module in list(sys.modules.values()):
    if getattr(module, "__file__", None):
        print(module.__file__)
"""


def megabytes(packages: dict[str, Distribution]) -> float:
    return sum(file.stat().st_size for package in packages.values() for _, file in files(package)) / 1e6


@pytest.mark.timeout(900)  # half a minute of computing, but eight processes, on machines that may be busy
def test_the_core_alone_reads_a_release_and_computes_the_same(
    core: Path, venv: Path, folder: Path, record_property: pytest.RecordProperty
) -> None:
    """Without extras: as the three lines of a model card do, and `release --check`."""
    import torch

    from pretrain.encoder import Encoder
    from tests.finetune.release_for_tests import release_of
    from tests.pretrain.clips_for_tests import make_clip, tiny_model

    torch.manual_seed(0)
    encoder = Encoder(tiny_model()).eval()
    for parameter in encoder.parameters():  # gates are open, too
        torch.nn.init.normal_(parameter, std=0.1)
    release_of(encoder, folder / "run", folder / "RELEASE")
    view = make_clip(seconds=4.0).views["cam0"]
    assert view.frames is not None
    streams = {"video": np.moveaxis(view.frames[None] / np.float32(255), -1, 2), "audio": view.audio}
    rows = {f"{name}.{key}": value for name in ("face", "pose") for key, value in getattr(view, name).items()}
    np.savez(folder / "streams.npz", **streams, **rows)

    (site,) = (core / "lib").glob("python*/site-packages")
    for place, name in ((core, "core.npy"), (venv, "full.npy")):
        result = run(place, folder, "python", "-P", "-c", FEATURES, name)
        assert result.returncode == 0, result.stderr
        if place == core:
            elsewhere = (sysconfig.get_path("purelib"), str(ROOT))
            assert [file for file in result.stdout.splitlines() if file.startswith(elsewhere)] == []
            assert f"{site}/torch/__init__.py" in result.stdout.splitlines()
    tokens = np.load(folder / "core.npy")
    assert tokens.shape[2] == 48
    assert tokens.std() > 0.1
    np.testing.assert_array_equal(tokens, np.load(folder / "full.npy"))

    assert run(core, folder, "python", "-P", "-c", ABSENT, *EXTRAS).stdout.split() == []
    assert run(venv, folder, "python", "-P", "-c", ABSENT, *EXTRAS).stdout.split() == [*EXTRAS]
    assert pip(core, "check").returncode == 0, pip(core, "check").stdout
    checked = run(core, folder, "kinesic", "pretrain", "release", "--check", "RELEASE")
    assert checked.returncode == 0, checked.stderr
    assert "a release, whole and unchanged" in checked.stdout

    (project,) = distributions(path=[str(site)], name="kinesic")
    packages, everything = (required(project.requires or [], extras) for extras in (set(), {"all"}))
    cuda = {
        name: package for name, package in packages.items() if name.startswith(("torch", "nvidia", "cuda", "triton"))
    }
    size = megabytes(packages)
    record_property("core_megabytes", round(size))
    print(
        f"core: {len(packages)} packages, {size:.0f} MB, of which PyTorch with CUDA {megabytes(cuda):.0f} MB and all else "
        f"{size - megabytes(cuda):.0f} MB; with all extras: {len(everything)} packages, {megabytes(everything):.0f} MB"
    )
