"""What ``--encoder`` and ``--data`` may be, and how they become an encoder in memory and a folder of shards.

Videos are prepared as the release asks (its config.json, "preprocessing"), by the same code that made its shards.
"""

from __future__ import annotations

import csv
import difflib
import json
import tarfile
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch

from configs import UserError
from data_prep.config import BuildConfig, LandmarkConfig
from data_prep.given import LANDMARKS, sidecar
from data_prep.manifest import MEDIA
from data_prep.shards import read_index
from finetune.adapted import load_adapted
from finetune.config import SwinConfig
from finetune.swin_weights import read_swin
from pretrain.encoder import Encoder
from pretrain.release import load_encoder
from pretrain.weights import is_videomae


def open_encoder(folder: Path, device: str, swin: SwinConfig | None = None, adapted: Path | None = None) -> Encoder:
    """The encoder of a release, a published VideoMAE or a Video Swin, in eval mode on a device ("auto", "cpu", "cuda").

    swin: how a Video Swin reads video, where that is what ``folder`` holds. adapted: a folder of ``finetune adapt``, whose
    adapters are put in. Raises UserError.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch sees no GPU here; --device cpu works everywhere")
    if not folder.exists():
        raise UserError(f"--encoder {folder}: no such folder or file")
    found = read_swin(folder, swin or SwinConfig())
    encoder = load_encoder(folder) if found is None else cast(Encoder, found)  # all that is asked of it here, it has
    if found is not None:
        print(f"encoder: Video Swin of {folder} (video alone), {found.told()}")
    elif is_videomae(folder):
        print(f"encoder: VideoMAE of {folder} (video alone; no pretrained weights of kinesic are published yet)")
    else:
        print(f"encoder: release {folder}, reads {', '.join(encoder.modalities)}")
    if adapted is not None:
        load_adapted(adapted, encoder)
    return encoder.to("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))


def chosen_streams(encoder: Encoder, streams: Collection[str] | None) -> tuple[str, ...]:
    """The streams to read, in the encoder's order. Raises UserError for one that it does not know."""
    for name in streams or ():
        if name not in encoder.modalities:
            near = difflib.get_close_matches(name, encoder.modalities, 1)
            hint = f"did you mean {near[0]}?" if near else f"it reads {', '.join(encoder.modalities)}"
            raise UserError(f"--streams: this encoder knows no stream {name!r}; {hint}")
    return tuple(name for name in encoder.modalities if not streams or name in streams)


def open_shards(
    data: Path, encoder_folder: Path, encoder: Encoder, cache: Path, streams: Collection[str] | None = None
) -> tuple[Path, pd.DataFrame]:
    """The folder of shards of ``--data`` and its index; videos are prepared into ``cache`` first. Raises UserError.

    streams: what to prepare of videos; None = all that the encoder was trained with.
    """
    if not (data / "index.parquet").is_file():
        data = build_shards(data, encoder_folder, encoder, cache, streams)
    index = read_index(data)
    if index.empty:
        raise UserError(f"{data}: no clip in these shards; failures.csv there says why")
    return data, index.reset_index(drop=True)


def build_shards(
    data: Path, encoder_folder: Path, encoder: Encoder, cache: Path, streams: Collection[str] | None = None
) -> Path:
    """Prepares a folder of videos, one file or a manifest as the encoder was trained; goes on where it was stopped."""
    from data_prep.build import build

    if not data.exists():
        raise UserError(f"--data {data}: no such file or folder")
    cache.mkdir(parents=True, exist_ok=True)
    manifest = _manifest_of(data, cache) if data.suffix.lower() in MEDIA else data
    settings = preprocessing(encoder_folder, encoder, data)
    if streams is not None:
        settings |= _narrowed(settings, streams)
    print(f"preparing {data} as the encoder asks -> {cache}")
    code = build(BuildConfig(manifest=manifest, out=cache, **settings))
    if not (cache / "index.parquet").is_file():
        raise UserError(f"{data}: nothing could be prepared; see {cache / 'failures.csv'}")
    if code:
        print(f"some files were left out; {cache / 'failures.csv'} says why")
    return cache


def _manifest_of(file: Path, cache: Path) -> Path:
    """A manifest of one file, in the cache; the recording is called as the file."""
    path = cache.with_name(f"{cache.name}.manifest.csv")
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([["path", "recording"], [str(file.resolve()), file.stem]])
    return path


def preprocessing(folder: Path, encoder: Encoder, data: Path) -> dict[str, Any]:
    """Settings of BuildConfig for ``data``: the release's own; for VideoMAE, which says nothing, the size of its pictures."""
    if is_videomae(folder):
        side = min(encoder.config.image_height, encoder.config.image_width)
        return {"streams": ("video",), "landmarks": "none", "short_side": side + side % 2}
    asked = json.loads((folder / "config.json").read_text())["preprocessing"]
    known = {field.name for field in fields(BuildConfig)} - {"manifest", "out", "models", "workers"}
    settings = {name: value for name, value in asked.items() if name in known}
    if "streams" in settings:
        settings["streams"] = tuple(settings["streams"])
    if "people" in settings:
        settings["people"] = LandmarkConfig(**settings["people"])
    if settings.get("landmarks") == "given" and not _has_landmarks(data):
        settings["landmarks"] = (
            "mediapipe"  # the release learnt from known landmarks; these videos have none beside them
        )
    return settings


def _narrowed(settings: dict[str, Any], streams: Collection[str]) -> dict[str, Any]:
    """What of the settings changes where these streams alone are read: what nobody reads is not looked for."""
    config = BuildConfig(Path(), Path(), **settings)
    speech = config.speech and "audio" in streams
    needed = {*streams, "face", "pose"} if speech else set(streams)  # whose the sound is, faces and bodies tell
    kept = tuple(name for name in config.streams if name in needed)
    if not kept:
        raise UserError(f"videos give {', '.join(config.streams)}, not {', '.join(streams)}: prepare shards that do")
    looked_at = config.blur_faces or set(kept) & set(LANDMARKS)
    return {"streams": kept, "speech": speech, "landmarks": config.landmarks if looked_at else "none"}


def left_out(shards: Path) -> list[str]:
    """What a build could not use: a line a failure, naming the file."""
    with (shards / "failures.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [f"{row['path'] or row['recording']}: {row['reason']}; {row['remedy']}" for row in rows]


def _has_landmarks(data: Path) -> bool:
    """Whether landmarks lie beside the videos of a folder, a manifest or a file."""
    if data.suffix.lower() in MEDIA:
        return any(sidecar(data, stream).is_file() for stream in LANDMARKS)
    folder = data if data.is_dir() else data.parent
    return any(next(folder.rglob(f"*.{stream}.npz"), None) for stream in ("face", "pose", "regions"))


def read_meta(shards: Path, row: pd.Series) -> dict[str, Any]:
    """meta.json of a sample, found by the headers of its members: pictures and sound are not read. Raises UserError."""
    path = shards / row["shard"]
    try:
        with path.open("rb") as file:
            file.seek(int(row["offset"]))
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    content = tar.extractfile(member) if member.name == f"{row['key']}.meta.json" else None
                    if content is not None:
                        return json.loads(content.read())
    except (OSError, tarfile.TarError, ValueError) as error:
        raise UserError(f"{path}: sample {row['key']} cannot be read ({error}): build these shards again") from None
    raise UserError(f"{path}: sample {row['key']} has no meta.json: build these shards again")
