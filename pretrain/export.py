"""``kinesic pretrain export ENCODER OUT``: the trunk as a folder that transformers' VideoMAEModel reads.

    model.safetensors   patch embedding and trunk, float32, by Hugging Face's names (layouts.py)
    config.json         a VideoMAEConfig

Of an encoder read from such a folder every tensor comes back bit by bit. What VideoMAE has no place for is left out, and
said: streams, and the gated branch, so that the folder computes what this encoder does with its gates closed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from configs import UserError
from pretrain.config import ExportConfig
from pretrain.encoder import Encoder
from pretrain.layouts import hugging_face
from pretrain.release import load_encoder
from pretrain.trunk import Block
from pretrain.weights import of_the_trunk


def export(config: ExportConfig) -> None:
    """Reads whatever ``load_encoder`` reads and writes it as a Hugging Face VideoMAE. Raises UserError."""
    export_videomae(load_encoder(config.encoder), config.out)


def export_videomae(encoder: Encoder, folder: Path | str) -> None:
    """Writes trunk and patch embedding of an encoder as a Hugging Face VideoMAE; prints what is left out. Raises UserError."""
    out = Path(folder)
    if out.exists():
        raise UserError(f"{out}: exists; an export is never changed, take another name")
    blocks = [block for block in encoder.trunk.blocks if isinstance(block, Block)]
    if any(block.adapter is not None or block.attn.prompt is not None for block in blocks):
        raise UserError(
            f"{out}: this encoder has adapters or prompts, which VideoMAE has no place for: export it untuned"
        )
    theirs = transformers_config(encoder)
    weights = {name: value.detach().cpu() for name, value in encoder.state_dict().items() if of_the_trunk(name)}
    aside = out.with_name(f".{out.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file(hugging_face(weights), aside / "model.safetensors", {"format": "pt"})  # transformers asks for the format
    (aside / "config.json").write_text(json.dumps(theirs, indent=2) + "\n")
    aside.rename(out)
    print(f"{out}: VideoMAEModel.from_pretrained({str(out)!r}) reads it")
    if encoder.config.streams:
        print(f"left out, VideoMAE reads video alone: {', '.join(encoder.config.streams)}")
    gate = max(float(value) for value in encoder.trunk.gates().values())
    if gate:
        print(
            f"left out: the gated branch (mean gate of its most open source {gate:.4f}); the export is not the same function"
        )


def transformers_config(encoder: Encoder) -> dict[str, Any]:
    """The VideoMAEConfig of an encoder's trunk. Raises UserError for a position table that transformers does not compute."""
    ours = encoder.config
    if ours.base != ours.grid:
        raise UserError(
            f"the position table is interpolated from {list(ours.base)} to {list(ours.grid)} tokens (time, height, width); "
            "transformers would compute another one"
        )
    square = ours.image_height == ours.image_width
    return {
        "model_type": "videomae",
        "architectures": ["VideoMAEModel"],
        "dtype": "float32",
        "hidden_size": ours.dim,
        "num_hidden_layers": ours.layers,
        "num_attention_heads": ours.heads,
        "intermediate_size": ours.mlp_dim,
        "hidden_act": "gelu",
        "image_size": ours.image_height if square else [ours.image_height, ours.image_width],
        "num_channels": 3,
        "num_frames": ours.segment_frames,
        "patch_size": ours.patch,
        "tubelet_size": ours.tubelet,
        "layer_norm_eps": ours.layer_norm_eps,
        "qv_bias": ours.qv_bias,
        "use_mean_pooling": not ours.final_norm,
    }
