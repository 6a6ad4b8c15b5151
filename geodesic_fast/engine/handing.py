# SPDX-License-Identifier: MIT
"""From tensors to what a kernel is handed, addresses, shapes and strides: the one door to every kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geodesic_fast._tracks import Tracks
from geodesic_fast.engine.load import cpu_place, engine, on_device, on_gpu, place_of
from geodesic_fast.engine.torch_internals import is_plain

_DTYPE_CODES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}
_MAX_BATCH_DIMS = 4
_ZERO_STEP_CODES = {"skip": 0, "keep": 1, "propagate": 2}


def launch(kernel: str, device: torch.device, *members: object) -> None:
    """Call a kernel on the members of its arguments, in their order."""
    place, given = place_of(device), [handed(member) for member in members]
    with on_device(device):
        room = workspace(kernel, given, device, place)
        engine.kernels[kernel](*given, place)
        del room


def launch_on_cpu(kernel: str, *members: object) -> Any:
    """Call a kernel that is on the CPU alone, and return what it does."""
    return engine.kernels[kernel](*map(handed, members), cpu_place(torch.get_num_threads()))


def workspace(kernel: str, given: list[Any], device: torch.device, place: engine.Place) -> Tensor | None:
    """Give a kernel that asks for it room to work in, its last member; return it, to be kept meanwhile."""
    size = engine.workspaces.get(kernel)
    if size is None:
        return None
    given.append(0)
    if not on_gpu(device):
        return None
    room = torch.empty(size(*given, place), dtype=torch.uint8, device=device)
    given[-1] = address(room)
    return room


def handed(member: object) -> Any:
    """Return what a kernel is handed for a member: the address of memory, 0 for none, layers as tracks."""
    if isinstance(member, Tensor):
        return address(member)
    if member is None:
        return 0
    if isinstance(member, str):
        return _ZERO_STEP_CODES[member]
    if isinstance(member, np.ndarray):
        assert member.flags.c_contiguous
        return member.ctypes.data
    return engine_tracks(member) if isinstance(member, (list, tuple)) else member


def readable(layers: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return layers that a kernel can read where they lie, copying only those it could not."""
    return _read(layers)[0] if layers else []


def engine_tracks(layers: Sequence[Tensor]) -> engine.Tracks:
    """Return the engine's view of `readable` layers."""
    read, view = read_tracks(layers)
    assert read is layers
    return view


def read_tracks(layers: Sequence[Tensor]) -> tuple[Sequence[Tensor], engine.Tracks]:
    """Return `readable` layers, which the caller is to keep, and the engine's view of them."""
    layers, layout = _read(layers)
    assert layout is not None
    first, stacked = layers[0], len(layers) == 1
    points, stride = (first.shape[0], first.stride(0)) if stacked else (len(layers), 0)
    addresses = [first_address(layer) for layer in layers]
    return layers, engine.Tracks(
        addresses, stride, points, *layout, first.shape[-1], _DTYPE_CODES[first.dtype]
    )


def _read(layers: Sequence[Tensor]) -> tuple[Sequence[Tensor], tuple[list[int], list[int]] | None]:
    axis = 1 if len(layers) == 1 else 0
    first, others = layers[0], layers[1:]
    layout = _batch_layout(first, axis)
    if layout is None or any(
        other.stride() != first.stride() and _batch_layout(other, axis) != layout for other in others
    ):
        layers = [layer.contiguous() for layer in layers]
        layout = _batch_layout(layers[0], axis)
    return layers, layout


def gradient_like(layers: Sequence[Tensor]) -> list[Tensor]:
    """Allocate the gradients of layers: laid out like them where a kernel can write that, else contiguous.

    From shapes and strides alone, so that a fake tensor tells what the kernel will return.
    """
    gradient = [torch.empty_like(layer) for layer in layers]
    first = gradient[0]
    axes = len(Tracks(layers).batch)
    strides = first.stride()
    if (
        axes <= _MAX_BATCH_DIMS
        and strides[-1] == 1
        and all(each.stride() == strides for each in gradient[1:])
    ):
        return gradient
    return [torch.empty_like(layer, memory_format=torch.contiguous_format) for layer in layers]


def address(tensor: Tensor) -> int:
    """Return where a contiguous tensor lies."""
    assert tensor.is_contiguous()
    return first_address(tensor)


def first_address(tensor: Tensor) -> int:
    """Return where the first value of a tensor lies: the one place where the engine's addresses come from."""
    found = tensor.data_ptr() if is_plain(tensor) else 0
    if not found and tensor.numel():
        raise TypeError(
            f"the engine reads tensors whose values lie in memory, got {type(tensor).__name__} whose do not: "
            "pass the tensor that it stands for, outside of torch's modes and transforms."
        )
    return found


def _batch_layout(layer: Tensor, first: int) -> tuple[list[int], list[int]] | None:
    """Merge the batch axes from `first` on; None where features are not contiguous or axes too many."""
    shape = layer.shape
    if layer.is_contiguous():
        m = math.prod(shape[first:-1])
        return ([m], [shape[-1]]) if m != 1 else ([], [])
    steps = layer.stride()
    if shape[-1] > 1 and steps[-1] != 1:
        return None
    sizes: list[int] = []
    strides: list[int] = []
    for axis in range(first, len(shape) - 1):
        size, stride = shape[axis], steps[axis]
        if size == 1:
            continue
        if sizes and strides[-1] == size * stride:
            sizes[-1] *= size
            strides[-1] = stride
        else:
            sizes.append(size)
            strides.append(stride)
    return (sizes, strides) if len(sizes) <= _MAX_BATCH_DIMS else None
