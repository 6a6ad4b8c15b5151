# SPDX-License-Identifier: MIT
"""Tracks as a type: what a caller gives is looked at once, and everything after asks it.

n+1 layers of m tracks in d features come as one tensor with a layer axis or as a list of layers, and neither
is copied into the other. Here is also what can be wrong with them, one sentence each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral

import torch
from torch import Tensor
from torch.autograd import forward_ad

from geodesic_fast._validation import (
    check_device,
    check_finite_rows,
    check_float_tensor,
    how_to_convert,
    in_memory,
)
from geodesic_fast.engine.torch_internals import forward_mode, is_transformed

MAX_LISTED_LAYERS = 1024


class Tracks:
    """m tracks of n+1 points in d features; `layers` is one tensor (n+1, *batch, d) or n+1 of (*batch, d)."""

    __slots__ = ("layers", "name")

    def __init__(self, layers: Sequence[Tensor], name: str = "tracks") -> None:
        """Take checked layers, of one point or more, as an operation takes them."""
        self.layers, self.name = layers, name

    @classmethod
    def of(cls, given: object, dim: int = 0, name: str = "tracks") -> Tracks:
        """Take what a caller calls `name`: a tensor with its layers along `dim`, or a list of layers."""
        if isinstance(given, Tensor):
            _check_stacked(given, dim, name)
            return cls([given.movedim(dim, 0) if dim else given], name)
        if isinstance(given, list | tuple):
            _check_layers(given, dim, name)
            return cls(list(given), name)
        raise TypeError(
            f"{name} must be a torch.Tensor with a layer axis, or a list or tuple of one tensor per layer, "
            f"got {type(given).__name__}: " + how_to_convert(name, given, f"list({name})")
        )

    @property
    def is_stacked(self) -> bool:
        """Whether they are one tensor."""
        return len(self.layers) == 1

    @property
    def points(self) -> int:
        """n+1."""
        return self.layers[0].shape[0] if self.is_stacked else len(self.layers)

    @property
    def steps(self) -> int:
        """n."""
        return self.points - 1

    @property
    def batch(self) -> torch.Size:
        """The shape (*batch) that one number per track has."""
        return self.layers[0].shape[1:-1] if self.is_stacked else self.layers[0].shape[:-1]

    @property
    def m(self) -> int:
        """The number of tracks; not by numel(), which torch.export takes for a constant."""
        return math.prod(self.batch)

    @property
    def d(self) -> int:
        """The number of features."""
        return self.layers[0].shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        """Of every layer."""
        return self.layers[0].dtype

    @property
    def sums_dtype(self) -> torch.dtype:
        """What sums and scores are held in."""
        return accumulation_dtype(self.dtype)

    @property
    def device(self) -> torch.device:
        """Of every layer."""
        return self.layers[0].device

    @property
    def needs_grad(self) -> bool:
        """Whether a gradient may be asked for."""
        return torch.is_grad_enabled() and any(layer.requires_grad for layer in self.layers)

    def states(self) -> Sequence[Tensor]:
        """Return the n+1 layers (*batch, d)."""
        return self.layers[0].unbind(0) if self.is_stacked else self.layers

    def ends(self) -> tuple[Tensor, Tensor]:
        """Return the first and the last layer, (*batch, d) each."""
        if self.is_stacked:
            return self.layers[0][0], self.layers[0][-1]
        return self.layers[0], self.layers[-1]

    def stacked(self) -> Tensor:
        """Return (n+1, *batch, d)."""
        return self.layers[0] if self.is_stacked else torch.stack(tuple(self.layers))

    def in_sums_dtype(self) -> Tensor:
        """Return (n+1, *batch, d), as the definitions take it."""
        # A view, which torch refuses of memory that was freed, where arithmetic would crash.
        return self.stacked().movedim(0, 0).to(self.sums_dtype)

    def as_given(self) -> Tensor | list[Tensor]:
        """Return them as a public function takes them."""
        return self.layers[0] if self.is_stacked else list(self.layers)

    def map(self, change: Callable[[Tensor], Tensor]) -> Tracks:
        """Return tracks of changed tensors, (n+1, *batch, d) or (*batch, d) each."""
        return Tracks([change(layer) for layer in self.layers], self.name)

    def flat(self) -> Tracks:
        """Return them with m tracks in a row: (n+1, m, d) or (m, d) each."""
        lead, m, d = 1 if self.is_stacked else 0, self.m, self.d
        return self.map(lambda layer: layer.reshape(*layer.shape[:lead], m, d))

    def check_no_forward_mode(self, metric: str) -> None:
        """Refuse forward-mode derivatives, which the kernels would silently drop."""
        if forward_mode() and any(
            is_transformed(layer) or forward_ad.unpack_dual(layer).tangent is not None
            for layer in self.layers
        ):
            raise NotImplementedError(
                f"{self.name} must not carry forward-mode tangents, got a dual tensor: {metric} has "
                f"reverse-mode derivatives; use geodesic_fast.reference.{metric} for jvp and jacfwd."
            )

    def check_population(self) -> None:
        """Refuse a batch without a track, and ends that are no points of a transport problem."""
        if self.m < 1:
            shape = (self.points, *self.batch, self.d)
            raise ValueError(
                f"{self.name} must hold at least 1 track, got shape {shape}: there is nothing to score."
            )
        for number, end in zip((0, self.steps), self.ends(), strict=True):
            name = f"layer {number} of {self.name}"
            check_device(name, end)
            points = in_memory(name, end.detach()).reshape(self.m, self.d)
            check_finite_rows(name, points, "drop such tracks")

    def check_like(self, tracks: Tracks) -> None:
        """Refuse tracks that do not run through the same layers as `tracks`."""
        for what in ("points", "d", "dtype", "device"):
            expected, got = getattr(tracks, what), getattr(self, what)
            if got != expected:
                said = {"points": "number of layers", "d": "number of features"}.get(what, what)
                raise ValueError(
                    f"{self.name} must have the same {said} as {tracks.name}, got {got}, expected "
                    f"{expected}: tracks are compared layer by layer, in one space."
                )


def ends_of(x: object, y: object, dim: int) -> tuple[object, object]:
    """Return two sets of points: x and y, or without y the first and last layer of the tracks x."""
    if y is None:
        return Tracks.of(x, dim, "x").ends()
    if dim != 0:
        raise ValueError(
            f"dim must be 0 with y, got {dim!r}: it is the layer axis of tracks, and x and y are layers."
        )
    return x, y


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return what sums and scores of tracks of `dtype` are held in: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _check_stacked(tracks: Tensor, dim: int, name: str) -> None:
    check_float_tensor(name, tracks)
    shape = tuple(tracks.shape)
    if tracks.ndim < 2:
        raise ValueError(
            f"{name} must have a layer axis and a feature axis, got shape {shape}: "
            f"give a track of scalars a feature axis with {name}[..., None]."
        )
    if isinstance(dim, bool) or not isinstance(dim, Integral):
        raise TypeError(f"dim must be an int, got {type(dim).__name__}: name the layer axis by its position.")
    if not -tracks.ndim <= dim < tracks.ndim:
        raise ValueError(f"dim must be an axis of {name} of shape {shape}, got {dim}: there is no such axis.")
    if dim % tracks.ndim == tracks.ndim - 1:
        raise ValueError(
            f"dim must not be the last axis, got dim={dim} for shape {shape}: features come last, "
            f"move them there with torch.movedim or numpy.moveaxis."
        )
    if tracks.shape[dim] < 2:
        raise ValueError(
            f"{name} must have at least 2 layers along dim {dim}, got shape {shape}: "
            "a track needs a first and a last point."
        )
    _check_features(tracks.shape[-1], shape, name)


def _check_layers(layers: Sequence[object], dim: int, name: str) -> None:
    if dim != 0:
        raise ValueError(f"dim must be 0 for a list of layers, got {dim}: the list itself is the layer axis.")
    if len(layers) < 2:
        raise ValueError(
            f"{name} must have at least 2 layers, got a list of {len(layers)}: "
            "a track needs a first and a last point."
        )
    if len(layers) > MAX_LISTED_LAYERS:
        raise ValueError(
            f"{name} must list at most {MAX_LISTED_LAYERS} layers, got {len(layers)}: "
            f"stack longer tracks with torch.stack([torch.as_tensor(layer) for layer in {name}])."
        )
    for index, layer in enumerate(layers):
        check_float_tensor(f"{name}[{index}]", layer)
    first = layers[0]
    assert isinstance(first, Tensor)
    if first.ndim < 1:
        raise ValueError(f"{name}[0] must have a feature axis, got a scalar: use layer[..., None].")
    for index, layer in enumerate(layers):
        check_layer(name, index, layer, first)
    _check_features(first.shape[-1], tuple(first.shape), name)


_REMEDIES = {
    "shape": "a track stays in one space, so measure each group of layers of equal width on its own.",
    "dtype": "convert them with [torch.as_tensor(layer).float() for layer in {name}].",
    "device": "move them with [torch.as_tensor(layer).to(device) for layer in {name}].",
}


def check_layer(name: str, index: int, layer: object, first: Tensor) -> None:
    """Refuse layer `index` of a list where it is not like the first."""
    for what, remedy in _REMEDIES.items():
        expected, got = getattr(first, what), getattr(layer, what)
        if got != expected:
            expected, got = (tuple(v) if what == "shape" else v for v in (expected, got))
            raise ValueError(
                f"{name} must be layers of equal {what}: {name}[0] has {expected}, "
                f"{name}[{index}] has {got}; " + remedy.format(name=name)
            )


def _check_features(features: int, shape: tuple[int, ...], name: str) -> None:
    if features < 1:
        raise ValueError(
            f"{name} must have at least 1 feature, got shape {shape}: the last axis holds the features."
        )
