# SPDX-License-Identifier: MIT
"""From tensors to what a kernel is handed: addresses, shapes and strides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from geodesic_fast._tracks import Tracks
from geodesic_fast.engine.load import engine
from geodesic_fast.engine.torch_internals import is_plain

_DTYPE_CODES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}
_MAX_BATCH_DIMS = 4
ZERO_STEP_CODES = {"skip": 0, "keep": 1, "propagate": 2}


def readable(layers: Sequence[Tensor]) -> list[Tensor]:
    """Return layers that a kernel can read where they lie, copying only those it could not."""
    if not layers:
        return []
    if Tracks(layers).is_stacked:
        stacked = layers[0]
        return [stacked if _batch_layout(stacked, 1) is not None else stacked.contiguous()]
    layouts = [_batch_layout(layer, 0) for layer in layers]
    if layouts[0] is not None and all(layout == layouts[0] for layout in layouts):
        return list(layers)
    return [layer.contiguous() for layer in layers]


def engine_tracks(layers: Sequence[Tensor]) -> engine.Tracks:
    """Return the engine's view of `readable` layers."""
    stacked = Tracks(layers).is_stacked
    layout = _batch_layout(layers[0], 1 if stacked else 0)
    assert layout is not None
    first = layers[0]
    return engine.Tracks(
        [first_address(layer) for layer in layers],
        first.stride(0) if stacked else 0,
        Tracks(layers).points,
        *layout,
        first.shape[-1],
        _DTYPE_CODES[first.dtype],
    )


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


def workspace(beside: Tensor, size: int) -> Tensor:
    """Allocate the bytes that a kernel asks for, on the device of a tensor."""
    return beside.new_empty(size, dtype=torch.uint8)


def address(tensor: Tensor | None) -> int:
    """Return where a contiguous tensor lies, 0 for none."""
    if tensor is None:
        return 0
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
    shape, steps = layer.shape, layer.stride()
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
