"""``kinesic pretrain release RUN RELEASE``: a checkpoint -> a folder for collaborators; and ``load_encoder``, which reads it.

    model.safetensors   the encoder alone, float32, names as in pretrain/encoder.py
    config.json         schema version, sizes of the model, how its data was prepared and what it learnt, versions
    MODEL_CARD.md       what it was trained on, for what it is meant, what it cannot do
    README.md           the same, by the name under which model hubs look for it
    SHA256SUMS          of the four (``sha256sum -c SHA256SUMS`` checks them, too)

Nothing in it is a pickle. The same run gives the same bytes. Loading needs the core packages only, and so does
``kinesic pretrain release --check RELEASE``, which verifies such a folder offline.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from configs import UserError
from pretrain import checkpoint
from pretrain.config import ModelConfig, ReleaseConfig, StreamConfig
from pretrain.encoder import Encoder
from pretrain.model_card import UNKNOWN, license_of, model_card
from pretrain.release_files import CARD, CONFIG, HUB_CARD, SUMS, WEIGHTS, check_files, unlisted, write_sums
from pretrain.schema import SCHEMA, check_schema
from pretrain.tracking import read_metrics
from pretrain.weights import is_videomae, load_videomae

FORMAT = "kinesic release"
PREPARED = ("clip_seconds", "fps", "short_side", "crf", "streams", "landmarks", "landmark_rate")
PREPARED = (*PREPARED, "people", "speech", "blur_faces")  # all that changes what an encoder reads; no paths, no names
TRAINED = ("steps", "batch", "accumulate", "precision", "seed", "mask", "optimizer", "weights")  # nor here
AVERAGED = 20  # steps, for the losses in the model card


def release(config: ReleaseConfig) -> None:
    """Writes a release, or verifies one. Raises UserError."""
    if config.check is not None:
        print("\n".join(check(config.check)))
        return
    assert config.run is not None  # ReleaseConfig sees to it
    assert config.out is not None
    step = write_release(config.run, config.out, config.license)
    print(f"{config.out}: encoder of step {step}; load_encoder({str(config.out)!r}) reads it")
    if config.license == UNKNOWN:
        print("its card names no licence; --license cc-by-nc-4.0 (or another) does")


def write_release(run: Path, out: Path, license: str) -> int:
    """Writes the release of a run's newest checkpoint; returns its step. Raises UserError where there is none, or OUT exists."""
    newest = checkpoint.newest(run)
    if newest is None:
        raise UserError(f"{run}: no checkpoint there; `kinesic pretrain run --out {run} ...` writes them")
    if out.exists():
        raise UserError(f"{out}: exists; a release is never changed, take another name")
    try:
        about = describe(run, newest, license)
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{run}: lacks something that a run writes: {type(error).__name__}: {error}") from None
    weights = load_file(newest / "weights.safetensors")
    encoder = {name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder.")}
    card = model_card(about, sum(value.numel() for value in encoder.values()))
    aside = out.with_name(f".{out.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file(encoder, aside / WEIGHTS, {"kinesic": f"schema {SCHEMA}"})  # with two keys their order would be random
    (aside / CONFIG).write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")
    for name in (CARD, HUB_CARD):
        (aside / name).write_text(card)
    (aside / WEIGHTS).chmod((aside / CONFIG).stat().st_mode)  # safetensors lets the owner alone read what it writes
    write_sums(aside, (WEIGHTS, CONFIG, CARD, HUB_CARD))
    check(aside)  # a release that cannot be loaded must not come to exist
    aside.rename(out)
    return about["training"]["step"]


def describe(run: Path, newest: Path, license: str) -> dict[str, Any]:
    """config.json of the release of a checkpoint. Raises UserError where its model would misread streams as they are told now."""
    saved = checkpoint.read(newest)
    data = json.loads((run / "data.json").read_text())
    config, step = saved["config"], saved["state"]["step"]
    settings = {name: config[name] for name in TRAINED}
    settings["mask"] = {name: value for name, value in settings["mask"].items() if name != "teacher"}  # a path
    steps = [row for row in read_metrics(run / "metrics.csv") if int(row["step"]) <= step]
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "license": license,
        "model": config["model"],
        "preprocessing": {name: data["preprocessing"][name] for name in PREPARED if name in data["preprocessing"]},
        "training": {
            "step": step,
            "batch": config["batch"],
            "start": "given" if config["init"] else "random",
            "settings": settings,
            "losses": _losses(steps, ("video", *config["model"]["streams"])),
            "averaged": min(AVERAGED, len(steps)),
            "data": data["summary"],
        },
        "versions": json.loads((run / "versions.json").read_text())["packages"],
    }


def _losses(steps: list[dict[str, str]], modalities: tuple[str, ...]) -> dict[str, list[float]]:
    """The mean loss of each modality over the first and the last steps that had it."""
    found = {}
    for name in modalities:
        values = [float(row[f"loss_{name}"]) for row in steps if row[f"loss_{name}"]]
        if values:
            found[name] = [sum(part) / len(part) for part in (values[:AVERAGED], values[-AVERAGED:])]
    return found


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
    if not (folder / SUMS).is_file() and is_videomae(folder):
        return load_videomae(folder)
    return _load_release(folder)[0]


def _load_release(folder: Path) -> tuple[Encoder, dict[str, Any], list[str]]:
    """The encoder of a release, its config.json and the names in its SHA256SUMS, all checked. Raises UserError."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if not (folder / SUMS).is_file():
        raise UserError(f"{folder}: neither a release (no {SUMS}) nor a Hugging Face VideoMAE folder")
    try:
        listed = check_files(folder)
        about = json.loads((folder / CONFIG).read_bytes())
    except (OSError, RecursionError, ValueError) as error:
        raise UserError(f"{folder}: cannot be read: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT or not isinstance(about.get("model"), dict):
        raise UserError(f"{folder / CONFIG}: not that of a release of kinesic's")
    try:
        check_schema(about.get("schema"), about["model"], folder / CONFIG)
        encoder = Encoder(model_config(about["model"]))
        encoder.load_state_dict(load_file(folder / WEIGHTS))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder}: {WEIGHTS} and {CONFIG} make no encoder: {' '.join(str(error).split())[:300]}"
        ) from None
    return encoder.eval(), about, listed


def model_config(settings: dict[str, Any]) -> ModelConfig:
    """A ModelConfig out of JSON. Raises ValueError for a setting that it does not have."""
    unknown = sorted(set(settings) - {field.name for field in fields(ModelConfig)})
    if unknown:
        raise ValueError(f"unknown settings {', '.join(unknown)}; a newer kinesic may know them")
    streams: Any = {name: StreamConfig(**stream) for name, stream in settings["streams"].items()}
    return ModelConfig(**(settings | {"streams": streams}))


def check(folder: Path) -> list[str]:
    """What a release holds, in lines, after all of it was verified; nothing is fetched. Raises UserError: the first thing wrong."""
    encoder, about, listed = _load_release(folder)
    for name in unlisted(folder, listed):
        raise UserError(f"{folder / name}: not listed in {SUMS}, so no part of this release: remove it")
    tensors = encoder.state_dict()
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise UserError(f"{folder / WEIGHTS}: {name} holds numbers that are not finite")
    license, card = about.get("license"), _check_cards(folder, listed, about)
    try:
        trained = _trained(about.get("training", {}))
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{folder / CONFIG}: its training is not told as kinesic tells it: {error}") from None
    return [
        f"{folder}: a release, whole and unchanged (schema {about['schema']} of {SCHEMA})",
        f"files     {len(listed)} as {SUMS} says, no other and no pickle: {', '.join(listed)}",
        f"weights   {len(tensors)} tensors, {sum(v.numel() for v in tensors.values()) / 1e6:.1f} M numbers, all finite",
        f"reads     {', '.join(encoder.modalities)}; tokens of width {encoder.config.dim}",
        f"trained   {trained}",
        f"card      {card}",
        f"licence   {license or 'not named: an older kinesic wrote no licence'}",
    ]


def _trained(training: dict[str, Any]) -> str:
    data = training.get("data", {})
    counts = ", ".join(f"{data.get(name, '?')} {name}" for name in ("recordings", "clips", "hours", "people"))
    losses = ", ".join(f"{name} {last:.4f}" for name, (_, last) in training.get("losses", {}).items())
    shards = f"digests of {len(data.get('shards', {}))} shards"
    return f"{training.get('step', '?')} steps on {counts}; {shards}; last losses: {losses or 'not told'}"


def _check_cards(folder: Path, listed: list[str], about: dict[str, Any]) -> str:
    """Says which cards there are. Raises UserError where one is unlisted, not readable by a hub or at odds with the rest."""
    if CARD not in listed:
        raise UserError(f"{folder / CARD}: not listed in {SUMS}")
    if license_of(folder / CARD) != about.get("license", UNKNOWN):
        raise UserError(f"{folder / CARD}: names another licence than {CONFIG}")
    if HUB_CARD not in listed:
        return f"{CARD}; no {HUB_CARD} (an older kinesic wrote none): a model hub will show no card"
    if (folder / HUB_CARD).read_bytes() != (folder / CARD).read_bytes():
        raise UserError(f"{folder / HUB_CARD}: says something else than {CARD}")
    return f"{CARD} and, for model hubs, {HUB_CARD}"
