"""Cells of the picture: their means, and motion that is left when the camera's is taken out."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from data_prep.regions import MotionMeter, cell_means

HEIGHT, WIDTH = 144, 192


def texture(seed: int, height: int = 400, width: int = 400) -> np.ndarray:
    """Blurred noise: something that optical flow can follow. Grey [height, width]."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.clip(128 + 6 * (smooth - smooth.mean()), 0, 255).astype(np.uint8)


def scene(camera: tuple[int, int], square: tuple[int, int]) -> np.ndarray:
    """A wall seen at an offset, and before it a square of 32 pixels whose corner is at a place of the picture (y, x)."""
    picture = texture(0)[100 + camera[0] :, 100 + camera[1] :][:HEIGHT, :WIDTH].copy()
    picture[square[0] : square[0] + 32, square[1] : square[1] + 32] = texture(1)[:32, :32]
    return picture


def test_cell_means_of_a_picture_that_is_no_multiple_of_the_cell():
    values = np.zeros((40, 56))
    values[:16, :16] = 1  # the first cell
    values[32:, 48:] = 0.5  # the last one, 8 x 8 pixels
    expected = np.zeros((3, 4), np.float32)
    expected[0, 0], expected[2, 3] = 1, 0.5
    np.testing.assert_allclose(cell_means(values, 56, 40, 16), expected, atol=1e-6)


def test_nothing_moves_in_the_first_frame_and_in_a_still_picture():
    meter = MotionMeter(WIDTH, HEIGHT, 16)
    still = scene((0, 0), (48, 64))
    assert meter.measure(0.0, still).shape == (9, 12)
    assert not meter.measure(0.125, still).any()


def test_speed_is_in_picture_heights_per_second():
    meter = MotionMeter(WIDTH, HEIGHT, 16)
    meter.measure(1.0, scene((0, 0), (48, 64)))
    motion = meter.measure(1.25, scene((0, 0), (48, 68)))  # 4 pixels in a quarter of a second
    expected = 4 / HEIGHT / 0.25
    inside = motion[3:5, 4:6]
    assert inside == pytest.approx(np.full_like(inside, expected), rel=0.2)
    assert np.median(motion) < 0.02 * expected


def test_the_cameras_motion_is_taken_out():
    moving, still = MotionMeter(WIDTH, HEIGHT, 16), MotionMeter(WIDTH, HEIGHT, 16)
    moving.measure(0.0, scene((0, 0), (48, 64)))
    with_camera = moving.measure(
        0.25, scene((3, -5), (48, 68))
    )  # the square moves as before against the picture's edge
    still.measure(0.0, scene((0, 0), (48, 64)))
    alone = still.measure(0.25, scene((0, 0), (48 + 3, 68 - 5)))
    speed = np.hypot(3, 5) / HEIGHT / 0.25
    outside = np.ones_like(with_camera, bool)
    outside[2:6, 3:7] = False
    assert with_camera[outside].mean() < 0.05 * speed  # without compensation it would be all of it
    assert with_camera[3:5, 4:6].mean() > 5 * with_camera[outside].mean()
    assert alone[outside].mean() < 0.05 * speed


@pytest.mark.parametrize("size", [(16, 16), (18, 300), (642, 362)])
def test_any_size_of_picture(size):
    width, height = size
    meter = MotionMeter(width, height, 16)
    for time in range(3):
        motion = meter.measure(float(time), texture(time, height, width))
        assert motion.shape == (-(-height // 16), -(-width // 16))
        assert np.isfinite(motion).all()


def test_time_must_grow():
    meter = MotionMeter(WIDTH, HEIGHT, 16)
    meter.measure(1.0, texture(0, HEIGHT, WIDTH))
    with pytest.raises(ValueError, match=r"the frame at 1\.0 s does not come after"):
        meter.measure(1.0, texture(0, HEIGHT, WIDTH))
