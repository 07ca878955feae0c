"""``kinesic pretrain release RUN RELEASE``: a checkpoint -> a folder for collaborators; and ``load_encoder``, which reads it.

    model.safetensors   the encoder alone, float32, names as in pretrain/encoder.py
    config.json         schema version, sizes of the model, how its data was prepared, versions
    MODEL_CARD.md       what it was trained on, for what it is meant, what it cannot do
    SHA256SUMS          of the three (``sha256sum -c SHA256SUMS`` checks them, too)

Nothing in it is a pickle. The same run gives the same bytes. Loading needs the core packages only.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from string import Template
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from configs import UserError
from pretrain import checkpoint
from pretrain.config import ModelConfig, ReleaseConfig, StreamConfig
from pretrain.encoder import Encoder
from pretrain.schema import SCHEMA, check_schema
from pretrain.tracking import read_metrics
from pretrain.weights import is_videomae, load_videomae

WEIGHTS, CONFIG, CARD, SUMS = "model.safetensors", "config.json", "MODEL_CARD.md", "SHA256SUMS"
PREPARED = ("clip_seconds", "fps", "short_side", "crf", "streams", "landmarks", "landmark_rate")  # no paths, no names
PICKLES = {".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}
AVERAGED = 20  # steps, for the losses in the model card


def release(config: ReleaseConfig) -> None:
    """Writes the release of a run's newest checkpoint. Raises UserError where there is none, or OUT exists."""
    newest = checkpoint.newest(config.run)
    if newest is None:
        raise UserError(f"{config.run}: no checkpoint there; `kinesic pretrain run --out {config.run} ...` writes them")
    if config.out.exists():
        raise UserError(f"{config.out}: exists; a release is never changed, take another name")
    saved = checkpoint.read(newest)
    data = json.loads((config.run / "data.json").read_text())
    about = {
        "format": "kinesic release",
        "schema": SCHEMA,
        "model": saved["config"]["model"],
        "preprocessing": {name: data["preprocessing"][name] for name in PREPARED if name in data["preprocessing"]},
        "training": {"step": saved["state"]["step"], "batch": saved["config"]["batch"], "data": data["summary"]},
        "versions": json.loads((config.run / "versions.json").read_text())["packages"],
    }
    weights = load_file(newest / "weights.safetensors")
    encoder = {name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder.")}
    aside = config.out.with_name(f".{config.out.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    text = json.dumps(about, indent=1, sort_keys=True)
    save_file(encoder, aside / WEIGHTS, {"kinesic": f"schema {SCHEMA}"})  # with two keys their order would be random
    (aside / CONFIG).write_text(text + "\n")
    (aside / CARD).write_text(model_card(about, saved["config"], config.run / "metrics.csv", encoder))
    (aside / SUMS).write_text("".join(f"{_sha256(aside / name)}  {name}\n" for name in (WEIGHTS, CONFIG, CARD)))
    load_encoder(aside)  # a release that cannot be loaded must not come to exist
    aside.rename(config.out)
    print(f"{config.out}: encoder of step {saved['state']['step']}; load_encoder({str(config.out)!r}) reads it")


def model_card(about: dict[str, Any], run: dict[str, Any], metrics: Path, encoder: dict[str, torch.Tensor]) -> str:
    """The card, filled from the run: Markdown with the header that model hubs read."""
    data, model = about["training"]["data"], about["model"]
    steps = [row for row in read_metrics(metrics) if int(row["step"]) <= about["training"]["step"]]
    losses = []
    for name in ("video", *model["streams"]):
        values = [float(row[f"loss_{name}"]) for row in steps if row[f"loss_{name}"]]
        if values:
            first, last = values[:AVERAGED], values[-AVERAGED:]
            losses.append(f"| {name} | {sum(first) / len(first):.4f} | {sum(last) / len(last):.4f} |")
    streams = [f"| {name} | {count} |" for name, count in data["streams"].items()]
    prepared = [f"| {name} | {value} |" for name, value in about["preprocessing"].items()]
    return Template((Path(__file__).parent / "model_card.md").read_text()).substitute(
        parameters=f"{sum(value.numel() for value in encoder.values()) / 1e6:.1f}",
        modalities=", ".join(("video", *model["streams"])),
        start="published VideoMAE weights" if run["init"] else "random weights",
        **{name: data[name] for name in ("recordings", "clips", "hours", "people")},
        **{name: model[name] for name in ("dim", "layers", "heads", "frame_rate", "image_height", "image_width")},
        **{name: about["training"][name] for name in ("step", "batch")},
        streams="\n".join(streams),
        losses="\n".join(losses),
        prepared="\n".join(prepared),
        averaged=min(AVERAGED, len(steps)),
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def load_encoder(path: Path | str) -> Encoder:
    """The encoder of a release, a Hugging Face VideoMAE folder or an original .pth, in eval mode on the CPU in float32.

    Checks every file of a release against SHA256SUMS first and unpickles nothing; runs nothing out of a .pth or .bin.
    Raises UserError: which file, what is wrong.
    """
    folder = Path(path)
    if folder.is_file():
        return load_videomae(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder or file")
    if not (folder / SUMS).is_file():
        if is_videomae(folder):
            return load_videomae(folder)
        raise UserError(f"{folder}: neither a release (no {SUMS}) nor a Hugging Face VideoMAE folder")
    check_sums(folder)
    about = json.loads((folder / CONFIG).read_text())
    check_schema(about.get("schema"), about.get("model", {}), folder / CONFIG)
    try:
        encoder = Encoder(model_config(about["model"]))
        encoder.load_state_dict(load_file(folder / WEIGHTS))
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder}: {WEIGHTS} and {CONFIG} make no encoder: {' '.join(str(error).split())[:300]}"
        ) from None
    return encoder.eval()


def check_sums(folder: Path) -> None:
    """Raises UserError unless SHA256SUMS names the files of a release, inside it, and all are as they were written."""
    sums = {}
    for line in (folder / SUMS).read_text().splitlines():
        digest, _, name = line.partition("  ")
        if not name or name != Path(name).name or name in {".", ".."}:
            raise UserError(f"{folder / SUMS}: {name or line!r} is no file of this folder")
        sums[name] = digest
    _refuse(folder, sorted({WEIGHTS, CONFIG} - set(sums)), f"not listed in {SUMS}")
    _refuse(folder, sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES), "no pickle is read")
    _refuse(folder, [name for name in sums if not (folder / name).is_file()], f"listed in {SUMS}, but missing")
    changed = [name for name, digest in sums.items() if _sha256(folder / name) != digest]
    _refuse(folder, changed, f"not what {SUMS} says: damaged or changed, fetch the release again")


def _refuse(folder: Path, names: Iterable[str], reason: str) -> None:
    for name in names:
        raise UserError(f"{folder / name}: {reason}")


def model_config(settings: dict[str, Any]) -> ModelConfig:
    """A ModelConfig out of JSON. Raises ValueError for a setting that it does not have."""
    unknown = sorted(set(settings) - {field.name for field in fields(ModelConfig)})
    if unknown:
        raise ValueError(f"unknown settings {', '.join(unknown)}")
    streams: Any = {name: StreamConfig(**stream) for name, stream in settings["streams"].items()}
    return ModelConfig(**(settings | {"streams": streams}))
