"""Position codes of pictures and segments that the published table was not made for."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pretrain.clips import View
from pretrain.config import ModelConfig
from pretrain.encoder import Encoder
from pretrain.tokens import model_frames, position_table, sinusoids, tokenize
from tests.pretrain.clips_for_tests import make_clip, tiny_model

BASE = (8, 14, 14)  # 16 frames of 224 x 224
GRIDS = {
    "224x400": (8, 14, 25),
    "112x112": (8, 7, 7),
    "32 frames": (16, 14, 14),
    "8 frames": (4, 14, 14),
    "32 frames of 224x400": (16, 14, 25),
    "8 frames of 112x112": (4, 7, 7),
    "384x384": (8, 24, 24),
}


def cells_off(codes: Tensor, grid: tuple[int, int, int]) -> np.ndarray:
    """How far from its own place a code's nearest place of the base table is, in cells along (time, height, width).

    codes [place of grid, dim] -> [place of grid, 3]
    """
    base = sinusoids(int(np.prod(BASE)), codes.shape[1])
    nearest = (normalize(codes, dim=1) @ normalize(base, dim=1).T).argmax(1).numpy()
    found = np.stack(np.unravel_index(nearest, BASE), 1)
    along = [(np.arange(cells) + 0.5) * there / cells - 0.5 for cells, there in zip(grid, BASE, strict=True)]
    same = np.stack(np.meshgrid(*along, indexing="ij"), -1).reshape(-1, 3)  # the same place of the picture and segment
    return np.abs(found - same)


@pytest.mark.parametrize("dim", [384, 768])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_a_code_of_another_grid_is_nearest_to_the_same_place(grid: tuple[int, int, int], dim: int) -> None:
    assert cells_off(position_table(BASE, grid, dim), grid).max() < 1
    recomputed = sinusoids(int(np.prod(grid)), dim)  # what the flattened sine and cosine would say of these places
    assert (cells_off(recomputed, grid) >= 1).any(1).mean() > 0.7


def test_recomputed_codes_are_as_unlike_as_random_ones() -> None:
    """The figure behind interpolation: mean cosine with the code of the same place, where it should be near 1."""
    grid = (8, 14, 28)  # every second column lies a quarter of a cell from one of the base's
    same = torch.from_numpy(np.repeat(np.arange(8 * 14 * 14), 2))
    base = sinusoids(8 * 14 * 14, 768)[same]
    cosine = torch.cosine_similarity(sinusoids(8 * 14 * 28, 768), base).mean()
    assert cosine < 0.3  # two places drawn at random: 0.30
    assert torch.cosine_similarity(position_table(BASE, grid, 768), base).mean() > 0.99


def test_a_model_for_other_pictures_and_segments_keeps_the_table() -> None:
    """``model.table`` is how a run at 112 x 112 with 32 frames starts from weights made for 224 x 224 with 16."""
    sizes = {"dim": 48, "layers": 1, "heads": 3, "mlp_dim": 96, "streams": {}, "segment_frames": 32}
    config = ModelConfig(**sizes, image_height=112, image_width=112, table=BASE)
    encoder = Encoder(config)
    torch.nn.init.zeros_(encoder.video.weight)
    codes = encoder.encode(video=torch.randn(1, 32, 3, 112, 112)).content[0]
    assert torch.equal(codes, position_table(BASE, (16, 7, 7), 48))
    wide = encoder.encode(video=torch.randn(1, 32, 3, 112, 208)).content[0]
    assert torch.equal(wide, position_table(BASE, (16, 7, 13), 48))
    assert ModelConfig(**sizes).base == (16, 14, 14)


def test_what_a_stream_holds_does_not_hang_on_training():
    """Distances between the contents are those between the cells, whatever the tokenizer has learnt or forgotten."""
    encoder = Encoder(tiny_model(dim=192, heads=6)).eval()
    clip = make_clip()
    before = encoder.encode_clips([clip]).content
    with torch.no_grad():
        encoder.streams["pose"].project.weight.zero_()
    encoded = encoder.encode_clips([clip])
    rows = encoded.modality == encoder.modalities.index("pose")
    torch.testing.assert_close(encoded.content[rows], before[rows])
    part = tokenize(clip, 0, encoder.config, ("pose",))["pose"]
    cells = encoder.streams["pose"].standardised(part).flatten(1)
    apart = torch.nn.functional.pdist(cells) / cells.shape[1] ** 0.5
    kept = torch.nn.functional.pdist(encoded.content[rows]) / encoded.content.shape[1] ** 0.5
    torch.testing.assert_close(kept, apart, rtol=0.25, atol=0)


def test_pictures_are_scaled_as_exact_numbers_would_be():
    """Scaled as bytes: within a grey level of the same in float32, for a picture that shrinks and one that grows."""
    config = tiny_model(image_height=48, image_width=48)
    rng = np.random.default_rng(0)
    for height, width in ((100, 180), (20, 36)):
        frames = rng.integers(0, 256, (4, height, width, 3), dtype=np.uint8)
        scaled = model_frames(View(frames, frame_rate=config.frame_rate), config)
        exact = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
        exact = torch.nn.functional.interpolate(exact, size=scaled.shape[-2:], mode="bilinear", antialias=True)
        assert scaled.shape == (4, 3, 48, 80)
        assert scaled.dtype == torch.uint8
        assert (scaled.float() - exact.round()).abs().max() <= 1
