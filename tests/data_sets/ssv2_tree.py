"""Something-Something v2 in small: <id>.webm and the four lists, as its authors have them (DATASETS.md, section 4)."""

from __future__ import annotations

import json
from pathlib import Path

from tests.data_sets.moving_pictures import write_stretches

CLASSES = {
    "Holding something": "0",
    "Pushing something from left to right": "93",
    "Putting something on something": "137",
}
TEMPLATES = {
    "Holding something": "Holding [something]",
    "Pushing something from left to right": "Pushing [something] from left to right",
    "Putting something on something": "Putting [something] on [something]",
}
# id -> (list, class)
VIDEOS = {
    "78687": ("train", "Holding something"),
    "42326": ("train", "Pushing something from left to right"),
    "100904": ("train", "Putting something on something"),
    "60322": ("train", "Holding something"),
    "42": ("train", "Pushing something from left to right"),
    "74225": ("validation", "Holding something"),
    "116154": ("validation", "Pushing something from left to right"),
    "151151": ("test", None),
}


def write_ssv2(root: Path) -> Path:
    """20bn-something-something-v2/<id>.webm of 2 s and labels/something-something-v2-*.json. Returns root."""
    lists: dict[str, list[dict]] = {"train": [], "validation": [], "test": []}
    for video, (split, action) in VIDEOS.items():
        moves = action is not None and action.startswith("Pushing")
        look = (0.0, 2.0, 160 if action and action.startswith("Putting") else 60, moves)
        write_stretches(root / "20bn-something-something-v2" / f"{video}.webm", 2.0, [look])
        item: dict = {"id": video}
        if action is not None:
            template = TEMPLATES[action]
            label = template.lower().replace("[something]", "a red cup")
            placeholders = ["a red cup"] * template.count("[")
            item |= {"label": label, "template": template, "placeholders": placeholders}
        lists[split].append(item)
    folder = root / "labels"
    folder.mkdir()
    for name, content in {**lists, "labels": CLASSES}.items():
        (folder / f"something-something-v2-{name}.json").write_text(json.dumps(content))
    return root
