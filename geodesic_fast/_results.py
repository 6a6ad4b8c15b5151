# SPDX-License-Identifier: MIT
"""What results have in common.

They are frozen: a named tuple where every field is one more number of the same tracks or points, to be
unpacked and mapped over, a dataclass where a verdict comes with what shows it. None has a field by the name
of a tuple's method. They are compared by their values, NaN equal to NaN.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Result = TypeVar("Result", bound=type)


def compared_by_value(result: Result) -> Result:
    """Give a named tuple or dataclass equality by value, and a hash that agrees with it."""

    def equal(self: Any, other: Any) -> bool:
        return type(self) is type(other) and _same(tuple(_values(self)), tuple(_values(other)))

    def unequal(self: Any, other: Any) -> bool:
        return not equal(self, other)

    def hashed(self: Any) -> int:
        return hash((type(self).__name__, *map(_key, _values(self))))

    result.__eq__, result.__ne__, result.__hash__ = equal, unequal, hashed  # type: ignore[method-assign, assignment]
    return result


def _values(result: Any) -> Iterator[Any]:
    if isinstance(result, tuple):
        return iter(result)
    return (getattr(result, field.name) for field in dataclasses.fields(result) if field.compare)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        alike = a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
        return alike and bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b or (a != a and b != b))


def _key(value: Any) -> Any:
    """Return what equal values have in common: of tensors the shape."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return tuple(value.shape)
    if isinstance(value, tuple | list):
        return tuple(map(_key, value))
    return None if value != value else value
