"""What is trained on top of a frozen encoder, one file a method; here: how small weights get in and out."""

from __future__ import annotations

import torch
from torch import nn

from configs import UserError
from finetune.config import AdapterConfig, PromptConfig
from finetune.methods import adapter as adapters
from finetune.methods import prompt as prompts
from finetune.swin import SwinBlock
from finetune.swin_encoder import SwinEncoder
from pretrain.encoder import Encoder
from pretrain.trunk import Block

ON_SWIN = ("linear", "adapter", "prompt")  # the others reach into what a ViT alone has


def check(encoder: Encoder, method: str) -> None:
    """Raises UserError for a method that does not work on this kind of encoder."""
    if isinstance(encoder, SwinEncoder) and method not in ON_SWIN:
        raise UserError(f"--method {method}: not for a Video Swin, which takes {', '.join(ON_SWIN)}")


def small_weights(encoder: Encoder) -> dict[str, nn.Parameter]:
    """The weights that a method put into the encoder, by name."""
    return {n: p for n, p in encoder.named_parameters() if ".adapter." in n or n.endswith(".prompt")}


def remove(encoder: Encoder) -> None:
    """Takes out what a method put in: the encoder is the released one again."""
    for block in encoder.trunk.blocks:
        assert isinstance(block, (Block, SwinBlock))
        block.adapter = None
        block.attn.prompt = None


def install(encoder: Encoder, method: str, adapter: AdapterConfig, prompt: PromptConfig, seed: int) -> None:
    """Freezes the encoder and puts fresh weights of a method into its blocks; ``linear`` has none."""
    remove(encoder)
    encoder.requires_grad_(False)
    encoder.eval()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if method == "adapter":
            adapters.install(encoder, adapter)
        elif method == "prompt":
            prompts.install(encoder, prompt)
