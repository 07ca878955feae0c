"""Published VideoMAE weights -> an encoder that computes what they computed, or the start of a run.

Reads Hugging Face folders and the files of the original repositories (layouts.py says which names). Nothing in a file is
run: pickles are read with ``weights_only``, and one that asks for more is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from configs import UserError
from pretrain.config import ModelConfig
from pretrain.encoder import Encoder
from pretrain.layouts import POSITIONS, check_positions, renamed, renamed_decoder, renamed_head, sizes

FILES = (".pth", ".pt", ".bin", ".safetensors")
IN_A_FOLDER = ("model.safetensors", "pytorch_model.bin")
UNDER = ("model", "module", "state_dict")  # where original checkpoints (PyTorch's, DeepSpeed's) keep the parameters
# Plain values that PyTorch does not know as such: the command line of original checkpoints, and numpy's numbers (a best
# score, say, that mmcv notes), which numpy before 2.0 gave another name.
PLAIN = [
    argparse.Namespace,
    scalar,
    (scalar, "numpy.core.multiarray.scalar"),
    np.dtype,
    *map(type, map(np.dtype, ("float64", "float32", "int64"))),
]
ORIGINAL_EPS = 1e-6
HUGGING_FACE_HEAD_EPS = 1e-5  # of the norm before the classes, which transformers leaves at PyTorch's own
MUST_AGREE = ("dim", "layers", "heads", "mlp_dim", "patch", "tubelet", "qv_bias", "final_norm", "layer_norm_eps")


def is_videomae(path: Path) -> bool:
    """Whether a path is a Hugging Face folder of VideoMAE or VideoMAE V2, or a file that may hold such weights."""
    return path.suffix in FILES if path.is_file() else _hub_config(path) is not None


def _hub_config(folder: Path) -> dict[str, Any] | None:
    """The config.json of a Hugging Face VideoMAE folder, None for any other. Raises UserError for a damaged one."""
    file = folder / "config.json"
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file}: no JSON ({error})") from None
    known = isinstance(config, dict) and str(config.get("model_type", "")).lower().startswith("videomae")
    return config if known else None


def read_videomae(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Sizes and parameters, by our names, of a published VideoMAE. Raises UserError: which file, what is wrong."""
    file, theirs = _files(path)
    content = read_file(file)
    settings: dict[str, Any]
    try:
        parameters = parameters_of(content)
        weights = renamed(parameters)
        positions = weights.pop(POSITIONS, None)
        if theirs is None:
            if not any("patch_embed.proj.weight" in name for name in parameters):
                raise ValueError("Hugging Face's names, but no config.json beside it: give the folder that both lie in")
            settings = sizes(weights) | _original(content.get("args"))
        elif "model_config" in theirs:
            settings = _second_version(theirs["model_config"], weights)
        else:
            settings = _hugging_face(theirs)
        config = ModelConfig(streams={}, **settings)
        if positions is not None:
            check_positions(positions, config.base)
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: {error}") from None
    return config, weights


def read_decoder(path: Path) -> dict[str, Tensor]:
    """The decoder that a published VideoMAE was pretrained with, by our names; none where it was left out. Raises UserError."""
    file, _ = _files(path)
    try:
        return renamed_decoder(parameters_of(read_file(file)))
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None


def read_head(path: Path) -> tuple[dict[str, Tensor], float, list[str]]:
    """What a published fine-tuned VideoMAE tells classes by (``layouts.renamed_head``), the epsilon of its norm, and the names of
    the classes where config.json has them. Raises UserError for one that was only pretrained."""
    file, theirs = _files(path)
    head = renamed_head(parameters_of(read_file(file)))
    if not {"head.weight", "head.bias"} <= set(head):
        raise UserError(f"{file}: no classes in it (head or classifier): it was pretrained, not fine-tuned")
    original = theirs is None or "model_config" in theirs
    named = {int(number): str(name) for number, name in (theirs or {}).get("id2label", {}).items()}
    names = [named.get(number, "") for number in range(len(head["head.bias"]))]
    told = all(names) and not any(re.fullmatch(r"LABEL_\d+", name) for name in names)
    return head, ORIGINAL_EPS if original else HUGGING_FACE_HEAD_EPS, names if told else []


def _files(path: Path) -> tuple[Path, dict[str, Any] | None]:
    """The file of weights and, of a Hugging Face folder, its config. Raises UserError."""
    if path.is_file() and path.name in IN_A_FOLDER and _hub_config(path.parent) is not None:
        path = path.parent
    if not path.is_dir():
        return path, None
    file = next((path / name for name in IN_A_FOLDER if (path / name).is_file()), path)
    if file == path:
        raise UserError(f"{path}: neither {' nor '.join(IN_A_FOLDER)} beside config.json")
    return file, _hub_config(path)


def parameters_of(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of what a file holds, the parameters by name."""
    return next((content[key] for key in UNDER if isinstance(content.get(key), Mapping)), content)


def read_file(file: Path) -> dict[str, Any]:
    """What a file of weights holds. Raises UserError; runs nothing out of the file."""
    if file.suffix not in FILES:
        raise UserError(f"{file}: no file of weights ({', '.join(FILES)})")
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise UserError(f"{file}: damaged or no safetensors ({error})") from None
    try:
        with torch.serialization.safe_globals(PLAIN):
            # mapped, so that an optimizer's state, three times the weights, is never read
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # a damaged pickle can raise anything
        if asked := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{file}: refused, it asks to run {asked[1]}; only tensors and plain values are read"
            ) from None
        raise UserError(f"{file}: damaged, or no file that PyTorch saved ({type(error).__name__})") from None
    if not isinstance(content, Mapping):
        raise UserError(f"{file}: holds no parameters by name, but one {type(content).__name__}")
    return dict(content)


def _original(arguments: Any) -> dict[str, Any]:
    """What no shape of an original checkpoint tells: from the command line where it was saved along, else VideoMAE's own."""
    given = vars(arguments) if isinstance(arguments, argparse.Namespace) else {}
    side = given.get("input_size") or 224
    frames = (given.get("num_frames") or 16) * (given.get("num_segments") or 1)
    return {"image_height": side, "image_width": side, "segment_frames": frames, "layer_norm_eps": ORIGINAL_EPS}


def _second_version(theirs: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Settings of ModelConfig out of a Hugging Face folder of VideoMAE V2: its own config, and the shapes."""
    if theirs.get("cos_attn"):
        raise ValueError("its attention is a cosine's (cos_attn); only VideoMAE's own is read")
    side = theirs.get("img_size", 224)
    return sizes(weights, theirs.get("num_heads")) | {
        "image_height": side,
        "image_width": side,
        "segment_frames": theirs.get("num_frames", 16),
        "layer_norm_eps": theirs.get("layer_norm_eps", ORIGINAL_EPS),
    }


def _hugging_face(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of ModelConfig out of transformers' VideoMAEConfig, whose defaults a config.json leaves out."""
    if theirs.get("hidden_act", "gelu") != "gelu" or theirs.get("num_channels", 3) != 3:
        raise ValueError("only GELU and three colour channels are read")
    size = theirs.get("image_size", 224)
    height, width = size if isinstance(size, list) else (size, size)
    return {
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


def digest(weights: Mapping[str, Tensor]) -> str:
    """sha256 of weights and their names."""
    found = hashlib.sha256()
    for name, value in sorted(weights.items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()


def of_the_trunk(name: str) -> bool:
    """Whether a parameter of the encoder is one that VideoMAE has: patch embedding or trunk without the gated branch."""
    return name.startswith(("video.", "trunk.")) and ".reading." not in name


def of_videos_decoder(name: str) -> bool:
    """Whether a parameter of the decoder is one that VideoMAE's has: no other stream's, and nothing of the gated branch."""
    mine = name.startswith(("trunk.", "from_encoder.", "heads.video.")) or name == "mask_tokens.video"
    return mine and ".reading." not in name


def fill(encoder: Encoder, weights: Mapping[str, Tensor], source: Path) -> None:
    """Puts parameters into an encoder: all of the trunk's, others where given. Raises UserError on a misfit."""
    own = encoder.state_dict()
    expected = {name for name in own if of_the_trunk(name)}
    wrong = sorted(n for n in weights if n in own and own[n].shape != weights[n].shape)
    missing, unknown = sorted(expected - set(weights)), sorted(set(weights) - set(own))
    for names, what in ((wrong, "other shapes"), (missing, "absent there"), (unknown, "unknown here")):
        if names:
            raise UserError(
                f"{source}: does not fit the model ({what}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''})"
            )
    encoder.load_state_dict({**own, **weights})


def load_videomae(path: Path) -> Encoder:
    """An encoder that computes what the published VideoMAE computes; it reads video alone.

    What VideoMAE lacks, the gated branch, is drawn the same each time: weights tuned on this encoder know it by its digest.
    """
    config, weights = read_videomae(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = Encoder(config)
    fill(encoder, weights, path)
    return encoder.eval()


def initialise(model: nn.Module, source: Encoder, path: Path) -> None:
    """Starts the encoder of a MaskedAutoencoder from a loaded one: the trunk, and of a release streams and open gates too.

    What the source does not know (a new stream, its gates) stays as it is drawn. Raises UserError naming what does not fit.
    """
    encoder = model.encoder
    assert isinstance(encoder, Encoder)
    for name in MUST_AGREE:
        ours, published = getattr(encoder.config, name), getattr(source.config, name)
        if ours != published:
            raise UserError(
                f"--init {path}: model.{name} is {ours} here and {published} there; set model.{name} to {published}"
            )
    ours, published = encoder.config.base, source.config.base
    if ours != published:  # another grid's sine and cosine would name other places: the table is kept, and interpolated
        raise UserError(
            f"--init {path}: the position table is for {list(ours)} tokens (time, height, width) here and "
            f"{list(published)} there; set model.table to {list(published)}"
        )
    for name, stream in source.config.streams.items():
        if name in encoder.config.streams and encoder.config.streams[name] != stream:
            raise UserError(
                f"--init {path}: model.streams.{name} is {encoder.config.streams[name]} here and {stream} there"
            )
    # of video alone behind closed gates the branch has learnt nothing: a VideoMAE's was drawn a moment ago
    more = source.config.streams or any(float(gate) for gate in source.trunk.gates().values())
    own = encoder.state_dict()
    fill(encoder, {n: v for n, v in source.state_dict().items() if of_the_trunk(n) or (more and n in own)}, path)
    if left := [name for name in source.config.streams if name not in encoder.config.streams]:
        print(f"--init {path}: left out, this model reads no {', '.join(left)}")


def initialise_decoder(model: nn.Module, path: Path) -> None:
    """Starts the decoder of a MaskedAutoencoder from the one that a published VideoMAE was pretrained with, for video; says so
    where it is of other sizes, and ours starts anew. Raises UserError for a file that cannot be read."""
    theirs = read_decoder(path) if is_videomae(path) else {}
    if not theirs:
        return
    decoder = model.decoder
    assert isinstance(decoder, nn.Module)
    own = decoder.state_dict()
    expected = {n for n in own if of_videos_decoder(n)}
    if model.mask.target != "pixels":  # pyrefly: ignore[missing-attribute]
        expected -= {n for n in expected if n.startswith("heads.")}  # what it rebuilds is no picture
        theirs = {n: value for n, value in theirs.items() if not n.startswith("heads.")}
    if set(theirs) != expected or any(own[n].shape != theirs[n].shape for n in theirs):
        width, layers = len(theirs["from_encoder.weight"]), len({n.split(".")[2] for n in theirs if "blocks." in n})
        print(
            f"--init {path}: its decoder is {width} wide and has {layers} layers, another one than model.decoder_dim, "
            "decoder_layers and decoder_heads ask for: ours starts anew"
        )
        return
    decoder.load_state_dict({**own, **theirs})
