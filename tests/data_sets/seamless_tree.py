"""Seamless Interaction in small: archives with a sample a person, as its authors have them (DATASETS.md, section 5)."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import soundfile

from tests.data_sets.moving_pictures import write_stretches

SECONDS = 4.0
DYAD = "V00_S0809_I00000582"
OTHER = "V01_S0011_I00000007"
# (style/split, archive) -> sample -> seconds in which the person speaks
ARCHIVES = {
    ("improvised/dev", "0000/0023"): {
        f"{DYAD}_P0947": [(0.5, 1.5), (2.0, 3.0)],
        f"{DYAD}_P0059A": [(1.5, 2.0), (3.5, 3.2), (77.0, 78.0)],  # the authors say that some times are wrong
    },
    ("naturalistic/train", "0004/0001"): {f"{OTHER}_P0001": [(0.0, 4.0)], f"{OTHER}_P0002": []},
}


def sample(folder: Path, key: str, speech: list[tuple[float, float]]) -> dict[str, bytes]:
    """The four members of a sample, by their suffix."""
    rng = np.random.default_rng(len(key) + len(speech))
    video = write_stretches(folder / f"{key}.mp4", SECONDS, [(start, end, 120, True) for start, end in speech])
    time = np.arange(round(48000 * SECONDS)) / 48000
    on = np.zeros(len(time))
    for start, end in speech:
        on += (time >= start) & (time < end)
    sound = io.BytesIO()
    soundfile.write(sound, 0.3 * on * np.sin(2 * np.pi * 220 * time), 48000, format="WAV", subtype="PCM_16")
    about = {
        "id": key,
        "metadata:transcript": [{"transcript": "hello", "start": s, "end": e, "words": []} for s, e in speech],
        "metadata:vad": [{"start": start, "end": end} for start, end in speech],
    }
    frames = round(30 * SECONDS)
    valid = np.ones((frames, 1), bool)
    valid[:30] = False
    arrays = {
        "movement:FAUValue": rng.normal(0, 1, (frames, 24)).astype(np.float32),
        "movement:is_valid": valid,
        "smplh:body_pose": rng.normal(0, 1, (frames, 21, 3)).astype(np.float32),
        "smplh:is_valid": np.ones(frames, bool),
    }
    npz = io.BytesIO()
    np.savez(npz, **arrays)
    return {
        "mp4": video.read_bytes(),
        "wav": sound.getvalue(),
        "json": json.dumps(about).encode(),
        "npz": npz.getvalue(),
    }


def write_seamless(root: Path, scratch: Path) -> Path:
    """improvised/dev/0000/0023.tar and so on. Returns root."""
    for (part, archive), samples in ARCHIVES.items():
        file = root / part / f"{archive}.tar"
        file.parent.mkdir(parents=True)
        with tarfile.open(file, "w") as tar:
            for key, speech in samples.items():
                for kind, content in sample(scratch, key, speech).items():
                    add(tar, f"{key}.{kind}", content)
    (root / "participants.csv").write_text("participant_id,openness\nP0947,3.5\n")
    return root


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """A file in an archive."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
