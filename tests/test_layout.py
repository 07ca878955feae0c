"""The project's shape: arrows between the packages, quick --help, recipes that parse, files of a sensible length."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import configs

ROOT = Path(__file__).parent.parent
STAGES = ("data_prep", "pretrain", "finetune", "slurm")
FIRST_PARTY = {*STAGES, "configs", "kinesic", "benchmarks", "tests"}
MAY_IMPORT = {
    "configs": set(),
    "data_prep": {"configs"},
    "pretrain": {"configs", "data_prep"},
    "finetune": {"configs", "data_prep", "pretrain"},
    "slurm": {"configs"},
}
HEAVY = ("torch", "numpy", "pandas", "av", "cv2", "webdataset", "mlflow", "deepspeed", "submitit", "mediapipe")


def commands() -> list[tuple[str, ...]]:
    """Every ``kinesic ... --help``."""
    found: list[tuple[str, ...]] = [(), *((stage,) for stage in STAGES), ("slurm", "pretrain")]
    for stage in STAGES[:3]:
        module = __import__(f"{stage}.__main__", fromlist=["COMMANDS"])
        found += [(stage, *name.split()) for name in module.COMMANDS]
    return found


def imported(file: Path) -> set[str]:
    """Our own top-level packages that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names & FIRST_PARTY


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_one_way(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        against = imported(file) - MAY_IMPORT[package] - {package}
        assert not against, f"{file.relative_to(ROOT)} imports {', '.join(against)}"


def test_one_file_knows_the_kernels() -> None:
    """Everything else calls ``packed_attention`` (configs names xformers among the packages whose versions are told)."""
    words = ("xformers", "scaled_dot_product_attention", "flash_attn", "flex_attention")
    files = [ROOT / "kinesic.py", *(file for package in MAY_IMPORT for file in (ROOT / package).rglob("*.py"))]
    found = {str(file.relative_to(ROOT)) for file in files if any(word in file.read_text() for word in words)}
    assert found == {"pretrain/attention.py", "configs/__init__.py"}


def test_no_other_top_level_package() -> None:
    packages = {file.parent.name for file in ROOT.glob("[a-z]*/*.py")} | {file.stem for file in ROOT.glob("*.py")}
    packages.discard("examples")  # scripts, no package
    assert packages == FIRST_PARTY


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_help_imports_nothing_heavy(command: tuple[str, ...]) -> None:
    code = (
        "import sys, kinesic\n"
        "try:\n    kinesic.main(sys.argv[1:])\nfinally:\n"
        f"    print('HEAVY', *sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert "usage: kinesic" in run.stdout
    assert run.stdout.splitlines()[-1].strip() == "HEAVY"


@pytest.mark.parametrize(
    "recipe", sorted((ROOT / "configs").glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_every_recipe_is_one_of_its_stage(recipe: Path) -> None:
    """A recipe fits a command of its stage: with what that command requires given, its settings parse."""
    stage = recipe.parent.name
    module = __import__(f"{stage}.__main__", fromlist=["COMMANDS"])
    if stage == "slurm":
        settings = [(configs.Command("", module.ClusterConfig, "", recipe_option="--config"), [])]
    else:
        scenes = recipe.stem.endswith("_scenes")
        required = {"data_prep": ["F"] if scenes else ["M", "OUT"], "pretrain": ["--data.shards", "S", "--out", "R"]}
        finetune = ["--encoder", "E", "--data", "D", "--labels", "L", "--target", "t", "--out", "T"]
        settings = [
            (
                module.COMMANDS[{"data_prep": "synthetic" if scenes else "build"}.get(stage, "run")],
                required.get(stage, finetune),
            )
        ]
    for command, arguments in settings:
        configs.parse(stage, recipe.stem, command, ["--config", recipe.stem, *arguments])


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Makefile",
        ".ci/run",
        ".pre-commit-config.yaml",
        "docs/decisions.md",
    ],
)
def test_the_project_has_its_files(name: str) -> None:
    assert (ROOT / name).stat().st_size > 0


def test_a_file_can_be_read_in_one_sitting() -> None:
    for package in (*MAY_IMPORT, "benchmarks"):
        for file in (ROOT / package).rglob("*.py"):
            assert len(file.read_text().splitlines()) <= 450, f"{file.relative_to(ROOT)} is too long"
