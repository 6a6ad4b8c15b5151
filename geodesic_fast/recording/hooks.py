# SPDX-License-Identifier: MIT
"""Forward hooks that follow each pass of a network through its layers and tell a sink what each one gave."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from geodesic_fast import _validation_models as _validation
from geodesic_fast.recording.layers import Found

REPEATS = ("raise", "append")
MISSING = ("raise", "skip")
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Sink(Protocol):
    """Who receives the states of a pass, in the order in which the layers ran."""

    def begin(self) -> None:
        """Start a pass."""

    def call(self, arguments: Mapping[str, Any]) -> None:
        """Learn with which arguments a module that holds the layers was called, outermost first."""

    def state(self, name: str, state: Tensor) -> None:
        """Take the input of the first layer or the output of a layer."""

    def end(self) -> None:
        """Close a pass in which every layer ran, or in which the missing ones are allowed."""


class LayerHooks:
    """Hooks on the layers, and on the modules that hold them: the outermost one called spans a pass."""

    def __init__(self, found: Found, sink: Sink, *, inputs: bool, repeats: str, missing: str):
        _validation.check_choice("repeats", repeats, REPEATS)
        _validation.check_choice("missing", missing, MISSING)
        self.names = [name for name, _ in found.layers]
        self._found, self._sink = found, sink
        self._inputs, self._repeats, self._missing = inputs, repeats, missing
        self._handles: list[RemovableHandle] = []
        self._ran: list[str] = []
        self._entered = False  # a layer of this pass has begun
        self._open = False  # a pass has begun and has not ended
        self._caller: nn.Module | None = None  # the module whose call spans the pass
        self._awake = False
        self._thread = 0  # that entered the block; what runs in others is not its business
        # Made once: code that torch.compile traced with these hooks works whenever they are awake again.
        self._before_call, self._after_call = _eager(self._before_holder), _eager(self._after_holder)
        self._layer_hooks = [self._hooks_of(name) for name in self.names]

    def attach(self) -> None:
        """Put the hooks in place, awake."""
        self._awake, self._open, self._caller = True, False, None
        self._thread = threading.get_ident()
        if self._handles:
            return
        for holder in self._found.holders:
            self._handles.append(holder.register_forward_pre_hook(self._before_call, with_kwargs=True))
        for (_, module), (before, after) in zip(self._found.layers, self._layer_hooks, strict=True):
            self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            self._handles.append(module.register_forward_hook(after))
        for holder in self._found.holders:
            self._handles.append(holder.register_forward_hook(self._after_call))

    def sleep(self) -> None:
        """Leave the hooks in place, without effect; `attach` wakes them."""
        self._awake = False

    def detach(self) -> None:
        """Take the hooks away; compiled code that still calls them finds them asleep."""
        self.sleep()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def finish(self) -> None:
        """Close a pass that no call of the model closes, and refuse one that is not whole."""
        if self._open:
            self._close()

    def _asleep(self) -> bool:
        # Activation checkpointing runs a layer again inside the backward pass: that is no second layer.
        return (
            not self._awake
            or threading.get_ident() != self._thread
            or torch._C._current_graph_task_id() != -1
        )

    # A hook that another thread removes meanwhile may be called without the keywords it asked for.
    def _before_holder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] = NOTHING
    ) -> None:
        if self._asleep():
            return
        if self._caller is None or self._caller is module:  # its own call again: the last one failed half-way
            if self._caller is None and self._open:
                self._close()
            self._caller = module
            self._begin()
        self._sink.call(_named_arguments(module, args, kwargs))

    def _after_holder(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._asleep() or self._caller is not module:
            return
        self._caller = None
        if self._open:
            self._close()

    def _hooks_of(self, name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        def before(module: nn.Module, args: Any, kwargs: Mapping[str, Any] = NOTHING) -> None:
            if self._asleep():
                return
            first = self._start_layer(name)
            if self._inputs and first:
                self._sink.state(f"input of {name}", first_state(name, "input", (args, kwargs)))

        def after(module: nn.Module, args: Any, output: Any) -> None:
            if self._asleep():
                return
            self._ran.append(name)
            self._sink.state(name, first_state(name, "output", output))
            if self._repeats == "raise" and not self.not_run():
                self._close()

        return _eager(before), _eager(after)

    def _start_layer(self, name: str) -> bool:
        """Return whether it is the first layer of the pass."""
        inside = self._open or self._caller is not None
        if self._repeats == "raise" and name in self._ran and inside:
            self._open = False
            raise _validation.layer_ran_twice(name)
        if not self._open:
            if self._repeats == "raise":
                _validation.check_single_layer_is_called_through(name, self.names)
            self._begin()
        first, self._entered = not self._entered, True
        return first

    def _begin(self) -> None:
        self._open, self._entered, self._ran = True, False, []
        self._sink.begin()

    def not_run(self) -> list[str]:
        """Return the layers that have not run in the current or last pass."""
        return [name for name in self.names if name not in self._ran]

    def _close(self) -> None:
        self._open = False
        not_run = self.not_run()
        if not_run and self._missing == "raise":
            raise _validation.layers_did_not_run(not_run, len(self.names))
        self._sink.end()


def _eager(hook: Callable[..., None]) -> Callable[..., None]:
    """A hook that torch.compile leaves as it is, with a break in the graph around it."""
    return torch.compiler.disable(hook)


def _named_arguments(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Mapping[str, Any]:
    signature = inspect.signature(type(module).forward)
    defaults = dict.fromkeys(signature.parameters)
    names = list(signature.parameters)[1:]
    return {**defaults, **dict(zip(names, args, strict=False)), **kwargs}


def first_state(name: str, what: str, value: Any) -> Tensor:
    """Return the hidden state in what a layer took or gave: a tensor, or the first one inside."""
    found = _first_tensor(value)
    if found is None:
        raise _validation.no_state(name, what, value)
    _validation.check_plain(name, what, found)
    # A state spread over devices by tensor parallelism is measured whole: its features may be what is spread.
    return found.full_tensor() if hasattr(found, "full_tensor") else found


def _first_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value if value.is_floating_point() and value.ndim > 0 else None
    if isinstance(value, Mapping):
        named = [value[key] for key in ("hidden_states", "last_hidden_state") if key in value]
        value = [*named, *value.values()]
    if isinstance(value, tuple | list):
        for item in value:
            if (found := _first_tensor(item)) is not None:
                return found
    return None
