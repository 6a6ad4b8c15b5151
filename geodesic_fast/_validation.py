# SPDX-License-Identifier: MIT
"""Every check of an argument: one function per mistake, one sentence per message.

A message names the argument, what was expected, what came, and the remedy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor

from geodesic_fast.engine.torch_internals import is_plain, resolved

FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ZERO_STEPS = ("skip", "keep", "propagate", "raise")


def check_zero_step(zero_step: str) -> None:
    """Refuse an unknown policy for steps of length zero."""
    if zero_step not in ZERO_STEPS:
        raise ValueError(f"zero_step must be one of {', '.join(map(repr, ZERO_STEPS))}, got {zero_step!r}.")


def check_float_tensor(name: str, value: object) -> None:
    """Refuse what is not a tensor of a floating-point dtype."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(value).__name__}: "
            + how_to_convert(name, value, f"torch.stack([torch.as_tensor(part) for part in {name}])")
        )
    check_dense(name, value)
    if value.dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"{name} must be float16, bfloat16, float32 or float64, got {value.dtype}: "
            f"convert it with {_to_float(name, value)}."
        )


def check_dense(name: str, value: Tensor) -> None:
    """Refuse sparse, nested and masked tensors."""
    if value.is_nested:
        raise TypeError(
            f"{name} must be a dense tensor, got a nested one: measure each of {name}.unbind() on its own."
        )
    if hasattr(value, "get_mask"):
        raise TypeError(
            f"{name} must be a plain tensor, got a MaskedTensor, whose mask would be lost: pass the rows "
            f"that count of {name}.get_data()."
        )
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {value.layout}: use {name}.to_dense().")


def how_to_convert(name: str, value: object, of_parts: str) -> str:
    """Say how a tensor is made of what is none; `of_parts` makes one of what is iterated over."""
    if isinstance(value, np.ndarray):  # given to what takes tensors alone
        return f"convert it with torch.as_tensor({name})."
    if hasattr(value, "__array__"):
        return f"convert it with numpy.asarray({name})."
    if isinstance(value, Mapping):
        return f"convert it with {of_parts.replace(name, name + '.values()')}."
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return f"convert it with {of_parts}."
    return "pass a tensor or a NumPy array."


def _to_float(name: str, value: Tensor) -> str:
    if value.is_quantized:
        return f"{name}.dequantize()"
    if value.is_complex():  # twice the features, the same lengths and angles
        return f"torch.view_as_real(torch.as_tensor({name})).flatten(-2)"
    return f"torch.as_tensor({name}).float()"


def in_memory(name: str, value: Tensor) -> Tensor:
    """Return a tensor whose values lie at its address, and refuse what has none: fakes, wrappers, transforms.

    For what is no operation of torch, whose dispatcher would unwrap: lazily negated and zero tensors too.
    """
    if value.device.type not in ("cpu", "cuda"):
        return value
    value = resolved(value)
    if not is_plain(value):
        raise TypeError(
            f"{name} must be a tensor whose values lie in memory, got {type(value).__name__} that stands for "
            "another: pass that one, outside of torch's modes and transforms."
        )
    return value


def check_labels(labels: object, batch: torch.Size, device: torch.device) -> None:
    """Refuse labels that are not one integer for each track."""
    if labels is None:
        return
    if not isinstance(labels, Tensor):
        raise TypeError(
            f"labels must be a torch.Tensor, got {type(labels).__name__}: "
            "number them with numpy.unique(labels, return_inverse=True)[1]."
        )
    check_dense("labels", labels)
    if labels.is_floating_point() or labels.is_complex() or labels.is_quantized:
        raise TypeError(
            f"labels must be integers, got {labels.dtype}: "
            "number them with numpy.unique(labels, return_inverse=True)[1]."
        )
    if labels.shape != batch and labels.shape != (batch.numel(),):
        raise ValueError(
            f"labels must have shape {(batch.numel(),)}, got {tuple(labels.shape)}: one label for each track."
        )
    if labels.device != device:
        raise ValueError(
            f"labels must be on the device of the tracks, {device}, got {labels.device}: "
            "move them with labels.to(device)."
        )


def check_points(x: object, y: object, batch_dims: int = 0) -> None:
    """Refuse what is not two matched sets of points in the same space, (m, d) each, or batches of them."""
    check_float_tensor("x", x)
    check_float_tensor("y", y)
    assert isinstance(x, Tensor)
    assert isinstance(y, Tensor)
    if isinstance(batch_dims, bool) or not isinstance(batch_dims, Integral) or batch_dims < 0:
        raise ValueError(
            f"batch_dims must be a whole number from 0 on, got {batch_dims!r}: it counts the leading axes "
            "that number problems of their own."
        )
    for name, value in (("x", x), ("y", y)):
        if batch_dims > max(value.ndim - 2, 1):
            raise ValueError(
                f"batch_dims must leave {name} an axis of points and one of features, got {batch_dims} for "
                f"shape {tuple(value.shape)}: it counts the leading axes that number problems of their own."
            )
        if value.ndim < 2 + batch_dims:
            wanted = ", ".join([*(f"b{axis}" for axis in range(batch_dims)), "m", "d"])
            raise ValueError(
                f"{name} must have shape ({wanted}), got {tuple(value.shape)}: "
                f"give points on a line a feature axis with {name}[..., None]."
            )
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"x and y must have the same width, got {x.shape[-1]} and {y.shape[-1]}: a transport score "
            "compares points of one space, so it needs both ends of the map in the same space."
        )
    if x.shape[:-1] != y.shape[:-1]:
        raise ValueError(
            f"x and y must hold the same number of points, got shapes {tuple(x.shape)} and {tuple(y.shape)}: "
            "row i of y is the image of row i of x."
        )
    if x.dtype != y.dtype:
        raise ValueError(
            f"x and y must have the same dtype, got {x.dtype} and {y.dtype}: convert one of them."
        )
    if x.device != y.device:
        raise ValueError(
            f"x and y must be on the same device, got {x.device} and {y.device}: move one of them."
        )
    if x.shape[-1] < 1:
        raise ValueError(f"x must have at least 1 feature, got shape {tuple(x.shape)}.")
    if x.shape[batch_dims:-1].numel() < 1:
        raise ValueError(
            f"x must hold at least 1 point, got shape {tuple(x.shape)}: there is no map to score."
        )


def check_finite_rows(name: str, rows: Tensor, remedy: str = "drop such rows from both x and y") -> None:
    """Refuse NaN and inf in (m, d), naming the first row that holds one."""
    finite = torch.isfinite(rows).all(dim=-1)
    if not bool(finite.all()):
        first = int((~finite).nonzero()[0, 0])
        raise ValueError(f"{name} must be finite, got NaN or inf first in row {first}: {remedy}.")


def check_potentials(potentials: object, shape: tuple[int, ...]) -> None:
    """Refuse what is not a pair of potentials of that shape."""
    pair = potentials if isinstance(potentials, tuple | list) else (potentials,)
    shapes = [tuple(p.shape) if isinstance(p, Tensor) else type(p).__name__ for p in pair]
    if shapes != [shape] * 2:
        raise ValueError(
            f"potentials must be (u, v) of shape {shape} each, got {shapes}: "
            "pass result.potentials of an earlier call with as many points."
        )


def check_no_zero_step(lengths: Tensor) -> None:
    """Refuse a step of length zero in (n, *batch), naming the first."""
    zero = lengths == 0
    if bool(zero.any()):
        step, *track = zero.nonzero()[0].tolist()
        raise ValueError(
            f'tracks must have no step of length zero under zero_step="raise", got one at step {step + 1} of '
            f'track {tuple(track)}: use zero_step="skip" to leave such steps out.'
        )


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a word that is not one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def check_positive(name: str, value: float | None) -> None:
    """Refuse a limit that is given and not a positive number."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{name} must be a number or None, got {type(value).__name__}: leave it out for no limit."
        )
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}: leave it out for no limit.")


def check_device(name: str, value: Tensor) -> None:
    """Refuse devices that have no float64 arithmetic to certify with."""
    if value.device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"{name} must be on the CPU or a CUDA device, got {value.device}: move both sets with .cpu()."
        )
