"""configs: how a command line and a recipe become a typed config, and what a user reads when they cannot."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml

import configs
from configs import Command, UserError, find_recipe, parse, plain, write_run_record


@dataclass
class TrunkConfig:
    """Sizes."""

    dim: int = 384
    """width"""
    kind: Literal["plain", "pooled"] = "plain"
    """which one"""
    frozen: bool = False
    """do not train"""

    def __post_init__(self) -> None:
        if self.dim % 2:
            raise ValueError(f"trunk.dim: {self.dim} is odd")


@dataclass
class TrainConfig:
    """A config with all that ours have: a required field, nesting, a list, an optional value."""

    out: Path
    """folder of the run"""
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    """the trunk"""
    rates: list[float] = field(default_factory=list)
    """learning rates"""
    seed: int | None = None
    """seed"""
    dry_run: bool = False
    """only print"""

    def __post_init__(self) -> None:
        if self.seed is not None and self.seed < 0:
            raise ValueError(f"seed: {self.seed} is negative")


COMMAND = Command("train", TrainConfig, lambda config: None, positional=("out",))


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of recipes in the place of configs/; its stage is called 'stage'."""
    monkeypatch.setattr(configs, "HOME", tmp_path)
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "demo.yaml").write_text("trunk: {dim: 192}\nseed: 1\n")
    return tmp_path / "stage"


def parse_line(line: str) -> TrainConfig:
    return parse("stage", "train", COMMAND, line.split())


def error_of(line: str) -> str:
    with pytest.raises(UserError) as caught:
        parse_line(line)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_values_are_typed_and_defaults_stay(recipes: Path) -> None:
    config = parse_line("OUT --trunk.dim 64 --rates [1,0.5] --seed 3")
    assert config == TrainConfig(Path("OUT"), TrunkConfig(dim=64), [1.0, 0.5], 3)


@pytest.mark.parametrize(
    "line", ["OUT --config demo --seed 5", "OUT --seed 5 --config demo", "--config=demo OUT --seed=5"]
)
def test_what_is_typed_wins_over_the_recipe_wherever_it_stands(line: str, recipes: Path) -> None:
    assert parse_line(line) == TrainConfig(Path("OUT"), TrunkConfig(dim=192), seed=5)


def test_the_later_recipe_wins(recipes: Path) -> None:
    (recipes / "big.yaml").write_text("trunk: {kind: pooled}\nseed: 2\n")
    assert parse_line("OUT --config demo --config big") == TrainConfig(Path("OUT"), TrunkConfig(192, "pooled"), seed=2)


@pytest.mark.parametrize("line", ["--dry_run OUT", "OUT --dry_run", "OUT --dry_run true", "--dry_run=true OUT"])
def test_a_bare_flag_is_true(line: str, recipes: Path) -> None:
    assert parse_line(line) == TrainConfig(Path("OUT"), dry_run=True)


def test_a_positional_field_with_a_default_may_be_left_out(recipes: Path) -> None:
    @dataclass
    class Given:
        run: Path | None = None
        check: Path | None = None

    command = Command("", Given, lambda config: None, positional=("run",))
    assert parse("stage", "given", command, ["--check", "A"]) == Given(None, Path("A"))
    assert parse("stage", "given", command, ["B"]) == Given(Path("B"))


def test_a_nested_bare_flag_is_true_and_a_flag_can_be_false(recipes: Path) -> None:
    assert parse_line("OUT --trunk.frozen --dry_run false") == TrainConfig(Path("OUT"), TrunkConfig(frozen=True))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trunk: {dimm: 3}", ["'dimm'", "did you mean trunk.dim?"]),
        ("sead: 3", ["'sead'", "did you mean seed?"]),
        ("trunk: {dim: wide}", ["trunk.dim: expected int, got wide"]),
        ("trunk: {kind: rough}", ["trunk.kind: expected one of ['plain', 'pooled'], got rough"]),
        ("- a list", ["a list"]),
        ("trunk: {dim: 3", ["line 1"]),
    ],
)
def test_a_wrong_recipe_is_named_with_its_file(text: str, words: list[str], recipes: Path) -> None:
    (recipes / "wrong.yaml").write_text(text)
    error = error_of("OUT --config wrong")
    for word in [*words, str(recipes / "wrong.yaml")]:
        assert word in error


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("OUT --trunk.dimm 3", ["--trunk.dimm", "did you mean trunk.dim?"]),
        ("OUT --trnk.dim 3", ["--trnk.dim", "did you mean trunk.dim?"]),
        ("OUT --dry-run true", ["--dry-run", "did you mean dry_run?"]),
        (
            "OUT --see 3",
            ["--see", "did you mean seed?"],
        ),  # no abbreviations: they would change meaning with a new setting
        ("OUT --trunk.dim wide", ["trunk.dim: expected int, got wide"]),
        ("OUT --trunk.kind rough", ["trunk.kind: expected one of ['plain', 'pooled'], got rough"]),
        ("OUT --trunk.dim 3", ["trunk.dim: 3 is odd"]),
        ("OUT --seed -3", ["seed: -3 is negative"]),
        ("OUT --seed", ["--seed: expected one argument"]),
        ("OUT more", ["more"]),
        ("", ["required", "out"]),
        ("OUT --config", ["--config: the recipe's name is missing"]),
        ("OUT --config --seed 3", ["--config: the recipe's name is missing"]),
    ],
)
def test_a_wrong_command_line_is_named_and_the_recipe_is_not_blamed(line: str, words: list[str], recipes: Path) -> None:
    for error in (error_of(line), error_of(f"--config demo {line}")):
        for word in words:
            assert word in error
        assert "demo.yaml" not in error


def test_a_recipe_that_is_not_there(recipes: Path) -> None:
    assert find_recipe("stage", "demo") == recipes / "demo.yaml"
    assert find_recipe("stage", str(recipes / "demo.yaml")) == recipes / "demo.yaml"
    assert "did you mean demo?" in error_of("OUT --config demoo")
    assert "there are: demo" in error_of("OUT --config zzz")
    assert "no such file" in error_of("OUT --config zzz.yaml")


def test_exit_codes_and_one_line_on_stderr(recipes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[TrainConfig] = []

    def fail(config: TrainConfig) -> int:
        seen.append(config)
        raise UserError("no shard in OUT")

    commands = {
        "train": COMMAND,
        "count": Command("", TrainConfig, lambda _: 3),
        "fail": Command("", TrainConfig, fail),
    }
    assert configs.main("stage", commands, ["train", "OUT"]) == 0
    assert configs.main("stage", commands, ["count", "--out", "OUT"]) == 3
    capsys.readouterr()
    assert configs.main("stage", commands, ["fail", "--out", "OUT"]) == 2
    assert capsys.readouterr().err == "kinesic stage fail: no shard in OUT\n"
    assert seen == [TrainConfig(Path("OUT"))]
    assert configs.main("stage", commands, ["trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err
    assert configs.main("stage", commands, []) == 2
    assert configs.main("stage", commands, ["--help"]) == 0
    assert "count" in capsys.readouterr().out


def test_commands_of_two_words(recipes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[TrainConfig] = []
    commands = {"train": COMMAND, "make one": Command("", TrainConfig, lambda config: seen.append(config), ("out",))}
    commands["make two"] = commands["make one"]
    assert configs.main("stage", commands, ["make", "one", "OUT", "--seed", "3"]) == 0
    assert seen == [TrainConfig(Path("OUT"), seed=3)]
    assert configs.main("stage", commands, ["make", "--help"]) == 0
    assert "make two" in capsys.readouterr().out
    assert configs.main("stage", commands, ["make"]) == 2
    assert capsys.readouterr().err == "kinesic stage: no command 'make'; there are: make one, make two\n"
    assert configs.main("stage", commands, ["make", "tow"]) == 2
    assert "did you mean make two?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        configs.main("stage", commands, ["make", "two", "--help"])
    assert "kinesic stage make two" in capsys.readouterr().out


def test_help_shows_every_setting_with_its_default_and_what_it_is(
    recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        configs.main("stage", {"train": COMMAND}, ["train", "--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in ("folder of the run", "--trunk.dim TRUNK.DIM width (default: 384)", "do not train", "configs/stage"):
        assert words in text


def test_the_run_record_says_what_ran(tmp_path: Path) -> None:
    write_run_record(tmp_path / "run", TrainConfig(Path("OUT"), TrunkConfig(dim=64), [0.5]), seed=7)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()) == {
        "out": "OUT",
        "trunk": {"dim": 64, "kind": "plain", "frozen": False},
        "rates": [0.5],
        "seed": None,
        "dry_run": False,
    }
    record = json.loads((tmp_path / "run" / "versions.json").read_text())
    assert record["seed"] == 7
    assert record["packages"]["torch"][0].isdigit()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.yaml", "versions.json"]


def test_a_written_config_is_a_recipe_that_gives_the_same_config(tmp_path: Path, recipes: Path) -> None:
    config = TrainConfig(Path("OUT"), TrunkConfig(64, "pooled", True), [0.5], 3, True)
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(plain(config)))
    command = Command("train", TrainConfig, lambda _: None)
    assert parse("stage", "train", command, ["--config", str(tmp_path / "again.yaml")]) == config
