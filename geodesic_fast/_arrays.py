# SPDX-License-Identifier: MIT
"""The door for what is no plain tensor, without a copy: NumPy, what speaks DLPack, distributed tensors."""

from __future__ import annotations

import dataclasses
import functools
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from geodesic_fast.engine.torch_internals import is_wrapper, unwrapped

NDArray = np.ndarray[Any, np.dtype[Any]]
Tensors = Tensor | Sequence[Tensor]
Arrays = NDArray | Sequence[NDArray]
_NO_ARRAYS = (Tensor, torch.nn.Parameter, int, str, float, bool, type(None))

if sys.version_info >= (3, 11):
    from typing import NamedTuple as NamedTuple
else:  # that of Python 3.10 takes no other base
    from typing_extensions import NamedTuple as NamedTuple

if TYPE_CHECKING:
    from typing import Generic as ResultOf

    from typing_extensions import TypeVar as TypeVarWithDefault

    Array = TypeVarWithDefault("Array", bound=Tensor | NDArray, default=Tensor)
else:  # torch looks into named tuples that have no other base alone

    class ResultOf:
        """What a result holds, tensors or arrays, as type checkers see it: `TrackGeometry[NDArray]`."""

        def __class_getitem__(cls, of):
            return cls()

        def __mro_entries__(self, bases):
            return ()

    Array = TypeVar("Array")


def takes_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function of tensors take arrays too.

    NumPy alone gives NumPy: with a tensor among the arguments, whose gradient must go on, the answer is a
    tensor, and labels decide nothing. Arrays of other packages come back as tensors, which `from_dlpack` of
    their own package takes. Of a distributed tensor the whole is taken, and what a collective has yet to
    deliver is waited for. Other tensors pass through untouched.
    """

    @functools.wraps(function)
    def door(*args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if _holds_arrays(value):
                return _call_with_tensors(function, args, kwargs)
        return function(*args, **kwargs)

    # A code object of its own: torch.compile counts recompilations by it, and traces show the metric's name.
    door.__code__ = door.__code__.replace(co_name=function.__name__)  # type: ignore[attr-defined]
    return door


def _call_with_tensors(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result = function(*map(as_tensors, args), **{name: as_tensors(value) for name, value in kwargs.items()})
    points = [value for name, value in kwargs.items() if name != "labels"]
    kinds = [kind for value in (*args, *points) for kind in _array_kinds(value)]
    return as_numpy(result) if all(kind is np.ndarray for kind in kinds) else result


def as_tensors(value: Any) -> Any:
    """Return arrays, or a list of them, as tensors over the same memory; anything else as it is."""
    if isinstance(value, Tensor):
        return unwrapped(value)
    if isinstance(value, np.ndarray):
        return _of_numpy(value)
    if _speaks_dlpack(value):
        return _of_dlpack(value)
    if isinstance(value, list | tuple) and any(map(_is_array, value)):
        return [as_tensors(item) for item in value]
    return value


def as_numpy(value: Any) -> Any:
    """Return tensors, and those inside a named tuple or a dataclass, as NumPy arrays."""
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, tuple):
        items = map(as_numpy, value)
        return value._make(items) if hasattr(value, "_make") else tuple(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: as_numpy(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value


def _of_numpy(array: np.ndarray) -> Tensor:
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            "arrays must be plain, got numpy.ma.MaskedArray, whose mask would be lost: pass the rows that "
            "count, "
            "for example array[~mask]."
        )
    if array.dtype.name == "bfloat16":  # NumPy's own conversion does not know the type
        return _of_numpy(array.view(np.uint16)).view(torch.bfloat16)
    if array.dtype.kind not in "biufc":
        raise TypeError(
            f"arrays must hold numbers, got NumPy dtype {array.dtype}: convert them with "
            "array.astype(float), and number labels with numpy.unique(labels, return_inverse=True)[1]."
        )
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = np.ascontiguousarray(array)
    if array.dtype.char in "gG":  # long double: 80 or 128 bits
        raise TypeError(
            f"arrays must be of a type that torch has, got NumPy dtype {array.dtype}: convert them with "
            f"array.astype({'complex' if array.dtype.kind == 'c' else 'float'})."
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")  # nothing here writes to its input
        return torch.from_numpy(array)


def _of_dlpack(array: Any) -> Tensor:
    try:
        return torch.from_dlpack(array)
    except Exception as error:  # each package has its own
        raise TypeError(
            f"arrays must hold values that can be read, got {type(array).__name__}, which its package does "
            "not hand over: call this outside of jax.jit, on arrays of a dtype that torch has."
        ) from error


def _is_array(value: Any) -> bool:
    if isinstance(value, Tensor):
        return is_wrapper(value)
    return isinstance(value, np.ndarray) or _speaks_dlpack(value)


def _speaks_dlpack(value: Any) -> bool:
    return hasattr(value, "__dlpack__") and not isinstance(value, type)


def _holds_arrays(value: Any) -> bool:
    if type(value) in _NO_ARRAYS:
        return False
    if isinstance(value, (list, tuple)):  # a union would be made anew each time
        return any(type(item) not in _NO_ARRAYS and _is_array(item) for item in value)
    return _is_array(value)


def _array_kinds(value: Any) -> list[type]:
    """Return what each array or tensor in an argument is, NumPy or not."""
    values = value if isinstance(value, list | tuple) else (value,)
    held = (item for item in values if isinstance(item, Tensor) or _is_array(item))
    return [np.ndarray if isinstance(item, np.ndarray) else type(item) for item in held]
