"""Adapters that ``kinesic finetune adapt`` trained: how they get into an encoder, and the folder that they come from.

FOLDER/adapted.safetensors   a bottleneck beside the MLP of every block (AdaptFormer, arXiv 2205.13535), and nothing else
FOLDER/config.json           its sizes, the digest of the weights that it was trained beside, and on what

They belong to the encoder from then on: a method that tunes it adds its own small weights, and what is tuned so is refused
by the encoder without them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from configs import UserError, plain
from finetune.config import AdapterConfig
from finetune.features import weights_digest
from finetune.methods.adapter import Adapter
from pretrain.encoder import Encoder
from pretrain.trunk import Block, Mlp

SCHEMA = 1  # of config.json
WEIGHTS, CONFIG = "adapted.safetensors", "config.json"


class AdaptedMlp(Mlp):
    """A block's MLP and the adapter beside it; the MLP's own parameters keep their names."""

    def __init__(self, mlp: Mlp, adapter: Adapter):
        nn.Module.__init__(self)
        self.fc1, self.fc2, self.adapted = mlp.fc1, mlp.fc2, adapter

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.adapted(x)


def install(encoder: Encoder, config: AdapterConfig, seed: int) -> None:
    """Puts fresh adapters beside all MLPs. At step 0 they add nothing: the encoder does what it did."""
    width = config.width or max(encoder.config.dim // 12, 1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for block in encoder.trunk.blocks:
            assert isinstance(block, Block)
            block.mlp = AdaptedMlp(block.mlp, Adapter(encoder.config.dim, width, config.scale, temporal=False)).to(
                encoder.device
            )


def adapters(encoder: Encoder) -> dict[str, nn.Parameter]:
    """The weights that ``install`` put into an encoder, by name."""
    return {name: weight for name, weight in encoder.named_parameters() if ".adapted." in name}


def save_adapted(folder: Path, encoder: Encoder, about: dict[str, Any]) -> None:
    """Writes the two files (config.json last, each under a temporary name first).

    about: "encoder", "encoder_sha256" (of the weights without the adapters), "adapter", "steps", "clips" and more to tell.
    """
    weights = {name: weight.detach().cpu().contiguous() for name, weight in adapters(encoder).items()}
    save_file(weights, folder / f".{WEIGHTS}.tmp")
    (folder / f".{WEIGHTS}.tmp").replace(folder / WEIGHTS)
    (folder / f".{CONFIG}.tmp").write_text(json.dumps(plain({"schema": SCHEMA, **about}), indent=1))
    (folder / f".{CONFIG}.tmp").replace(folder / CONFIG)


def load_adapted(folder: Path, encoder: Encoder) -> None:
    """Puts the adapters of a folder into the encoder that they were trained in. Raises UserError for any other encoder."""
    about = read_adapted(folder)
    own = weights_digest(encoder)
    if own != about["encoder_sha256"]:
        raise UserError(
            f"{folder} was adapted from another encoder ({about['encoder']}, weights {about['encoder_sha256'][:12]}; "
            f"this one has {own[:12]})"
        )
    install(encoder, AdapterConfig(**about["adapter"]), seed=0)
    try:
        saved = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / WEIGHTS}: cannot be read ({error})") from None
    if {n: w.shape for n, w in saved.items()} != {n: w.shape for n, w in adapters(encoder).items()}:
        raise UserError(f"{folder / WEIGHTS}: does not hold the weights that {CONFIG} describes")
    encoder.load_state_dict(saved, strict=False)
    print(f"adapted: {folder}, {about['steps']} steps on {about['clips']} clips")


def read_adapted(folder: Path) -> dict[str, Any]:
    """What config.json says. Raises UserError where there is none, or one of a newer kinesic."""
    file = folder / CONFIG
    about = json.loads(file.read_text()) if file.is_file() else {}
    if "adapter" not in about or "method" in about:
        raise UserError(f"{folder}: no {CONFIG} of adapters: is this the --out of a finished kinesic finetune adapt?")
    if about["schema"] > SCHEMA:
        raise UserError(f"{file}: schema {about['schema']} is newer than {SCHEMA}: update kinesic")
    return about
