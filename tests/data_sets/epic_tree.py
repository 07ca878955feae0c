"""EPIC-KITCHENS-100 in small: folders, file names, columns and quoting as its authors have them (DATASETS.md, section 3)."""

from __future__ import annotations

import csv
from pathlib import Path

from tests.data_sets.moving_pictures import write_stretches

COLUMNS = [
    *("narration_id", "participant_id", "video_id", "narration_timestamp", "start_timestamp", "stop_timestamp"),
    *("start_frame", "stop_frame", "narration", "verb", "verb_class", "noun", "noun_class", "all_nouns"),
    "all_noun_classes",
]
VERBS = {0: "take", 1: "put", 13: "throw", 96: "fall"}
NOUNS = {0: "tap", 2: "plate", 49: "paper", 299: "foil"}
LISTS = {"EPIC_100_train.csv": 15, "EPIC_100_validation.csv": 15, "EPIC_100_test_timestamps.csv": 8}
# video -> (list, seconds, segments: start, end, verb class, noun class)
VIDEOS: dict[str, tuple[str, float, list[tuple[float, float, int, int]]]] = {
    "P01_01": ("EPIC_100_train.csv", 8.0, [(0.0, 1.9, 0, 2), (2.0, 3.97, 1, 2), (4.0, 5.9, 0, 49), (6.0, 7.9, 1, 49)]),
    "P01_101": ("EPIC_100_train.csv", 8.0, [(0.0, 1.9, 1, 49), (2.0, 3.9, 0, 49), (4.0, 5.9, 1, 2), (6.0, 7.9, 0, 2)]),
    "P02_01": ("EPIC_100_train.csv", 8.0, [(0.0, 1.9, 13, 2), (2.0, 3.9, 0, 2), (4.0, 5.9, 13, 49), (6.0, 7.9, 1, 49)]),
    "P01_11": (
        "EPIC_100_validation.csv",
        8.0,
        [(0.0, 1.89, 0, 2), (2.0, 3.45, 1, 2), (2.5, 5.5, 13, 49), (6.0, 7.9, 1, 49)],
    ),
    "P18_02": ("EPIC_100_validation.csv", 4.0, [(0.0, 1.9, 0, 49), (2.0, 3.9, 96, 299)]),
    "P01_102": ("EPIC_100_test_timestamps.csv", 4.0, [(0.1, 1.9, 0, 2), (2.0, 3.87, 1, 49)]),
    "P33_101": ("EPIC_100_test_timestamps.csv", 4.0, [(0.5, 3.5, 0, 2)]),
}


def write_epic(root: Path) -> Path:
    """Videos P01/videos/P01_01.MP4 ... of 8 pictures a second, and epic-kitchens-100-annotations beside them. Returns root."""
    for video, (_, seconds, segments) in VIDEOS.items():
        looks = [(start, end, 60 if noun == 2 else 180, verb == 0) for start, end, verb, noun in segments]
        write_stretches(root / video.split("_")[0] / "videos" / f"{video}.MP4", seconds, looks)
    frames = root / "P01" / "rgb_frames"
    frames.mkdir()
    (frames / "P01_01.tar").touch()
    write_annotations(root / "epic-kitchens-100-annotations")
    return root


def stamp(seconds: float, digits: int = 2) -> str:
    """HH:MM:SS.ss"""
    return f"00:00:{seconds:0{3 + digits}.{digits}f}"


def write_annotations(folder: Path) -> None:
    """All CSV files; frame numbers count 60 a second (50 in the extension), whatever the video has."""
    folder.mkdir(parents=True)
    for name, width in LISTS.items():
        with (folder / name).open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS[:width])
            for video, (where, _, segments) in VIDEOS.items():
                if where != name:
                    continue
                rate = 50 if len(video.split("_")[1]) == 3 else 60
                for number, (start, end, verb, noun) in enumerate(segments):
                    nouns = ([NOUNS[noun], "bin"], [noun, 36]) if number % 2 else ([NOUNS[noun]], [noun])
                    row = [f"{video}_{number}", video.split("_")[0], video, stamp(start, 3) if number else ""]
                    row += [stamp(start), stamp(end), int(start * rate) + 1, int(end * rate)]
                    row += [
                        f"{VERBS[verb]} {NOUNS[noun]}",
                        f"{VERBS[verb]}-into",
                        verb,
                        NOUNS[noun],
                        noun,
                        *map(str, nouns),
                    ]
                    writer.writerow(row[:width])
    for kind, known, count in (("verb", VERBS, 97), ("noun", NOUNS, 300), ("noun", NOUNS, 305)):
        name = f"EPIC_100_{kind}_classes{'_v2' if count == 305 else ''}.csv"
        rows = [f"{n},{known.get(n, f'{kind}:{n}')},\"['a', 'b']\",group" for n in range(count)]
        (folder / name).write_text("\n".join(["id,key,instances,category", *rows]) + "\n")
    (folder / "EPIC_100_tail_verbs.csv").write_text("verb\n13\n96\n")
    (folder / "EPIC_100_tail_nouns.csv").write_text("noun\n299\n")
    (folder / "EPIC_100_unseen_participant_ids_validation.csv").write_text("participant_id\nP18\nP32\n")
    (folder / "EPIC_100_unseen_participant_ids_test.csv").write_text("participant_id\nP33\nP34\nP36\n")
    rows = [f"{video},{seconds},59.94005994005994,1920x1080" for video, (_, seconds, _) in VIDEOS.items()]
    (folder / "EPIC_100_video_info.csv").write_text("\n".join(["video_id,duration,fps,resolution", *rows]) + "\n")
