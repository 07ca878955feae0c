"""``kinesic data_prep manifest folder ROOT --pattern '{recording}/cam{view}/{part}.mp4'``: paths -> manifest.

In a pattern {name} is a column of the manifest, * any text; neither reaches over a /. A name that stands twice has to be
the same text both times. {part} is a number.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

from configs import UserError
from data_prep.config import ManifestFolderConfig
from data_prep.draft import Draft, files_below, is_media, path_in, publish
from data_prep.manifest import COLUMNS

FIELDS = tuple(column for column in COLUMNS if column != "path")


def folder(config: ManifestFolderConfig) -> int:
    """Runs the command; returns the exit code. Raises UserError where nothing matches."""
    matches = matcher(config.pattern)
    draft = Draft([])
    for file in files_below(config.root):
        name = file.relative_to(config.root).as_posix()
        row = matches(name)
        if row is not None and is_media(file):
            draft.rows.append({"path": path_in(config.out, file), **row})
        elif row is not None:
            draft.remark("files match and are no media files", name)
        elif is_media(file):
            draft.remark("media files do not match", name)
    if not draft.rows:
        unmatched = draft.remarks.get("media files do not match")
        hint = f"the first of {len(unmatched)} there is {unmatched[0]}" if unmatched else "there is none at all"
        raise UserError(f"{config.root}: no media file matches {config.pattern!r}; {hint}")
    return publish(draft, config.out)


def matcher(pattern: str) -> Callable[[str], dict[str, str] | None]:
    """A function from a path to the columns that the pattern finds in it, None where it does not match.

    Raises UserError for a pattern that says nothing.
    """
    names: list[str] = []
    expression = ""
    for text, name, star in re.findall(r"([^{}*]+)|\{([^{}]*)\}|(\*)|[{}]", pattern.removeprefix("./")):
        if text:
            expression += re.escape(text)
        elif star:
            expression += "[^/]*"
        elif name in names:
            expression += rf"(?P=f{names.index(name)})"
        else:
            _check_field(name, pattern)
            expression += rf"(?P<f{len(names)}>{r'[0-9]+' if name == 'part' else '[^/]+'})"
            names.append(name)
    if "recording" not in names:
        raise UserError(f"--pattern {pattern!r}: no {{recording}} in it, so nothing tells which files belong together")
    compiled = re.compile(expression, re.DOTALL)

    def match(path: str) -> dict[str, str] | None:
        found = compiled.fullmatch(path)
        return None if found is None else {name: found[f"f{number}"] for number, name in enumerate(names)}

    return match


def _check_field(name: str, pattern: str) -> None:
    if name not in FIELDS and not re.fullmatch(r"x\..+", name):
        near = difflib.get_close_matches(name, FIELDS, 1)
        hint = f"did you mean {{{near[0]}}}?" if near else f"there are {', '.join(FIELDS)} and your own as x.name"
        raise UserError(f"--pattern {pattern!r}: no column {name!r}; {hint}")
