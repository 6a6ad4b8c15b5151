# SPDX-License-Identifier: MIT
"""The formats that MNIST and CIFAR are published in: IDX, binary records, and pickles read without a call."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from geodesic_fast._command_line import UserError

CIFAR_SHAPE = (3, 32, 32)
_IDX_BYTES = 8  # the code of unsigned bytes


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Return the bytes of an IDX file, gzipped or not: (m) for 1 axis, (m, rows, columns) for 3."""
    content = _content(path)
    head = 4 + 4 * axes
    if len(content) < head or content[:4] != bytes((0, 0, _IDX_BYTES, axes)):
        raise UserError(
            f"{path} must be an IDX file of unsigned bytes with {axes} axes, got other first bytes: "
            "download it again."
        )
    shape = struct.unpack(f">{axes}I", content[4:head])
    return _values(path, content[head:], shape)


def read_cifar_binary(path: Path, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images (m, 3, 32, 32) and classes (m) of binary records; of two labels the second, the fine."""
    content = _content(path)
    record = label_bytes + int(np.prod(CIFAR_SHAPE))
    if not content or len(content) % record:
        raise UserError(
            f"{path} must hold whole records of {record} bytes, got {len(content)} bytes: download it again."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    return records[:, label_bytes:].reshape(-1, *CIFAR_SHAPE), records[:, label_bytes - 1].astype(np.int64)


def read_cifar_pickle(path: Path, label_key: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return images (m, 3, 32, 32) and classes (m) of a pickled batch."""
    try:
        batch = _Arrays(io.BytesIO(_content(path)), encoding="bytes").load()
    except UserError as error:
        raise UserError(f"{path} {error}") from None
    except Exception as error:  # a broken pickle raises whatever its bytes make it raise
        raise UserError(f"{path} must be a pickled batch, got {error}: download it again.") from None
    named = {_as_bytes(key): value for key, value in batch.items()} if isinstance(batch, dict) else {}
    images, labels = named.get(b"data"), named.get(label_key)
    pixels = int(np.prod(CIFAR_SHAPE))
    whole = (
        isinstance(images, np.ndarray)
        and images.dtype == np.uint8
        and images.ndim == 2
        and images.shape[1] == pixels
        and isinstance(labels, list)
        and len(labels) == len(images)
        and all(isinstance(label, int) for label in labels)
    )
    if not whole:
        raise UserError(
            f"{path} must hold 'data' of {pixels} bytes an image and as many {label_key.decode()!r}, "
            "got something else: download it again."
        )
    assert isinstance(images, np.ndarray)
    return images.reshape(-1, *CIFAR_SHAPE), np.array(labels, dtype=np.int64)


def _as_bytes(key: Any) -> Any:
    return key.encode() if isinstance(key, str) else key


class _Arrays(pickle.Unpickler):
    """Unpickles NumPy arrays and plain containers, and refuses to look up anything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the four names that an array of bytes needs."""
        allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _latin1,
        }
        for home in ("numpy.core.multiarray", "numpy._core.multiarray"):
            allowed[home, "_reconstruct"] = _empty_array
        if (module, name) not in allowed:
            raise UserError(
                f"must hold arrays and lists alone, got a pickle that asks for {module}.{name}, which is not "
                "run: take the file from its publisher."
            )
        return allowed[module, name]


def _empty_array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """Return what NumPy's own `_reconstruct` would, which the pickle then fills."""
    return np.empty(0, dtype=np.uint8)


def _latin1(text: str, _: str) -> bytes:
    """Return the bytes that Python 3 wrote as text for protocol 2."""
    return text.encode("latin1")


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} must be readable, got {error}: download it again.") from None


def _values(path: Path, content: bytes, shape: tuple[int, ...]) -> np.ndarray:
    expected = int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        raise UserError(
            f"{path} must hold {expected} bytes after its head, got {len(content)}: download it again."
        )
    return np.frombuffer(content, np.uint8).reshape(shape)
