"""The files of a release, and whether a folder holds them as they were written, and nothing that could do harm.

Nothing here reads weights or settings: what is refused is refused before any of it is opened.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from configs import UserError

WEIGHTS, CONFIG, CARD, HUB_CARD, SUMS = "model.safetensors", "config.json", "MODEL_CARD.md", "README.md", "SHA256SUMS"
PICKLES = {".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}
PROTOCOLS = {b"\x02", b"\x03", b"\x04", b"\x05"}  # those whose pickles begin alike; of older ones the name alone tells
CLIENTS = {".cache", ".git", ".gitattributes"}  # what git and model hubs' clients put beside the files of a repository


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Writes SHA256SUMS of these files, as ``sha256sum`` does."""
    (folder / SUMS).write_text("".join(f"{_sha256(folder / name)}  {name}\n" for name in names))


def check_files(folder: Path) -> list[str]:
    """The names that SHA256SUMS has. Raises UserError unless it names the files of a release, which lie in this folder as they
    were written, and there is no pickle in the folder or below it, listed or not."""
    _refuse(folder, _leaving(folder, [SUMS]), "a link out of this folder")
    sums: dict[str, str] = {}
    for line in (folder / SUMS).read_text(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        if not name or name != Path(name).name or name in {".", "..", SUMS}:
            raise UserError(f"{folder / SUMS}: {name or line!r} is no file of this folder")
        sums[name] = digest
    _refuse(folder, sorted({WEIGHTS, CONFIG} - set(sums)), f"not listed in {SUMS}")
    _refuse(folder, _pickles(folder), "no pickle is read: it can run code; remove it")
    _refuse(folder, _leaving(folder, sums), "a link out of this folder: copy the file itself here")
    _refuse(folder, (name for name in sums if not (folder / name).is_file()), f"listed in {SUMS}, but missing")
    changed = (name for name, digest in sums.items() if _sha256(folder / name) != digest)
    _refuse(folder, changed, f"not what {SUMS} says: damaged or changed, fetch the release again")
    return list(sums)


def unlisted(folder: Path, listed: Iterable[str]) -> list[str]:
    """What lies in the folder beside the files that SHA256SUMS names and what the clients of model hubs add."""
    return sorted({file.name for file in folder.iterdir()} - {*listed, SUMS, *CLIENTS})


def _leaving(folder: Path, names: Iterable[str]) -> Iterator[str]:
    """The files that lie elsewhere: links out of the folder. The Hugging Face cache is all links: REPO/snapshots/REVISION/NAME
    leads to REPO/blobs/HASH, which is the same repository."""
    real = folder.resolve()
    homes = {real, real.parent.parent / "blobs"} if real.parent.name == "snapshots" else {real}
    return (name for name in names if (folder / name).resolve().parent not in homes)


def _pickles(folder: Path) -> Iterator[str]:
    """Files at any depth that are named as pickles are, or begin as those of pickle and torch.save do. Links to folders are
    not followed."""
    for place, _, names in os.walk(folder):
        for file in (Path(place) / name for name in sorted(names)):
            if file.suffix == ".safetensors":
                continue  # begins with a length, which may be any, and its reader unpickles nothing
            if file.suffix.lower() in PICKLES or (file.is_file() and _begins_as_a_pickle(file)):
                yield str(file.relative_to(folder))


def _begins_as_a_pickle(file: Path) -> bool:
    with file.open("rb") as handle:
        head = handle.read(4)
    if head[:1] == b"\x80" and head[1:2] in PROTOCOLS:
        return True
    if head != b"PK\x03\x04":
        return False
    try:
        with zipfile.ZipFile(file) as archive:
            return any(Path(name).suffix in PICKLES for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _refuse(folder: Path, names: Iterable[str], reason: str) -> None:
    for name in names:
        raise UserError(f"{folder / name}: {reason}")


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
