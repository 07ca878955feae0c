"""A small tree of exactly NoXi's and NoXi-J's layout at MultiMediate, with generated people in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.data_sets.multimediate_scenes import engagement, put_sound, put_stream, put_video, videos

ROLES = ("expert", "novice")
SESSIONS = (
    ("noxi/train/001", "English"),
    ("noxi/train/008", "Français"),
    ("noxi/val/004", "English"),
    ("noxi/test-base/026", "English"),
    ("noxi/test-additional/079", "Italian"),
    ("noxi-j/train/086", "Japanese"),
    ("noxi-j/val/121", "Chinese"),
)


def write_noxi(root: Path, recordings: list[Path]) -> Path:
    """recordings: of ``draw`` with two people; they are used in turn. Returns the root."""
    rng = np.random.default_rng(0)
    for number, (where, language) in enumerate(SESSIONS):
        folder, recording = root / where, recordings[number % len(recordings)]
        for person, role in enumerate(ROLES):
            put_video(videos(recording)[person], folder / f"{role}.video.mp4")
            put_sound([videos(recording)[person]], folder / f"{role}.audio.wav")
            put_stream(folder / f"{role}.audio.egemapsv2.stream", rng.normal(size=(200, 88)), 25.0)
            put_stream(folder / f"{role}.openpose.stream", rng.normal(size=(200, 139)), 25.0)
            (folder / f"{role}.audio.transcript.annotation.csv").write_text("0.5;1.5;hello;0.9\n")
            if "test" not in where:
                lines = [f"{value:.6f}" for value in engagement(recording, person)]
                (folder / f"{role}.engagement.annotation.csv").write_text("\n".join(lines) + "\n")
        (folder / "language.annotation.csv").write_bytes(f"0.0;1680.0;{language};1.0\n".encode("latin-1"))
    return root
