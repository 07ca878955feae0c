"""The wheel, installed in another venv and called from an empty folder where folders of the same names lie."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.videos_for_tests import write_video

ROOT = Path(__file__).parent.parent.parent
STAGES = ("data_prep", "pretrain", "finetune", "slurm")


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A venv with the project out of its wheel; the heavy dependencies are those of this venv, which would take 7 GB again.

    They come in by a .pth file. The .pth files of a folder that comes in that way are not read, so this venv's editable
    installation of the project stays out.
    """
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True, timeout=120)
    python = folder / "venv" / "bin" / "python"
    (wheel,) = folder.glob("kinesic-*.whl")
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv"


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
