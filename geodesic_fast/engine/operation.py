# SPDX-License-Identifier: MIT
"""What every operation of the engine shares: how torch sees it, and in which layout its kernel sees tensors.

An operation's file says what to allocate, what backward needs and what it is. From that an `Operation` is
registered (schema, fake, autograd), goes past the dispatcher where that would do nothing but call the kernel,
has rules for torch.func, and refuses second derivatives in a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geodesic_fast._tracks import Tracks
from geodesic_fast.engine.handing import handed, read_tracks, readable, workspace
from geodesic_fast.engine.load import engine, on_device, place_of
from geodesic_fast.engine.torch_internals import (
    batch_level,
    goes_direct,
    in_transform,
    is_batched,
    with_batch_hidden,
    with_batch_shown,
)

Outputs = tuple[Tensor | None, ...] | list[Tensor]  # None: not asked for; a list: one gradient for each layer
LAYERS = -1  # in place of an axis: that of the batch in a list of layers


class Operation:
    """A kernel as torch sees it."""

    def __init__(
        self,
        schema: str,
        allocate: Callable[..., Outputs],
        call: Callable[..., None] | None = None,
        axes: Callable[..., tuple[Sequence[int], Sequence[int]]] | None = None,
    ) -> None:
        """Register `schema`; `allocate(*args)` gives the outputs, which the kernel of that name fills.

        A kernel of this name takes what the schema names, in this order and but for a `keep` at its end, then
        the outputs. `call(outputs, *args)` stands in its place where there is more to do. `axes(*args)` names
        for each tensor argument and each output the axis that one more batch axis is put at, LAYERS for a
        list of layers; without it a batch is gone through one by one.
        """
        name, _, signature = schema.partition("(")
        if signature.endswith("-> Tensor"):
            raise ValueError(
                f"{name} must give two tensors or more, or one list of gradients, got a single tensor: give "
                "what backward keeps beside it."
            )
        self.kernel = name if name.endswith("_backward") else f"{name}_forward"
        self.members = slice(-1) if "bool keep)" in signature else slice(None)
        # Which arguments hold tensors, and whether as a list of layers: known once, not asked at each call.
        types = [argument.split()[0] for argument in signature.partition(")")[0].split(", ")]
        self.tensor_places = [
            (at, each.startswith("Tensor[]")) for at, each in enumerate(types) if each.startswith("Tensor")
        ]
        self.gives_list = schema.endswith("-> Tensor[]")
        self.allocate, self.call, self.axes = allocate, call, axes
        self.setup: Callable[..., None] | None = None
        self.backward: Callable[..., Any] | None = None
        self.registered = torch.library.custom_op(
            f"geodesic_fast::{name}", self.run_for_torch, mutates_args=(), device_types=("cpu", "cuda"),
            schema=f"({signature}",
        )  # fmt: skip
        self.registered.register_fake(lambda *args: _all_tensors(allocate(*args)))

    def differentiate(self, backward: Callable[..., Any], setup: Callable[..., None] | None) -> None:
        """Say what is kept for the derivative, and what it is."""
        self.setup, self.backward = setup, backward
        self.registered.register_autograd(backward, setup_context=setup)

    def refuse_derivatives(self, *metrics: str) -> None:
        """Make the derivative of this one, the backward of `metrics`, say what to do instead."""

        def refuse(*_: Any) -> None:
            verb = "has" if len(metrics) == 1 else "have"
            raise NotImplementedError(
                f"{' and '.join(metrics)} {verb} first derivatives only: call backward without "
                f"create_graph=True, or use geodesic_fast.reference.{metrics[0]}, which autograd can "
                "differentiate twice."
            )

        self.differentiate(refuse, None)

    def __call__(self, *args: Any) -> Any:
        """Run, past torch's dispatcher where it would do nothing else; outputs not kept are None or empty."""
        if torch.compiler.is_compiling():
            return self.registered(*args)
        tensors: list[Tensor] = []
        for at, is_list in self.tensor_places:
            if args[at] is not None:
                tensors += args[at] if is_list else (args[at],)
        if goes_direct(tensors):
            return self.run(*args)
        if in_transform():
            call = _Call(self, args)
            outputs = _InTransforms.apply(call, *tensors)
            return list(outputs) if call.operation.gives_list else outputs
        if any(map(is_batched, tensors)):
            return _of_batched_gradients(_Call(self, args), tensors)
        return self.registered(*args)

    def run(self, *args: Any) -> Outputs:
        """Run the kernel on contiguous tensors, and on layers laid out as it reads them."""
        outputs = self.allocate(*args)
        first = outputs[0]
        assert first is not None
        if not first.numel():
            return outputs
        if self.call is not None:
            self.call(outputs, *(_as_read(arg) for arg in args))
            return outputs
        place = place_of(first.device)
        given: list[Any] = []
        held: list[object] = []  # what the addresses are of
        for arg in args[self.members]:
            if _is_layers(arg):
                layers, arg = read_tracks(arg)
                held.append(layers)
            elif isinstance(arg, Tensor):
                held.append(arg := arg.contiguous())
            given.append(handed(arg))
        if self.gives_list:
            given.append(handed(outputs))
        else:  # new tensors lie where they say
            given += [0 if output is None else output.data_ptr() for output in outputs]
        with on_device(first.device):
            held.append(workspace(self.kernel, given, first.device, place))
            engine.kernels[self.kernel](*given, place)
        return outputs

    def run_for_torch(self, *args: Any) -> Any:
        """Run the kernel for an operation of torch, which returns tensors only."""
        return _all_tensors(self.run(*args))


def _as_read(arg: Any) -> Any:
    if isinstance(arg, Tensor):
        return arg.contiguous()
    return readable(arg) if _is_layers(arg) else arg


def _is_layers(arg: Any) -> bool:
    return isinstance(arg, (list, tuple))


def _all_tensors(outputs: Outputs) -> Any:
    """Put an empty tensor in place of each output that was not asked for."""
    if isinstance(outputs, list):
        return outputs
    first = outputs[0]
    assert first is not None
    return tuple(first.new_empty(0) if output is None else output for output in outputs)


class _Call(NamedTuple):
    """An operation and its arguments, whose tensors may be replaced one by one."""

    operation: Operation
    given: tuple[Any, ...]

    def args(self, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        left = iter(tensors)
        return tuple(
            next(left) if isinstance(arg, Tensor) else [next(left) for _ in arg] if _is_layers(arg) else arg
            for arg in self.given
        )

    def run(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        found = self.operation(*self.args(tensors))
        return tuple(_all_tensors(found if isinstance(found, list) else tuple(found)))


class _InTransforms(torch.autograd.Function):
    """An operation inside torch.func.grad, vjp, jacrev and vmap."""

    @staticmethod
    def forward(call: _Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        return call.run(tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        call, *tensors = inputs
        ctx.call = call
        if call.operation.setup is not None:
            call.operation.setup(ctx, call.args(tensors), output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        backward = ctx.call.operation.backward
        if backward is None:
            return (None,) * len(ctx.needs_input_grad)
        gradients = backward(ctx, *grads)
        flat: list[Any] = []
        for given, gradient in zip(ctx.call.given, gradients, strict=True):
            if _is_layers(given):
                flat += gradient or [None] * len(given)
            elif isinstance(given, Tensor):
                flat.append(gradient)
        return None, *flat

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], call: _Call, *tensors: Tensor) -> tuple[Any, Any]:
        return _over_batch(info.batch_size, in_dims[1:], call, tensors)


def _of_batched_gradients(call: _Call, tensors: Sequence[Tensor]) -> Any:
    """Run on gradients that carry a batch axis which they do not show."""
    level, batched = batch_level(), [is_batched(tensor) for tensor in tensors]
    shown = [
        with_batch_shown(tensor, level) if hidden else tensor
        for tensor, hidden in zip(tensors, batched, strict=True)
    ]
    size = len(shown[batched.index(True)])
    outputs, axes = _over_batch(size, [0 if hidden else None for hidden in batched], call, shown)
    hidden = [
        output if axis is None else with_batch_hidden(output, axis, level)
        for output, axis in zip(outputs, axes, strict=True)
    ]
    return hidden if call.operation.gives_list else tuple(hidden)


def _over_batch(
    size: int, dims: Sequence[int | None], call: _Call, tensors: Sequence[Tensor]
) -> tuple[Any, Any]:
    """Run over one more axis of some tensors; return the outputs and where they have it."""
    rule = _one_by_one if call.operation.axes is None else _with_batch_axis
    return rule(size, dims, call, tensors)


def _with_batch_axis(
    size: int, dims: Sequence[int | None], call: _Call, tensors: Sequence[Tensor]
) -> tuple[Any, Any]:
    """Put the axis of vmap among the axes of the batch, where each track is on its own anyway."""
    assert call.operation.axes is not None
    of_inputs, of_outputs = call.operation.axes(*call.given)
    layers = next(arg for arg in call.given if _is_layers(arg))
    batch_axis = 1 if Tracks(layers).is_stacked else 0
    axes = iter(of_inputs)
    where = [
        axis
        for arg in call.given
        if isinstance(arg, Tensor) or _is_layers(arg)
        for axis in [next(axes)] * (len(arg) if _is_layers(arg) else 1)
    ]
    moved = []
    for tensor, dim, axis in zip(tensors, dims, where, strict=True):
        axis = batch_axis if axis == LAYERS else axis
        whole = tensor.unsqueeze(0).expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        moved.append(tensor if _is_absent(tensor, dim) else whole.movedim(0, axis))
    outputs = call.run(moved)
    found = [*of_outputs] * (len(outputs) if call.operation.gives_list else 1)
    back = [batch_axis if axis == LAYERS else axis for axis in found]
    return outputs, tuple(
        None if _is_absent(o, None) else axis for o, axis in zip(outputs, back, strict=True)
    )


def _is_absent(tensor: Tensor, dim: int | None) -> bool:
    """Say whether a tensor is the empty one that stands for none."""
    return dim is None and tensor.shape == (0,)


def _one_by_one(
    size: int, dims: Sequence[int | None], call: _Call, tensors: Sequence[Tensor]
) -> tuple[Any, Any]:
    """Go through the axis of vmap, where the tracks of a batch belong together."""
    found = [
        call.run([t if dim is None else t.select(dim, i) for t, dim in zip(tensors, dims, strict=True)])
        for i in range(size)
    ]
    outputs = tuple(torch.stack(each) for each in zip(*found, strict=True))
    return outputs, (0,) * len(outputs)
