"""Small trees of exactly MPIIGroupInteraction's three layouts, with generated people in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.data_sets.mpii_clips import BEHAVIOURS
from tests.data_sets.multimediate_scenes import engagement, put_sound, put_stream, put_video, speakers, videos

EMPTY = {"recording07": 3, "recording09": 1, "recording11": None}
"""recording -> the seat (1 to 4) that nobody sits in; recording11 is a group of four."""
PARTS = {"recording07": "train", "recording09": "val", "recording11": "train"}


def seats_of(recording: str) -> list[int]:
    """Seats that somebody sits in, 1 to 4."""
    return [seat for seat in range(1, 5) if seat != EMPTY[recording]]


def write_2021(root: Path, threes: list[Path], four: Path) -> Path:
    """data/ and sample_lists/; threes, four: of ``draw`` with three and four people. Windows of 4 s stand for those of 10 s."""
    drawn = dict(zip(EMPTY, [*threes[:2], four], strict=True))
    eye: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    nxt: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for name, recording in drawn.items():
        seats, part = seats_of(name), PARTS[name]
        for person, seat in enumerate(seats):
            put_video(videos(recording)[person], root / "data" / name / f"subjectPos{seat}.video.avi")
        put_sound(videos(recording), root / "data" / name / "audio.wav")
        for start in (0.0, 2.0, 4.0):  # the second overlaps the others
            speaker = seats[speakers(recording)[int(start // 4)]]
            for seat in seats[:2]:
                looks = 0 if seat == speaker else speaker
                eye[part].append(f"{len(eye[part])},{name},{start},{start + 4.0},subjectPos{seat},{looks}")
            speaks = ",".join(str(int(seat == speaker)) for seat in range(1, 5))
            nxt[part].append(f"{len(nxt[part])},{name},{start},{start + 4.0},{speaks}")
    (root / "sample_lists").mkdir()
    for part in PARTS.values():
        for task, rows, columns in (
            ("eye_contact", eye[part], "subject,label"),
            ("next_speaker", nxt[part], "label_1,label_2,label_3,label_4"),
        ):
            lines = [f"index,recording,start_time,end_time,{columns}", *rows]
            (root / "sample_lists" / f"{part}_{task}.csv").write_text("\n".join(lines) + "\n")
    return root


def write_clips(root: Path, recordings: list[Path], clips: int = 4) -> Path:
    """clips_{train,val}/, train nested twice, three views each, and their CSV files; some behaviours never occur in val."""
    rng = np.random.default_rng(0)
    for part, folder in (("train", "clips_train/clips_train"), ("val", "clips_val")):
        lines = [",".join(["sample_id", *BEHAVIOURS])]
        for number in range(1, clips + 1):
            sources = videos(recordings[number % len(recordings)])
            for view, suffix in enumerate(("", "1", "2")):
                put_video(sources[view % len(sources)], root / folder / f"{number:05d}-video{suffix}.mp4")
            values = rng.integers(0, 2, len(BEHAVIOURS))
            values[0], values[1] = number % 2, part == "train"  # Legs crossed: never in val
            lines.append(",".join([f"{number:05d}", *map(str, values)]))
        (root / f"{part}.csv").write_text("\n".join(lines) + "\n")
    return root


def write_engagement(root: Path, recording: Path, number: str = "008", empty: int = 1) -> Path:
    """The engagement task's layout in folders by what is in them; recording: of ``draw`` with three people."""
    seats = [seat for seat in range(1, 5) if seat != empty]
    for person, seat in enumerate(seats):
        name = f"subjectPos{seat}"
        media = root / "originalAudioVideo-val" / number
        put_video(videos(recording)[person], media / f"{name}.video.mp4")
        put_sound([videos(recording)[person]], media / f"{name}.audio.wav")
        labels = root / "engagement-annotations-val" / number / f"{name}.engagement.annotation.csv"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text("\n".join(f"{value:.6f}" for value in engagement(recording, person)) + "\n")
        features = root / "precomputed-features-val" / number / f"{name}.audio.egemapsv2.stream"
        put_stream(features, np.full((320, 88), float(seat)), 40.0)
    return root
