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
from pretrain.checkpoint import newest
from pretrain.config import ExportConfig
from pretrain.decoders import Decoder
from pretrain.encoder import Encoder
from pretrain.layouts import hugging_face, hugging_face_decoder
from pretrain.release import load_encoder
from pretrain.trained import load_autoencoder
from pretrain.trunk import SMALL, Block
from pretrain.weights import of_the_trunk, of_videos_decoder


def export(config: ExportConfig) -> None:
    """Reads whatever ``load_encoder`` reads and writes it as a Hugging Face VideoMAE. Raises UserError."""
    if newest(config.encoder) is not None:
        model = load_autoencoder(config.encoder)
        export_videomae(model.encoder, config.out, model.decoder)
    else:
        export_videomae(load_encoder(config.encoder), config.out)


def export_videomae(encoder: Encoder, folder: Path | str, decoder: Decoder | None = None) -> None:
    """Writes trunk and patch embedding of an encoder as a Hugging Face VideoMAE, and the decoder's part for video where one is
    given; prints what is left out. Raises UserError."""
    out = Path(folder)
    if out.exists():
        raise UserError(f"{out}: exists; an export is never changed, take another name")
    if small := [name for name in SMALL for module in encoder.modules() if getattr(module, name, None) is not None]:
        raise UserError(
            f"{out}: this encoder has a tuned {small[0]}, which VideoMAE has no place for: export it untuned"
        )
    theirs = transformers_config(encoder)
    weights = hugging_face({n: value.detach().cpu() for n, value in encoder.state_dict().items() if of_the_trunk(n)})
    if decoder is not None:
        theirs |= decoder_config(decoder)
        weights = {f"videomae.{name}": value for name, value in weights.items()} | hugging_face_decoder(
            {n: value.detach().cpu() for n, value in decoder.state_dict().items() if of_videos_decoder(n)}
        )
    aside = out.with_name(f".{out.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file(weights, aside / "model.safetensors", {"format": "pt"})  # transformers asks for the format
    (aside / "config.json").write_text(json.dumps(theirs, indent=2) + "\n")
    aside.rename(out)
    print(f"{out}: {theirs['architectures'][0]}.from_pretrained({str(out)!r}) reads it")
    if encoder.config.streams:
        print(f"left out, VideoMAE reads video alone: {', '.join(encoder.config.streams)}")
    gate = max(float(value) for value in encoder.trunk.gates().values())
    if gate:
        print(
            f"left out: the gated branch (mean gate of its most open source {gate:.4f}); the export is not the same function"
        )


def decoder_config(decoder: Decoder) -> dict[str, Any]:
    """What a VideoMAEConfig says of a decoder."""
    block = decoder.trunk.blocks[0]
    assert isinstance(block, Block)
    return {
        "architectures": ["VideoMAEForPreTraining"],
        "decoder_hidden_size": decoder.from_encoder.out_features,
        "decoder_num_hidden_layers": len(decoder.trunk.blocks),
        "decoder_num_attention_heads": block.attn.heads,
        "decoder_intermediate_size": block.mlp.fc1.out_features,
    }


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
