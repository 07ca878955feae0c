"""Published VideoMAE weights <-> ours: a fixed renaming, no number is changed.

Reads a Hugging Face folder (config.json, model.safetensors) of VideoMAEModel, VideoMAEForPreTraining or
VideoMAEForVideoClassification. Saved files name ``q_bias`` and ``v_bias``, the live module ``query.bias`` and
``value.bias``: both are read.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from configs import UserError
from pretrain.config import ModelConfig
from pretrain.encoder import Encoder

_RENAMED = (
    (r"^embeddings\.patch_embeddings\.projection\.", "video."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"trunk.blocks.\1.attn.proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.attention\.(?:q_bias|query\.bias)$", r"trunk.blocks.\1.attn.q_bias"),
    (r"^encoder\.layer\.(\d+)\.attention\.attention\.(?:v_bias|value\.bias)$", r"trunk.blocks.\1.attn.v_bias"),
    (r"^encoder\.layer\.(\d+)\.layernorm_before\.", r"trunk.blocks.\1.norm1."),
    (r"^encoder\.layer\.(\d+)\.layernorm_after\.", r"trunk.blocks.\1.norm2."),
    (r"^encoder\.layer\.(\d+)\.intermediate\.dense\.", r"trunk.blocks.\1.mlp.fc1."),
    (r"^encoder\.layer\.(\d+)\.output\.dense\.", r"trunk.blocks.\1.mlp.fc2."),
    (r"^layernorm\.", "trunk.norm."),
)
_QKV = re.compile(r"^encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.weight$")
_NOT_OF_THE_ENCODER = (
    "decoder.",
    "mask_token",
    "encoder_to_decoder.",
    "position_embeddings",
    "fc_norm.",
    "classifier.",
)


def is_videomae(folder: Path) -> bool:
    """Whether a folder holds a Hugging Face VideoMAE."""
    config = folder / "config.json"
    return config.is_file() and json.loads(config.read_text()).get("model_type") == "videomae"


def videomae_config(folder: Path, streams: ModelConfig | None = None) -> ModelConfig:
    """The ModelConfig of a Hugging Face VideoMAE folder; fields that it does not know are taken from ``streams``."""
    theirs = json.loads((folder / "config.json").read_text())
    if theirs.get("model_type") != "videomae":
        raise UserError(f"{folder / 'config.json'}: model_type is {theirs.get('model_type')!r}, not 'videomae'")
    if theirs.get("hidden_act", "gelu") != "gelu" or theirs.get("num_channels", 3) != 3:
        raise UserError(f"{folder / 'config.json'}: only GELU and three colour channels are read")
    size = theirs.get("image_size", 224)
    height, width = size if isinstance(size, list) else (size, size)
    ours: dict[str, Any] = {
        "dim": theirs.get("hidden_size", 768),
        "layers": theirs.get("num_hidden_layers", 12),
        "heads": theirs.get("num_attention_heads", 12),
        "mlp_dim": theirs.get("intermediate_size", 3072),
        "image_height": height,
        "image_width": width,
        "patch": theirs.get("patch_size", 16),
        "tubelet": theirs.get("tubelet_size", 2),
        "segment_frames": theirs.get("num_frames", 16),
        "layer_norm_eps": theirs.get("layer_norm_eps", 1e-12),
        "qv_bias": theirs.get("qv_bias", True),
        "final_norm": not theirs.get("use_mean_pooling", True),
    }
    if streams is None:
        return ModelConfig(streams={}, **ours)
    return replace(streams, **ours)


def renamed(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of a VideoMAE by our names. Raises UserError on a name that VideoMAE does not have."""
    ours: dict[str, Tensor] = {}
    qkv: dict[str, dict[str, Tensor]] = {}
    for name, value in theirs.items():
        name = name.removeprefix("videomae.")
        if name.startswith(_NOT_OF_THE_ENCODER):
            continue
        if found := _QKV.match(name):
            qkv.setdefault(found[1], {})[found[2]] = value
            continue
        for pattern, replacement in _RENAMED:
            if re.match(pattern, name):
                ours[re.sub(pattern, replacement, name)] = value
                break
        else:
            raise UserError(f"unknown parameter {name!r}: is this a VideoMAE?")
    for layer, parts in qkv.items():
        ours[f"trunk.blocks.{layer}.attn.qkv.weight"] = torch.cat([parts[part] for part in ("query", "key", "value")])
    return ours


def read_videomae(folder: Path) -> dict[str, Tensor]:
    """The encoder's parameters of a Hugging Face VideoMAE folder, by our names. Raises UserError where there are none."""
    file = folder / "model.safetensors"
    if not file.is_file():
        raise UserError(f"{folder}: no model.safetensors beside config.json")
    return renamed(load_file(file))


def fill(encoder: Encoder, weights: dict[str, Tensor], source: Path) -> None:
    """Puts trunk and patch embedding into an encoder; its streams and gates stay as they are. Raises UserError on a misfit."""
    own = encoder.state_dict()
    expected = {name for name in own if name.startswith(("video.", "trunk.")) and ".reading." not in name}
    wrong = sorted(n for n in weights if n in own and own[n].shape != weights[n].shape)
    missing, unknown = sorted(expected - set(weights)), sorted(set(weights) - expected)
    for names, what in ((wrong, "other shapes"), (missing, "absent there"), (unknown, "unknown here")):
        if names:
            raise UserError(
                f"{source}: does not fit the model ({what}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''})"
            )
    encoder.load_state_dict({**own, **weights})


def load_videomae(folder: Path) -> Encoder:
    """An encoder that computes what the published VideoMAE computes; it reads video alone."""
    encoder = Encoder(videomae_config(folder))
    fill(encoder, read_videomae(folder), folder)
    return encoder.eval()


def initialise(model: nn.Module, folder: Path) -> None:
    """Starts the encoder of a MaskedAutoencoder from a VideoMAE folder. Raises UserError naming what does not fit."""
    encoder = model.encoder
    assert isinstance(encoder, Encoder)
    theirs = videomae_config(folder, encoder.config)
    for name in (
        "dim",
        "layers",
        "heads",
        "mlp_dim",
        "patch",
        "tubelet",
        "segment_frames",
        "qv_bias",
        "final_norm",
        "layer_norm_eps",
    ):
        ours, published = getattr(encoder.config, name), getattr(theirs, name)
        if ours != published:
            raise UserError(
                f"--init {folder}: model.{name} is {ours} here and {published} there; set model.{name} to {published}"
            )
    fill(encoder, read_videomae(folder), folder)
