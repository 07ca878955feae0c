"""Method ``lora``: low-rank updates of the projections of queries and values (arXiv 2106.09685), made and merged by peft.

The trunk keeps queries, keys and values in one matrix; under LoRA each has a linear layer of its own on the same memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from finetune.config import LoraConfig
from finetune.swin import SwinBlock, WindowAttention
from pretrain.encoder import Encoder
from pretrain.trunk import Attention, Block

WRAPPED = ("query", "value")


def install(blocks: Sequence[Block | SwinBlock], config: LoraConfig) -> None:
    """Puts fresh updates into blocks, drawn from torch's generator; the second matrix starts at zero, as in the paper."""
    import peft  # seconds, so only where it is used

    apart = nn.ModuleList(_apart(block.attn) for block in blocks)
    settings = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=list(WRAPPED))  # pyrefly: ignore
    peft.inject_adapter_in_model(settings, apart)
    for block, module in zip(blocks, apart, strict=True):
        assert isinstance(module, nn.ModuleDict)
        block.attn.lora = module


def _apart(attention: Attention | WindowAttention) -> nn.ModuleDict:
    """The three projections of an attention as frozen linear layers on the memory of the one."""
    weights = attention.qkv.weight.detach().chunk(3)
    own = isinstance(attention, Attention)  # keys have no bias there
    biases = (attention.q_bias, None, attention.v_bias) if own else attention.qkv.bias.chunk(3)
    layers = nn.ModuleDict()
    for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        layer.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
        layers[name] = layer
    return layers


@torch.no_grad()
def merge(encoder: Encoder) -> None:
    """Adds the updates to the encoder's own matrices and takes them out: the same output from a plain encoder."""
    for block in encoder.trunk.blocks:
        assert isinstance(block, (Block, SwinBlock))
        attention = block.attn
        if attention.lora is not None:
            for name in WRAPPED:
                attention.lora[name].merge()  # pyrefly: ignore
            apart = [attention.lora["query"].base_layer, attention.lora["key"], attention.lora["value"].base_layer]
            attention.qkv.weight.copy_(torch.cat([layer.weight for layer in apart]))  # pyrefly: ignore
            attention.lora = None
