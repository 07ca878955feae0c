"""How a command line and a YAML file become one typed config.

- A command is a dataclass of settings and a function; the function's module is imported only when the command runs,
  so that ``--help`` answers at once.
- ``--config NAME`` reads ``configs/<stage>/NAME.yaml`` (or a path); anything on the command line overrides it.
- An unknown key, a wrong type or a bad value ends the program with one line that names it and the nearest valid key.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import platform
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

HOME = Path(__file__).parent


class UserError(Exception):
    """Something that the user can mend: printed as one line, exit code 2."""


@dataclass(frozen=True)
class Command:
    """One subcommand of a stage.

    ``run`` is called with an instance of ``config`` and returns the exit code (None = 0); "module:function" is imported
    only then.
    ``positional`` names the fields that are given without ``--``; those that have a default may be left out, a list
    takes one value or more.
    """

    help: str
    config: type
    run: str | Callable[[Any], int | None]
    positional: tuple[str, ...] = ()
    recipe_option: str = "--config"


def find_recipe(stage: str, name: str, option: str = "--config") -> Path:
    """The YAML file of a recipe: a path as it is, else ``configs/<stage>/<name>.yaml``. Raises UserError."""
    if Path(name).suffix in {".yaml", ".yml"}:
        if Path(name).is_file():
            return Path(name)
        raise UserError(f"{option} {name}: no such file")
    path = HOME / stage / f"{name}.yaml"
    if path.is_file():
        return path
    known = sorted(file.stem for file in (HOME / stage).glob("*.yaml"))
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known) or 'none'}"
    raise UserError(f"{option} {name}: no recipe of that name for {stage}; {hint}")


def field_types(config: type, prefix: str = "") -> dict[str, Any]:
    """The dotted names of all settings of a dataclass and their types, nested ones included."""
    hints = get_type_hints(config)
    types: dict[str, Any] = {}
    for field in fields(config):
        types[prefix + field.name] = hints[field.name]
        for part in (hints[field.name], *get_args(hints[field.name])):
            if is_dataclass(part):
                types |= field_types(cast(type, part), f"{prefix}{field.name}.")
    return types


def _parser(stage: str, name: str, command: Command) -> Any:
    """The jsonargparse parser of one command."""
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=f"kinesic {stage} {name}",
        description=command.help,
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        command.recipe_option, action="config", help=f"recipe: a name out of configs/{stage}, or a YAML file"
    )
    hints = get_type_hints(command.config)
    docs = _attribute_docstrings(command.config)
    optional = {field.name for field in fields(command.config) if field.default is not MISSING}
    for positional in command.positional:
        kind = hints[positional]
        count: Any = {"nargs": "?"} if positional in optional else {}
        if get_origin(kind) is list:
            kind, count["nargs"] = get_args(kind)[0], "+"
        parser.add_argument(positional, type=kind, help=docs.get(positional, ""), **count)
    parser.add_class_arguments(command.config, None, skip=set(command.positional), fail_untyped=True)
    return parser


def _attribute_docstrings(config: type) -> dict[str, str]:
    from docstring_parser import parse_from_object

    return {p.arg_name: p.description or "" for p in parse_from_object(config).params}


def _with_bare_flags(argv: Sequence[str], config: type) -> list[str]:
    """``--dry_run`` alone means ``--dry_run true``: jsonargparse wants the value."""
    flags = {f"--{name}" for name, kind in field_types(config).items() if kind is bool}
    out: list[str] = []
    for here, following in zip(argv, [*argv[1:], ""], strict=False):
        out.append(here)
        if here in flags and following.lower() not in {"true", "false"}:
            out.append("true")
    return out


def _recipes_first(argv: Sequence[str], stage: str, option: str) -> tuple[list[str], list[Path]]:
    """``--config NAME`` with the recipe's path and before all else, so that what is typed wins wherever it stands."""
    recipes: list[Path] = []
    rest: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        if argument == option or argument.startswith(f"{option}="):
            name = argument.removeprefix(option).removeprefix("=") or next(arguments, "")
            if not name or name.startswith("--"):
                raise UserError(f"{option}: the recipe's name is missing")
            recipes.append(find_recipe(stage, name, option))
        else:
            rest.append(argument)
    return [*(f"{option}={recipe}" for recipe in recipes), *rest], recipes


def parse(stage: str, name: str, command: Command, argv: Sequence[str]) -> Any:
    """The typed config of a command line. Raises UserError: one line that names the key and the nearest valid one."""
    parser = _parser(stage, name, command)
    argv, recipes = _recipes_first(argv, stage, command.recipe_option)
    argv = _with_bare_flags(argv, command.config)
    try:
        namespace = parser.instantiate(parser.parse_args(argv))
        return command.config(**{field.name: getattr(namespace, field.name) for field in fields(command.config)})
    except argparse.ArgumentError as error:
        raise UserError(_explain(str(error), command.config, argv, recipes)) from None
    except (TypeError, ValueError) as error:  # an impossible pair of settings, from a dataclass's __post_init__
        raise UserError(str(error)) from None


def _explain(message: str, config: type, argv: Sequence[str], recipes: Sequence[Path]) -> str:
    """One line out of jsonargparse's message: what is wrong, in which file if not as typed, and the nearest valid key."""
    line = " ".join(message.split())
    names = list(field_types(config))
    if wrong := re.fullmatch(r'Parser key "([\w.]+)": Expected an? (.+?)\. Got value: (.*)', line):
        key, kind, value = wrong.groups()
        kind = re.sub(r"<class '([\w.]+)'>", r"\1", kind).replace("typing.Literal", "one of ").replace("typing.", "")
        line = f"{key}: expected {kind}, got {value}"
    unknown = re.findall(r"--([\w.-]+)", line) if line.startswith("unrecognized arguments") else []
    if found := re.search(r"(?:Group '([\w.]+)' does not accept o|O)ption '([\w.]+)'", line):
        unknown = [".".join(part for part in found.groups() if part)]
    near = [match for key in unknown for match in difflib.get_close_matches(key.replace("-", "_"), names, 1)]
    typed = ("unrecognized arguments", "argument ", "the following", *(f"{a.split('=')[0][2:]}:" for a in argv))
    where = "" if line.startswith(typed) or not recipes else f" (in {', '.join(map(str, recipes))})"
    return line + where + (f"; did you mean {', '.join(dict.fromkeys(near))}?" if near else "")


def main(stage: str, commands: dict[str, Command], argv: Sequence[str] | None = None) -> int:
    """Runs ``kinesic <stage> <command> ...`` and returns the exit code: 0 done, 2 wrong usage, else the command's own."""
    argv = list(sys.argv[1:] if argv is None else argv)
    words = next(
        (2 for name in commands if argv and name.startswith(f"{argv[0]} ")), 1
    )  # manifest folder, manifest ami
    name, rest = " ".join(argv[:words]), argv[words:]
    if not argv or {"-h", "--help"} & set(argv[:words]):
        print(f"usage: kinesic {stage} COMMAND ...\n")
        for known, command in commands.items():
            print(f"  {known:<{max(map(len, commands))}} {command.help}")
        print(f"\n'kinesic {stage} COMMAND --help' lists a command's settings.")
        return 0 if argv else 2
    if name not in commands:
        near = difflib.get_close_matches(name, commands, 1) if len(argv) >= words else []
        known = [other for other in commands if words == 1 or other.startswith(f"{argv[0]} ")]
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
        print(f"kinesic {stage}: no command {name!r}; {hint}", file=sys.stderr)
        return 2
    command = commands[name]
    try:
        config = parse(stage, name, command, rest)
        run = command.run
        if isinstance(run, str):
            module, function = run.split(":")
            run = getattr(importlib.import_module(module), function)
        return run(config) or 0
    except UserError as error:
        print(f"kinesic {stage} {name}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in {"data_prep", "pretrain", "finetune", "slurm"}:
            raise
        extra = {"data_prep": "prep", "pretrain": "train", "finetune": "finetune", "slurm": "cluster"}[stage]
        print(f"kinesic {stage} {name}: needs {error.name}: pip install 'kinesic[{extra}]'", file=sys.stderr)
        return 2


def write_run_record(folder: Path, config: Any, seed: int | None = None) -> None:
    """Writes the resolved config (config.yaml) and seed, command and versions (versions.json) into a run's folder."""
    from importlib.metadata import PackageNotFoundError, version

    import yaml

    packages = {}
    for package in (
        "kinesic",
        "torch",
        "torchaudio",
        "deepspeed",
        "xformers",
        "webdataset",
        "av",
        "mediapipe",
        "numpy",
    ):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = "not installed"
    record = {
        "command": sys.argv,
        "seed": seed,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("config.yaml", yaml.safe_dump(plain(config), sort_keys=False)),
        ("versions.json", json.dumps(record, indent=1)),
    ):
        temporary = folder / f".{name}.tmp"
        temporary.write_text(text)
        temporary.replace(folder / name)


def plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as what YAML and JSON can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
