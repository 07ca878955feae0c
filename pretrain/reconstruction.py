"""What the masked autoencoder makes of one clip, in the clip's own units: for pictures that people look at."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor

from pretrain.clips import Clip
from pretrain.objective import Batch, MaskedAutoencoder
from pretrain.tokens import StreamTokenizer


@dataclass
class Reconstruction:
    """One view's video or one track of a stream: as it is, what was hidden, as it was rebuilt where hidden.

    Video: original and rebuilt float [time, height, width, 3] in [0, 1], hidden bool [time, height, width].
    Streams: original and rebuilt float [cell, feature] in the stream's units, hidden bool [cell]; absent cells are nan.
    """

    original: np.ndarray
    hidden: np.ndarray
    rebuilt: np.ndarray


@torch.no_grad()
def reconstruct(model: MaskedAutoencoder, clip: Clip, seed: int) -> dict[str, Reconstruction]:
    """Hides and rebuilds everything that the mask of ``seed`` hides in a clip; its first view and first person, by modality."""
    whole, model.mask = model.mask, replace(model.mask, decoded=1.0)
    try:
        batch = model.collate([clip], [seed]).to(model.encoder.device)
    finally:
        model.mask = whole
    predictions = model.rebuild(batch)
    return {
        name: _video(model, batch, predictions[name])
        if name == "video"
        else _stream(model, batch, name, predictions[name])
        for name in predictions
    }


def _video(model: MaskedAutoencoder, batch: Batch, predicted: Tensor) -> Reconstruction:
    """Rebuilt tubelets get back their own mean and deviation: the decoder's target is what is left without them."""
    tokens, queries = batch.both["video"], batch.queries["video"]
    pixels = rearrange(tokens.values.float() / 255, "token (channel pixel) -> token pixel channel", channel=3)
    rebuilt = pixels.clone()
    asked = pixels[queries]
    normed = rearrange(predicted.float(), "token (pixel channel) -> token pixel channel", channel=3)
    rebuilt[queries] = (
        normed * (asked.std(1, keepdim=True) + model.mask.pixel_floor) + asked.mean(1, keepdim=True)
    ).clamp(0, 1)
    hidden = torch.zeros(len(tokens), dtype=torch.bool, device=queries.device).index_fill(0, queries, True)
    view = torch.from_numpy(tokens.view == tokens.view[0]).to(queries.device)
    _, rows, columns = tokens.grids[tokens.grid[0]]
    config = model.config

    def picture(values: Tensor) -> np.ndarray:
        return rearrange(
            values[view],
            "(t h w) (frame row column) channel -> (t frame) (h row) (w column) channel",
            h=rows, w=columns, row=config.patch, column=config.patch,
        ).cpu().numpy()  # fmt: skip

    covered = repeat(hidden, "token -> token pixel 1", pixel=pixels.shape[1])
    return Reconstruction(picture(pixels), picture(covered)[..., 0], picture(rebuilt))


def _stream(model: MaskedAutoencoder, batch: Batch, name: str, predicted: Tensor) -> Reconstruction:
    tokens, queries = batch.both[name], batch.queries[name]
    tokenizer = model.encoder.tokenizer(name)
    assert isinstance(tokenizer, StreamTokenizer)
    assert tokens.valid is not None
    cells = rearrange(predicted.float(), "token (cell feature) -> token cell feature", cell=tokens.valid.shape[1])
    rebuilt = tokens.values.clone()
    rebuilt[queries] = cells * tokenizer.std + tokenizer.mean
    hidden = torch.zeros_like(tokens.valid).index_fill(0, queries, True)
    track = (tokens.view == tokens.view[0]) & (tokens.person == tokens.person[0])
    track = torch.from_numpy(track).to(queries.device)
    absent = ~tokens.valid[track].flatten().cpu().numpy()

    def series(values: Tensor) -> np.ndarray:
        out = rearrange(values[track], "token cell feature -> (token cell) feature").cpu().numpy()
        out[absent] = np.nan
        return out

    return Reconstruction(series(tokens.values.clone()), hidden[track].flatten().cpu().numpy(), series(rebuilt))
