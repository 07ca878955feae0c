"""``kinesic data_prep manifest ami ROOT``: the AMI meeting corpus -> manifest.

A meeting is a recording; its cameras (Closeup1, Corner, ...) and headset microphones are views. Who is in front of which
camera and behind which microphone says the corpus's own meetings.xml (in its manual annotations). What the distant microphones
and mixes hear is left out: the headsets hear it better. docs/ami.md walks through it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from configs import UserError
from data_prep.config import ManifestAmiConfig
from data_prep.draft import Draft, files_below, is_media, look, path_in, publish

FILE = re.compile(r"(?P<meeting>[IETB][SNB]\d{4}[a-z]?)\.(?P<view>[A-Za-z0-9._-]+)\.[A-Za-z0-9]+")
"""<meeting>.<camera or microphone>.<suffix>: ES2002a.Closeup1.avi, ES2002a.Headset-0.wav"""

# The partition "full-corpus" of the corpus's page on data sets, by group: whoever is not named here is in train
DEV = {"ES2003", "ES2011", "IS1008", "TS3004", "TS3006", "IB4001", "IB4002", "IB4003", "IB4004", "IB4010", "IB4011"}
TEST = {"ES2004", "ES2014", "IS1009", "TS3003", "TS3007", "EN2002"}
UNSPLIT = {"IB4005"}  # in no part of that partition

SHARED_CLOCK = "0"
"""A headset's offset: all of them went into one recorder."""


@dataclass
class People:
    """Who takes part in a meeting, by the number of the close-up camera and of the headset."""

    by_camera: dict[str, str] = field(default_factory=dict)
    by_headset: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Everybody, in the order of the headsets."""
        ordered = (*sorted(self.by_headset.items()), *sorted(self.by_camera.items()))
        return list(dict.fromkeys(name for _, name in ordered))


def ami(config: ManifestAmiConfig) -> int:
    """Runs the command; returns the exit code. Raises UserError where there is no meeting."""
    files = files_below(config.root)
    meetings = read_people(next((file for file in files if file.name == "meetings.xml"), None))
    draft = Draft([])
    for file in filter(is_media, files):
        found = FILE.fullmatch(file.name)
        if found is None:
            draft.remark("media files are not named as the corpus names its own", file.name)
            continue
        meeting, view = found["meeting"], found["view"]
        row = _row(file, view, meetings.get(meeting, People()), draft)
        if row is not None:
            named = {"path": path_in(config.out, file), "recording": meeting, "view": view}
            draft.rows.append({**named, **row, "split": split_of(meeting)})
    if not draft.rows:
        raise UserError(f"{config.root}: no file of a meeting in it, such as ES2002a.Closeup1.avi")
    for meeting in dict.fromkeys(row["recording"] for row in draft.rows):
        if meeting not in meetings:
            draft.remark("meetings without participants, as no meetings.xml below the folder names them", meeting)
    return publish(draft, config.out)


def _row(file: Path, view: str, people: People, draft: Draft) -> dict[str, str] | None:
    """Participants and offset of a camera or a headset; None for other microphones."""
    if headset := re.fullmatch(r"Headset-(\d+)", view):
        return {"participants": people.by_headset.get(headset[1], ""), "offset": SHARED_CLOCK}
    seen = look(file)
    if seen is not None and not seen.video:
        draft.remark("mixes and distant microphones are left out", file.name)
        return None
    offset = ""  # measured from the sound, which the cameras of some sites need: they lost frames
    if seen is None or not seen.sound:
        draft.remark("cameras have no sound to find their offset by; 0, the corpus's own clock, is taken", file.name)
        offset = SHARED_CLOCK
    closeup = re.fullmatch(r"Closeup(\d+)", view)
    shown = people.by_camera.get(closeup[1], "") if closeup else ";".join(people.names)
    return {"participants": shown, "offset": offset}


def split_of(meeting: str) -> str:
    """train, dev or test in the corpus's own partition, which keeps the four meetings of a group together."""
    group = meeting[:6]
    if group in UNSPLIT:
        return ""
    return "dev" if group in DEV else "test" if group in TEST else "train"


def read_people(path: Path | None) -> dict[str, People]:
    """Who takes part in each meeting, from meetings.xml; nothing without it. Raises UserError where it is no such file.

    Entities, with which a small file can be made to fill the memory or to read others, are refused.
    """
    meetings: dict[str, People] = {}
    if path is None:
        return meetings
    here = People()

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal here
        if tag == "meeting":
            here = meetings.setdefault(attributes.get("observation", ""), People())
        elif tag == "speaker":
            name = attributes.get("global_name", "")
            if re.fullmatch(r"\w+", name):
                camera = re.search(r"\d+$", attributes.get("camera", ""))
                if camera:
                    here.by_camera[camera[0]] = name
                if attributes.get("channel", "").isdecimal():
                    here.by_headset[attributes["channel"]] = name

    def refuse(*_: object) -> None:
        raise UserError(f"{path}: declares an entity, which the corpus's own file does not; unpack it again")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EntityDeclHandler = refuse
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except (expat.ExpatError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); unpack it again") from None
    return meetings
