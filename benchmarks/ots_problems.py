# SPDX-License-Identifier: MIT
"""Problems of the transport benchmark: x standard normal if not said otherwise, class offsets, noise."""

from __future__ import annotations

import numpy as np

CLASSES = 10
PLANTED = 0.4  # share of points on the planted cycle
_BLURRED_AT_ONCE = 4096


def make(family: str, m: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y, (m, d) float32."""
    rng = np.random.default_rng(seed)
    if family == "blurred patches":
        return blurred_patches(rng, m)
    x = rng.standard_normal((m, d), dtype=np.float32)
    offset = 3 * rng.standard_normal((CLASSES, d), dtype=np.float32)[rng.integers(0, CLASSES, m)]
    noise = rng.standard_normal((m, d), dtype=np.float32)
    if family == "residual":
        return x, x + 0.3 * offset + 0.3 * noise
    if family == "half scrambled":
        return x, 0.3 * x + offset + noise
    if family == "random relu":
        return x, np.maximum(x @ (rng.standard_normal((d, d), dtype=np.float32) / np.float32(d**0.5)), 0)
    if family == "planted cycles":  # a cycle of points, each sent close to the next one
        target = np.arange(m)
        moved = round(PLANTED * m)
        target[:moved] = np.roll(target[:moved], 1)
        return x, x[target] + np.float32(1e-3 / m) * noise
    assert family == "clustered"
    return 0.1 * x + offset, offset[rng.permutation(m)] + 0.1 * noise


def blurred_patches(rng: np.random.Generator, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut 32 x 32 colour patches from photographs; y is their circular Gaussian blur, so OTS is 1."""
    from sklearn.datasets import load_sample_images

    photographs = [image.astype(np.float32) / 255 for image in load_sample_images().images]
    x = np.empty((m, 32, 32, 3), np.float32)
    for i in range(m):
        photograph = photographs[rng.integers(len(photographs))]
        top, left = (rng.integers(0, size - 31) for size in photograph.shape[:2])
        x[i] = photograph[top : top + 32, left : left + 32]
    y = np.empty_like(x)
    frequency = np.fft.fftfreq(32)
    response = np.exp(-2 * (np.pi * 1.5) ** 2 * frequency**2)  # a standard deviation of 1.5 pixels
    filters = (response[:, None] * response[None, :])[None, :, :, None]
    for start in range(0, m, _BLURRED_AT_ONCE):
        some = slice(start, start + _BLURRED_AT_ONCE)
        y[some] = np.fft.ifft2(np.fft.fft2(x[some], axes=(1, 2)) * filters, axes=(1, 2)).real
    return x.reshape(m, -1), y.reshape(m, -1)
