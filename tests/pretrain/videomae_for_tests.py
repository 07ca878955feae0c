"""Tiny models of transformers as a published VideoMAE, and their parameters as the original repositories name them."""

import torch
from torch import Tensor, nn

SIZES = {
    "tiny": {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 96,
        "image_size": 32,
    },
    "wider": {
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 320,
        "image_size": [48, 64],
    },
}


def redraw(model: nn.Module) -> None:
    """Every parameter drawn anew at the scale of trained ones, norms and biases included."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.data = (centre + scale * noise).to(parameter.dtype)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, as a share of their largest value."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def _linear(name: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{name}.{leaf}": value.detach().clone() for leaf, value in module.named_parameters()}


def _blocks(layers: nn.ModuleList) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for number, layer in enumerate(layers):
        self_attention = layer.attention.attention
        query, key, value = self_attention.query, self_attention.key, self_attention.value
        block = {
            "attn.qkv.weight": torch.cat([query.weight, key.weight, value.weight]).detach(),
            "attn.q_bias": query.bias.detach().clone(),
            "attn.v_bias": value.bias.detach().clone(),
            **_linear("attn.proj", layer.attention.output.dense),
            **_linear("norm1", layer.layernorm_before),
            **_linear("norm2", layer.layernorm_after),
            **_linear("mlp.fc1", layer.intermediate.dense),
            **_linear("mlp.fc2", layer.output.dense),
        }
        named |= {f"blocks.{number}.{part}": tensor for part, tensor in block.items()}
    return named


def original_encoder(body: nn.Module) -> dict[str, Tensor]:
    """A VideoMAEModel's parameters as the original repositories name them."""
    named = _linear("patch_embed.proj", body.embeddings.patch_embeddings.projection) | _blocks(body.encoder.layer)
    return named if body.layernorm is None else named | _linear("norm", body.layernorm)


def original_pretraining(model: nn.Module) -> dict[str, Tensor]:
    """A VideoMAEForPreTraining's parameters as the original repositories name them, decoder and all."""
    decoder = _blocks(model.decoder.decoder_layers) | _linear("norm", model.decoder.norm)
    return {
        "mask_token": model.mask_token.detach().clone(),
        **{f"encoder.{name}": value for name, value in original_encoder(model.videomae).items()},
        **{f"decoder.{name}": value for name, value in (decoder | _linear("head", model.decoder.head)).items()},
        **_linear("encoder_to_decoder", model.encoder_to_decoder),
    }


def original_finetuned(model: nn.Module) -> dict[str, Tensor]:
    """A VideoMAEForVideoClassification's parameters as the original repositories name them."""
    norm = {} if model.fc_norm is None else _linear("fc_norm", model.fc_norm)
    return original_encoder(model.videomae) | norm | _linear("head", model.classifier)
