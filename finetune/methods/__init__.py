"""What is trained on top of a frozen encoder, one file a method; here: how small weights get in and out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from configs import UserError
from finetune.added_streams import restart, stream_weights
from finetune.config import (
    AdapterConfig,
    CrossConfig,
    FullConfig,
    LoraConfig,
    MethodSettings,
    PrefixConfig,
    PromptConfig,
    RunConfig,
)
from finetune.methods import adapter, cross, full, lora, prefix, prompt
from finetune.swin import SwinBlock
from finetune.swin_encoder import SwinEncoder
from pretrain.encoder import Encoder
from pretrain.trunk import SMALL, Block

ON_SWIN = ("linear", "attentive", "adapter", "prompt", "prefix", "lora", "full")


def check(encoder: Encoder, config: RunConfig) -> None:
    """Raises UserError for a method that does not work on this kind of encoder."""
    if not isinstance(encoder, SwinEncoder):
        return
    if config.method not in ON_SWIN:
        raise UserError(f"--method {config.method}: not for a Video Swin, which takes {', '.join(ON_SWIN)}")
    for asked, setting in (
        (config.method == "adapter" and config.adapter.temporal, "adapter.temporal"),
        (config.method == "prompt" and config.prompt.depth == "shallow", "prompt.depth shallow"),
    ):
        if asked:
            raise UserError(f"--{setting}: not for a Video Swin, whose windows move from block to block")


def small_weights(encoder: Encoder) -> dict[str, nn.Parameter]:
    """The weights that a method trains in the encoder, by name: all else is frozen."""
    return {name: weight for name, weight in encoder.named_parameters() if weight.requires_grad}


def remove(encoder: Encoder) -> None:
    """Takes out what a method put in, and freezes: the encoder is the released one again; added streams begin anew."""
    for module in list(encoder.modules()):
        for name in SMALL:
            if getattr(module, name, None) is not None:
                setattr(module, name, None)
    full.restore(encoder)
    restart(encoder)
    encoder.requires_grad_(False)


def settings_of(config: RunConfig) -> MethodSettings | None:
    """The settings of ``config.method``; a head alone has none."""
    return None if config.method in {"linear", "attentive"} else getattr(config, config.method)


def install(encoder: Encoder, settings: MethodSettings | None, layers: int | None, seed: int) -> None:
    """Freezes the encoder and puts fresh weights of a method into its last ``layers`` blocks (None: where the method has them).

    What reads added streams learns with them. settings: whose class tells the method; None: nothing is put in and learns.
    Raises UserError for more layers than there are.
    """
    remove(encoder)
    encoder.eval()
    blocks = last_blocks(encoder, layers)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        match settings:
            case AdapterConfig():
                adapter.install(encoder, blocks, settings)
            case PromptConfig():
                prompt.install(encoder, blocks, settings)
            case PrefixConfig():
                prefix.install(encoder, blocks, settings)
            case CrossConfig():
                cross.install(encoder, blocks if layers else blocks[len(blocks) // 2 :], settings)
            case LoraConfig():
                lora.install(blocks, settings)
            case FullConfig():
                full.install(encoder)
    if settings is not None:
        for weight in stream_weights(encoder).values():
            weight.requires_grad_(True)


def last_blocks(encoder: Encoder, layers: int | None) -> Sequence[Block | SwinBlock]:
    """The last blocks of the trunk, all where ``layers`` is None. Raises UserError for more than there are."""
    blocks = [block for block in encoder.trunk.blocks if isinstance(block, (Block, SwinBlock))]
    if layers is not None and layers > len(blocks):
        raise UserError(f"--layers {layers}: this encoder has {len(blocks)} blocks")
    return blocks if layers is None else blocks[len(blocks) - layers :]


def count(encoder: Encoder, settings: MethodSettings | None, layers: int | None) -> tuple[int, int, int]:
    """Trained weights in the backbone, those elsewhere (tokenizers, gated branch), and how many the backbone has of its own.

    The backbone is what VideoMAE has of the trunk: beside the gated branch as well, every share would look smaller.
    """

    def in_backbone(weights: Iterable[tuple[str, nn.Parameter]]) -> int:
        return sum(w.numel() for name, w in weights if name.startswith("trunk.") and ".reading." not in name)

    remove(encoder)
    backbone = in_backbone(encoder.named_parameters())
    install(encoder, settings, layers, seed=0)
    trained = small_weights(encoder)
    small = in_backbone(trained.items())
    remove(encoder)
    return small, sum(weight.numel() for weight in trained.values()) - small, backbone
