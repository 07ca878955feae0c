"""What the masked autoencoder makes of one clip, in the clip's own units: for pictures that people look at."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn.functional import cosine_similarity

from pretrain.clips import Clip
from pretrain.config import KINDS
from pretrain.masking import NOT_REBUILT, Mask, draw_mask
from pretrain.motion import still_of
from pretrain.objective import MaskedAutoencoder
from pretrain.tokens import StreamTokenizer, Tokens, tokenize


@dataclass
class Reconstruction:
    """One view's video or one track of a stream: as it is, what was hidden, as it was rebuilt where hidden.

    Video: original and rebuilt float [time, height, width, 3] in [0, 1], hidden bool [time, height, width].
    With the target "teacher", what was hidden is rebuilt as a grey: the cosine similarity of predicted and true features, 0 black.
    Streams: original and rebuilt float [cell, feature] in the stream's units, hidden bool [cell]; absent cells and numbers are nan.
    What was hidden and not to be rebuilt is nan in ``rebuilt``.
    """

    original: np.ndarray
    hidden: np.ndarray
    rebuilt: np.ndarray


@torch.no_grad()
def reconstruct(model: MaskedAutoencoder, clip: Clip, seed: int, kind: str = "random") -> dict[str, Reconstruction]:
    """Hides a clip as a kind of masking does and rebuilds all that it asks for, by modality.

    One view, and one person of it, of each modality: the first that has something to rebuild for this kind; of other kinds
    than random, that time and as much around it. Modalities without any are left out, all of them where the clip cannot
    carry the kind.
    """
    whole, model.mask = model.mask, replace(model.mask, decoded=1.0, kinds={kind: 1.0})
    try:
        tokens = tokenize(clip, 0, model.config, model.config.modalities)
        drawn = draw_mask(clip, tokens, model.config, model.mask, seed)
        batch = model.collate([clip], [seed]).to(model.encoder.device)
    finally:
        model.mask = whole
    predictions = model.rebuild(batch)
    found = {}
    for name, part in tokens.items():
        asked = np.flatnonzero(drawn.rebuilt[name] == KINDS.index(kind))
        if len(asked):
            predicted = predictions[name].float()
            if name == "video" and model.teacher is not None:
                predicted = cosine_similarity(predicted, model.targets(name, batch)[0])[:, None]
            rebuilt = _rebuilt(model, name, part, drawn, predicted.cpu())
            shown = _around(part, asked, whole=kind == "random")
            show = _video if name == "video" else _stream
            found[name] = show(model, part.take(shown), drawn.hidden[name][shown], rebuilt[torch.from_numpy(shown)])
    return found


def _around(part: Tokens, asked: np.ndarray, whole: bool) -> np.ndarray:
    """Rows of the view and person of the first of the rows ``asked``, all or as long before and after what is asked as it lasts."""
    track = (part.view == part.view[asked[0]]) & (part.person == part.person[asked[0]])
    if whole:
        return np.flatnonzero(track)
    times = part.time[asked][track[asked]]
    lasts = max(np.ptp(times), 1.0)
    return np.flatnonzero(track & (part.time >= times.min() - lasts) & (part.time <= times.max() + lasts))


def _rebuilt(model: MaskedAutoencoder, name: str, part: Tokens, drawn: Mask, predicted: Tensor) -> Tensor:
    """The contents of all tokens of a modality, as rebuilt where they are: video [token, (channel pixel)] from 0 to 1, streams
    [token, cell, feature]."""
    rows = torch.from_numpy(np.flatnonzero(drawn.rebuilt[name] != NOT_REBUILT))
    values = part.values / 255 if name == "video" else part.values.clone()
    asked = values[rows]
    values[torch.from_numpy(drawn.hidden[name])] = torch.nan
    if model.motion is not None:
        motion = type(model.motion)(model.config)
        motion.load_state_dict(model.motion.state_dict())  # a copy on the CPU
        values[rows] = motion.undo(name, predicted, still_of(part, model.config).take(rows))
    elif name == "video" and model.teacher is not None:
        values[rows] = predicted.expand(-1, values.shape[1])
    elif (
        name == "video"
    ):  # rebuilt tubelets get back their own mean and deviation: the target is what is left without them
        pixels = rearrange(asked, "token (channel pixel) -> token channel pixel", channel=3)
        normed = rearrange(predicted, "token (pixel channel) -> token channel pixel", channel=3)
        normed = normed * (pixels.std(2, keepdim=True) + model.mask.pixel_floor) + pixels.mean(2, keepdim=True)
        values[rows] = rearrange(normed, "token channel pixel -> token (channel pixel)")
    else:
        tokenizer = model.encoder.tokenizer(name)
        assert isinstance(tokenizer, StreamTokenizer)
        cells = rearrange(predicted, "token (cell feature) -> token cell feature", cell=asked.shape[1])
        values[rows] = cells * tokenizer.std.cpu() + tokenizer.mean.cpu()
    return values.clamp(0, 1) if name == "video" else values.masked_fill(part.values.isnan(), torch.nan)


def _video(model: MaskedAutoencoder, part: Tokens, hidden: np.ndarray, rebuilt: Tensor) -> Reconstruction:
    """part, hidden, rebuilt: the tokens of one view, [token, ...]"""
    _, rows, columns = part.grids[part.grid[0]]

    def picture(values: Tensor) -> np.ndarray:
        return rearrange(
            values,
            "(t h w) (channel frame row column) -> (t frame) (h row) (w column) channel",
            h=rows, w=columns, frame=model.config.tubelet, row=model.config.patch, column=model.config.patch,
        ).numpy()  # fmt: skip

    covered = repeat(torch.from_numpy(hidden), "token -> token pixel", pixel=rebuilt.shape[1])
    return Reconstruction(picture(part.values / 255), picture(covered)[..., 0], picture(rebuilt))


def _stream(model: MaskedAutoencoder, part: Tokens, hidden: np.ndarray, rebuilt: Tensor) -> Reconstruction:
    """part, hidden, rebuilt: the tokens of one track, [token, ...]"""
    assert part.valid is not None
    absent = ~part.valid.flatten().numpy()

    def series(values: Tensor) -> np.ndarray:
        out = rearrange(values, "token cell feature -> (token cell) feature").numpy().copy()
        out[absent] = np.nan
        return out

    return Reconstruction(series(part.values), np.repeat(hidden, part.valid.shape[1]), series(rebuilt))
