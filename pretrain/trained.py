"""A pretraining run's newest weights, decoder included: for export, and for measurements."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from configs import UserError
from pretrain.checkpoint import newest, read
from pretrain.config import MaskConfig
from pretrain.objective import MaskedAutoencoder
from pretrain.release import model_config


def load_autoencoder(run: Path) -> MaskedAutoencoder:
    """Encoder and decoder of a run that rebuilds pixels or motion, in eval mode. Raises UserError."""
    found = newest(run)
    if found is None:
        raise UserError(f"{run}: no checkpoint there; it is no folder of a kinesic pretrain run")
    settings = read(found)["config"]
    if settings["mask"]["target"] == "teacher":
        raise UserError(f"{run}: its decoder rebuilds a teacher's features, which are not kept with it")
    model = MaskedAutoencoder(model_config(settings["model"]), MaskConfig(**settings["mask"]))
    model.load_state_dict(load_file(found / "weights.safetensors"))
    return model.eval()
