"""``kinesic data_prep manifest noxi ROOT``: NoXi and NoXi-J as MultiMediate distributes them -> manifest, engagement as labels.

A session is a talk of an expert and a novice over a screen, one camera and one microphone each: a recording with views expert,
novice, expert_audio and novice_audio. Engagement is labelled 25 times a second from 0 to 1. The official val is the split
``test_val``: labels of the test parts are not public.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from configs import UserError
from data_prep.data_sets import mpii_group
from data_prep.data_sets.config import ManifestNoxiConfig
from data_prep.data_sets.multimediate import Session, engagement_labels, find_sessions, manifest_rows
from data_prep.data_sets.ssi import write_streams
from data_prep.data_sets.tables import write_labels
from data_prep.draft import Draft, files_below, publish

ROLES = ("expert", "novice")
SETS = ("noxi", "noxi-j")


def noxi(config: ManifestNoxiConfig) -> int:
    """Runs the command; returns the exit code. Raises UserError where there is no session."""
    draft = Draft([])
    found = sessions(config.root, draft)
    if config.mpii_group is not None:
        found += mpii_group.sessions(config.mpii_group, draft)
    for session in found:
        rows = manifest_rows(session, config.out)
        if not rows:
            draft.remark("sessions have neither pictures nor sound", session.name)
        draft.rows += rows
    if not draft.rows:
        raise UserError(f"{config.root}: no video or sound of a session in it, such as noxi/train/001/expert.video.mp4")
    labels = pd.concat([engagement_labels(session, draft) for session in found], ignore_index=True)
    if config.streams is not None:
        write_streams(found, config.streams, config.features, draft)
    code = publish(draft, config.out)
    write_labels(config.labels, labels)
    return code


def sessions(root: Path, draft: Draft) -> list[Session]:
    """NoXi's sessions, then NoXi-J's: below folders of these names, or all below a folder of one of them. Raises UserError."""
    files = files_below(root)
    found: list[Session] = []
    for name in SETS:
        below = [root / name] if (root / name).is_dir() else [root] if root.name.lower() == name else []
        for folder in below:
            mine = [file for file in files if file.is_relative_to(folder)]
            found += find_sessions(folder, mine, name, ROLES, draft)
    if not found:
        raise UserError(f"{root}: neither a folder noxi or noxi-j in it, nor called so itself")
    return found
