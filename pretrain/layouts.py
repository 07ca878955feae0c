"""The names of published VideoMAE parameters <-> ours: a fixed renaming, no number is changed.

- Hugging Face: VideoMAEModel, VideoMAEForPreTraining, VideoMAEForVideoClassification. Saved files name ``q_bias`` and
  ``v_bias``, the live module ``query.bias`` and ``value.bias``: both are read.
- original: VideoMAE's and VideoMAE V2's own repositories; after pretraining under ``encoder.`` beside a decoder, after
  fine-tuning bare (``fc_norm``, which norms the mean of the tokens, belongs to the classifier).

Blocks are named alike in all of them, one table a layout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pretrain.tokens import sinusoids

POSITIONS = "positions"  # a published position table among our names: compared, never loaded


def _with_leaves(stems: Mapping[str, str]) -> dict[str, str]:
    return {f"{theirs}.{leaf}": f"{ours}.{leaf}" for theirs, ours in stems.items() for leaf in ("weight", "bias")}


_HF_TOP = {
    **_with_leaves({"embeddings.patch_embeddings.projection": "video", "layernorm": "trunk.norm"}),
    "embeddings.position_embeddings": POSITIONS,
}
_HF_BLOCK = {
    "attention.attention.q_bias": "attn.q_bias",
    "attention.attention.v_bias": "attn.v_bias",
    **_with_leaves(
        {
            "attention.output.dense": "attn.proj",
            "layernorm_before": "norm1",
            "layernorm_after": "norm2",
            "intermediate.dense": "mlp.fc1",
            "output.dense": "mlp.fc2",
        }
    ),
}
_HF_LIVE = {"attention.attention.query.bias": "attn.q_bias", "attention.attention.value.bias": "attn.v_bias"}
_HF_QKV = [f"attention.attention.{part}.weight" for part in ("query", "key", "value")]
_HF_REST = ("decoder.", "mask_token", "encoder_to_decoder.", "fc_norm.", "classifier.")

_ORIGINAL_TOP = {**_with_leaves({"patch_embed.proj": "video", "norm": "trunk.norm"}), "pos_embed": POSITIONS}
_ORIGINAL_BLOCK = {
    name: name
    for name in (
        "attn.q_bias",
        "attn.v_bias",
        "attn.qkv.weight",
        *_with_leaves({part: part for part in ("attn.proj", "norm1", "norm2", "mlp.fc1", "mlp.fc2")}),
    )
}
_ORIGINAL_REST = ("fc_norm.", "head.")
_DECODER_TOP = _with_leaves({"norm": "trunk.norm", "head": "heads.video"})  # below "decoder.", in every layout
_BESIDE_DECODER = {"encoder_to_decoder.weight": "from_encoder.weight", "mask_token": "mask_tokens.video"}
_HEAD = _with_leaves({"fc_norm": "norm", "classifier": "head", "head": "head"})
_WRAPPERS = re.compile(
    r"^(?:module\.|model\.)+"
)  # of data-parallel training, and of VideoMAE V2's Hugging Face folders


def renamed(theirs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The encoder's parameters of a VideoMAE in any layout, by our names. Raises ValueError for what VideoMAE has not."""
    if wrong := [name for name, value in theirs.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{wrong[0]!r} is no tensor: is this a VideoMAE?")
    bare = {_WRAPPERS.sub("", name): value for name, value in theirs.items()}
    for prefix in ("encoder.", "backbone.", ""):
        if f"{prefix}patch_embed.proj.weight" in bare:
            inside = {n.removeprefix(prefix): value for n, value in bare.items() if n.startswith(prefix)}
            return _by_our_names(inside, "blocks", _ORIGINAL_TOP, _ORIGINAL_BLOCK, _ORIGINAL_REST)
    bare = {name.removeprefix("videomae."): value for name, value in bare.items()}
    return _from_hugging_face(bare, "encoder.layer", _HF_TOP, _HF_REST)


def renamed_decoder(theirs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The decoder's parameters of a VideoMAE after pretraining, by the names that ours has; none where it has none.

    Raises ValueError for what VideoMAE's decoder has not.
    """
    bare = {_WRAPPERS.sub("", name): value for name, value in theirs.items()}
    if not all(name in bare for name in _BESIDE_DECODER):
        return {}
    ours = {
        name: bare[theirs].flatten() if bare[theirs].ndim > 2 else bare[theirs]
        for theirs, name in _BESIDE_DECODER.items()
    }
    inside = {n.removeprefix("decoder."): value for n, value in bare.items() if n.startswith("decoder.")}
    if any(name.startswith("decoder_layers.") for name in inside):
        return ours | _from_hugging_face(inside, "decoder_layers", _DECODER_TOP, ())
    return ours | _by_our_names(inside, "blocks", _DECODER_TOP, _ORIGINAL_BLOCK, ())


def renamed_head(theirs: Mapping[str, Any]) -> dict[str, Tensor]:
    """What a fine-tuned VideoMAE tells classes by: ``norm`` (of the mean of the tokens; absent where it reads the first token) and
    ``head``, weight and bias each; nothing of one that was only pretrained."""
    bare = {_WRAPPERS.sub("", name): value for name, value in theirs.items()}
    return {ours: bare[name] for name, ours in _HEAD.items() if name in bare}


def _from_hugging_face(
    theirs: Mapping[str, Tensor], blocks: str, top: Mapping[str, str], rest: tuple[str, ...]
) -> dict[str, Tensor]:
    part = re.compile(rf"{re.escape(blocks)}\.(\d+)\.(?:{'|'.join(map(re.escape, _HF_QKV))})")
    layers = {found[1] for name in theirs if (found := part.fullmatch(name))}
    others = {name: value for name, value in theirs.items() if not part.fullmatch(name)}
    ours = _by_our_names(others, blocks, top, _HF_BLOCK | _HF_LIVE, rest)
    for layer in layers:
        names = [f"{blocks}.{layer}.{part}" for part in _HF_QKV]
        if lacking := [name for name in names if name not in theirs]:
            raise ValueError(f"{lacking[0]} is missing")
        ours[f"trunk.blocks.{layer}.attn.qkv.weight"] = torch.cat([theirs[name] for name in names])
    return ours


def _by_our_names(
    theirs: Mapping[str, Tensor], blocks: str, top: Mapping[str, str], block: Mapping[str, str], rest: tuple[str, ...]
) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    for name, value in theirs.items():
        if name.startswith(rest):
            continue
        found = re.fullmatch(rf"{re.escape(blocks)}\.(\d+)\.(.+)", name)
        if found and found[2] in block:
            ours[f"trunk.blocks.{found[1]}.{block[found[2]]}"] = value
        elif name in top:
            ours[top[name]] = value
        else:
            raise ValueError(f"unknown parameter {name!r}: is this a VideoMAE?")
    return ours


def hugging_face(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of trunk and patch embedding by the names that VideoMAEModel's files have: ``renamed`` the other way."""
    return _to_hugging_face(ours, "encoder.layer", {name: theirs for theirs, name in _HF_TOP.items()})


def hugging_face_decoder(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A decoder's parameters for video as VideoMAEForPreTraining's files have them: ``renamed_decoder`` the other way."""
    beside = {name: theirs for theirs, name in _BESIDE_DECODER.items()}
    inside = {name: value for name, value in ours.items() if name not in beside}
    theirs = _to_hugging_face(inside, "decoder_layers", {name: theirs for theirs, name in _DECODER_TOP.items()})
    outside = {
        beside[name]: value[None, None] if value.ndim == 1 else value for name, value in ours.items() if name in beside
    }
    return outside | {f"decoder.{name}": value for name, value in theirs.items()}


def _to_hugging_face(ours: Mapping[str, Tensor], blocks: str, top: Mapping[str, str]) -> dict[str, Tensor]:
    block = {name: theirs for theirs, name in _HF_BLOCK.items()}
    theirs: dict[str, Tensor] = {}
    for name, value in ours.items():
        found = re.fullmatch(r"trunk\.blocks\.(\d+)\.(.+)", name)
        if found is None:
            theirs[top[name]] = value
        elif found[2] == "attn.qkv.weight":
            parts = zip(_HF_QKV, value.chunk(3), strict=True)
            theirs |= {f"{blocks}.{found[1]}.{part}": half for part, half in parts}
        else:
            theirs[f"{blocks}.{found[1]}.{block[found[2]]}"] = value
    return {name: value.contiguous() for name, value in theirs.items()}


def sizes(ours: Mapping[str, Tensor], heads: int | None = None) -> dict[str, Any]:
    """What the shapes of a VideoMAE's parameters, by our names, say of its ModelConfig. Raises ValueError.

    heads: where the source tells them; no shape does.
    """
    layers = len({name.split(".")[2] for name in ours if name.startswith("trunk.blocks.")})
    for name in ("video.weight", "trunk.blocks.0.mlp.fc1.weight"):
        if name not in ours:
            raise ValueError(f"no {name} in it: is this a VideoMAE?")
    dim, channels, tubelet, height, width = ours["video.weight"].shape
    if channels != 3 or height != width:
        raise ValueError(
            f"its patches are {height} x {width} with {channels} channels; only square ones in colour are read"
        )
    return {
        "dim": dim,
        "layers": layers,
        "heads": heads or usual_heads(dim),
        "mlp_dim": len(ours["trunk.blocks.0.mlp.fc1.weight"]),
        "patch": width,
        "tubelet": tubelet,
        "qv_bias": "trunk.blocks.0.attn.q_bias" in ours,
        "final_norm": "trunk.norm.weight" in ours,
    }


def usual_heads(dim: int) -> int:
    """Attention heads of a VideoMAE of this width: huge and giant have 16, the smaller ones heads of 64. Raises ValueError."""
    if dim in (1280, 1408):
        return 16
    if dim % 64:
        raise ValueError(f"width {dim} is none of VideoMAE's, so that its number of attention heads is unknown")
    return dim // 64


def check_positions(table: Tensor, base: tuple[int, int, int]) -> None:
    """Raises ValueError unless a published position table [..., place, dim] is VideoMAE's own for this grid."""
    places, dim = table.shape[-2:]
    if places != base[0] * base[1] * base[2]:
        raise ValueError(f"its position table has {places} places, not {' x '.join(map(str, base))}")
    tolerance = 1e-5 if table.dtype in (torch.float32, torch.float64) else 1e-2
    if (table.reshape(places, dim).float() - sinusoids(places, dim)).abs().max() > tolerance:
        raise ValueError("its position table is a learned one; only VideoMAE's sine and cosine is read")
