"""What the MultiMediate challenge distributes, whatever data set it is of: files of roles, lines of labels, feature streams.

    noxi/{train,val,test-base,test-additional}/004/expert.video.mp4
    mpiigroupinteraction/engagement-annotations-val/008/subjectPos1.engagement.annotation.csv

A folder that holds such files is a session; what comes before the first dot is the role (expert, subjectPos1), the rest what it is.
Files of one session may lie in several folders. The readers of the single sets (noxi.py, mpii_group.py) say which roles there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from data_prep.draft import Draft, is_media, path_in

SPLITS = {
    "train": "train",
    "val": "test_val",
    "test": "test",
    "test-base": "test_base",
    "test-additional": "test_additional",
}
"""Their parts and ours: labels of the test parts are not public, so that val is what is reported, and never trained on."""
PART = re.compile(rf"(?:.*-)?(?P<part>{'|'.join(sorted(SPLITS, key=len, reverse=True))})")
"""A folder of the path that names the part: val, engagement-annotations-val."""
SET_NAMES = {"noxi": "NoXi", "noxi-j": "NoXi-J", "mpiigi": "MPIIGI"}
RATE = 25.0
"""Frame-wise labels of engagement a second."""
MISSING = {"", "nan", "-nan(ind)"}
ENGAGEMENT = "engagement.annotation.csv"
SHARED_CLOCK = "0"
"""The offset of all files: labels, pictures and sound are told on one clock, and the public loaders read them so."""


@dataclass
class Session:
    """A recording. roles: of its people. files: (role, rest of the name) -> path, as ("expert", "video.mp4")."""

    set: str
    number: str
    part: str
    roles: tuple[str, ...]
    files: dict[tuple[str, str], Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the recording is called; the number is text and keeps its zeros: noxi-004."""
        return f"{self.set}-{self.number}"

    @property
    def split(self) -> str:
        """The split of the manifest, "" where no folder names a part."""
        return SPLITS.get(self.part, "")

    @property
    def scored_with(self) -> str:
        """Whose frames it is pooled with in the challenge's table."""
        return SET_NAMES[self.set] + (" (additional)" if self.part == "test-additional" else "")

    def participant(self, role: str) -> str:
        """Who has a role here; that a person comes again in another session is told nowhere."""
        return f"{self.name}.{role}"


def find_sessions(root: Path, files: Iterable[Path], name: str, roles: tuple[str, ...], draft: Draft) -> list[Session]:
    """The sessions of a set by their names. name: of the set. Two files for one thing, and media of no role, are remarked."""
    found: dict[str, Session] = {}
    for file in files:
        role, _, rest = file.name.partition(".")
        if role not in (*roles, "language"):
            if is_media(file):
                draft.remark(f"media files of none of the roles {', '.join(roles)}", str(file.relative_to(root)))
            continue
        part = next((m["part"] for p in reversed(file.relative_to(root).parts[:-1]) if (m := PART.fullmatch(p))), "")
        session = found.setdefault(file.parent.name, Session(name, file.parent.name, part, roles))
        if part != session.part:
            draft.remark("sessions lie in two parts; the first is taken", f"{session.name} ({session.part}, {part})")
        elif session.files.setdefault((role, rest), file) != file:
            draft.remark("files are there a second time; the first is used", str(file.relative_to(root)))
    return [found[number] for number in sorted(found)]


def manifest_rows(session: Session, out: Path) -> list[dict[str, str]]:
    """A row a video and a microphone: views expert, expert_audio, each of its own person."""
    language = session.files.get(("language", "annotation.csv"))
    more = {"x.set": session.scored_with, "x.language": read_language(language) if language else ""}
    rows = []
    for (role, rest), file in sorted(session.files.items()):
        if role in session.roles and is_media(file):
            view = role if rest.startswith("video.") else f"{role}_{rest.rpartition('.')[0].replace('.', '_')}"
            row = {"path": path_in(out, file), "recording": session.name, "view": view, "offset": SHARED_CLOCK}
            rows.append({**row, "participants": session.participant(role), "split": session.split, **more})
    return rows


def engagement_labels(session: Session, draft: Draft) -> pd.DataFrame:
    """A row a labelled frame (1/25 s): recording, participant, start, end, engagement; then split, set, session, role, frame."""
    parts = []
    for role in session.roles:
        file = session.files.get((role, ENGAGEMENT))
        if file is None:
            continue
        values = read_frames(file)
        frame = np.flatnonzero(np.isfinite(values))  # a line without a number is a frame without a label: time goes on
        if len(frame) < len(values):
            draft.remark("label files have lines without a number", f"{file.name} of {session.name}")
        table = pd.DataFrame({"start": (frame / RATE).round(6), "end": ((frame + 1) / RATE).round(6)})
        table = table.assign(engagement=values[frame], frame=frame, role=role)
        parts.append(table.assign(recording=session.name, participant=session.participant(role)))
    columns = ["recording", "participant", "start", "end", "engagement", "split", "set", "session", "role", "frame"]
    if not parts:
        return pd.DataFrame(columns=columns)
    whole = pd.concat(parts, ignore_index=True)
    return whole.assign(split=session.split, set=session.scored_with, session=session.number)[columns]


def read_lines(path: Path) -> list[str]:
    """The lines of an annotation file, stripped; UTF-8 or else latin-1, empty ones at the end left out."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return [line.strip() for line in text.rstrip().splitlines()]


def read_frames(path: Path) -> np.ndarray:
    """Frame-wise labels, float64 [line]; nan where there is no number: an empty line, nan, -nan(ind), anything else."""
    return np.array([_number(line) for line in read_lines(path)], np.float64)


def _number(line: str) -> float:
    if line.lower() in MISSING:
        return np.nan
    try:
        value = float(line)
    except ValueError:
        return np.nan
    return value if np.isfinite(value) else np.nan


def read_language(path: Path) -> str:
    """The language of a session: the third field of language.annotation.csv; "" where there is none."""
    fields = next(iter(read_lines(path)), "").split(";")
    return fields[2].strip() if len(fields) > 2 else ""
