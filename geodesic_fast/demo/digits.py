# SPDX-License-Identifier: MIT
"""The handwritten digits that ship inside scikit-learn: 1797 images of 8 x 8 pixels, no download."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geodesic_fast._command_line import UserError

CLASSES = 10
PIXELS = 64
TEST_SHARE = 0.25


@dataclass(frozen=True)
class Digits:
    """Images as rows of standardised pixels, and their classes 0 to 9."""

    train_images: Tensor  # (1347, 64) float32
    train_classes: Tensor  # (1347,) int64
    test_images: Tensor  # (450, 64)
    test_classes: Tensor  # (450,)


def load(seed: int, device: torch.device) -> Digits:
    """Split the digits into training and test images, every class in equal share, by `seed`."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise UserError(
            f"the demo takes its images from scikit-learn, which cannot be imported ({error}): "
            'run pip install "geodesic-fast[demo]".'
        ) from None
    images, classes = load_digits(return_X_y=True)
    train, test, train_classes, test_classes = train_test_split(
        images, classes, test_size=TEST_SHARE, stratify=classes, random_state=seed
    )
    # One mean and one scale for all pixels: the border pixels are always 0 and have no scale of their own.
    mean, scale = train.mean(), train.std()

    def rows(values: object) -> Tensor:
        return torch.as_tensor((values - mean) / scale, dtype=torch.float32, device=device)

    return Digits(
        train_images=rows(train),
        train_classes=torch.as_tensor(train_classes, device=device),
        test_images=rows(test),
        test_classes=torch.as_tensor(test_classes, device=device),
    )
