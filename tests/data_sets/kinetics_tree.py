"""Kinetics in small: clips in folders by class or flat, and lists, as they are distributed (DATASETS.md, section 4)."""

from __future__ import annotations

from pathlib import Path

from tests.data_sets.moving_pictures import write_stretches

# youtube id -> (list, start, end, class, folder: None = flat)
CLIPS = {
    "-0H3T2B9PH4": ("train", 25, 35, "abseiling", "abseiling"),
    "_a_000001_0": ("train", 0, 10, "playing bass guitar", "playing bass guitar"),
    "bbbbbbbbbbb": ("train", 107, 117, 'shooting "goal" (soccer)', "shooting_goal_(soccer)"),
    "ccccccccccc": ("train", 1, 11, "abseiling", None),
    "ddddddddddd": ("train", 2, 12, "playing bass guitar", None),
    "eeeeeeeeeee": ("val", 3, 13, "abseiling", "abseiling"),
    "fffffffffff": ("val", 4, 14, "playing bass guitar", None),
    "ggggggggggg": ("test", 5, 15, "", None),
}
ALONE = "ddddddddddd"
"""Whose file is called by the id alone."""


def write_kinetics(root: Path, videos: bool = True) -> Path:
    """Clips of 2 s and annotations/{train,val,test}.csv; the val list has the old column is_cc. Returns root."""
    rows: dict[str, list[str]] = {
        "train": ["label,youtube_id,time_start,time_end,split"],
        "val": ["label,youtube_id,time_start,time_end,split,is_cc"],
        "test": ["youtube_id,time_start,time_end,split"],
    }
    for name, (split, start, end, action, folder) in CLIPS.items():
        if videos:
            file = name if name == ALONE else f"{name}_{start:06d}_{end:06d}"
            look = (0.0, 2.0, 60, action != "abseiling")
            write_stretches(root / "clips" / (folder or "") / f"{file}.mp4", 2.0, [look])
        said = "validate" if split == "val" else split
        label = '"' + action.replace('"', '""') + '"' if '"' in action else action
        cells = [str(start), str(end), said]
        row = [name, *cells] if split == "test" else [label, name, *cells, *(["0"] if split == "val" else [])]
        rows[split].append(",".join(row))
    (root / "annotations").mkdir(parents=True)
    for split, lines in rows.items():
        (root / "annotations" / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return root
