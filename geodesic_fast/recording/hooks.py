# SPDX-License-Identifier: MIT
"""Forward hooks that follow each pass of a network through its layers and tell a sink what each one gave."""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from geodesic_fast._validation import check_choice
from geodesic_fast.engine.torch_internals import in_backward, outside_graphs
from geodesic_fast.recording import mistakes
from geodesic_fast.recording.layers import Found
from geodesic_fast.recording.masks import Call
from geodesic_fast.recording.states import State, input_states, is_same, output_state

REPEATS = ("raise", "append")
MISSING = ("raise", "skip")
PASSES = ("last", "first", "all")
WHEN = ("always", "training")
NOTHING: Mapping[str, Any] = MappingProxyType({})

# What a copied or stored hook becomes: a callable of the standard library that does nothing, so that a model
# that was stored inside the block loads where this package is not installed.
_IDLE = contextlib.nullcontext()


@dataclass(frozen=True)
class Sink:
    """Who hears of a pass, in the order in which the layers run."""

    begin: Callable[[], None]  # a pass starts
    # A layer, by name, is about to work on arguments; by argument what may be the state among them.
    enter: Callable[[str, nn.Module, Mapping[str, Any], dict[str, Tensor]], None]
    leave: Callable[[str, nn.Module, Tensor], None]  # a layer gave a state
    end: Callable[[], None]  # every layer ran, or the missing ones are allowed
    say: Callable[[str], None]  # something that the user is to be told once
    refuse: Callable[[Exception], None]  # the pass that runs is given up, for this reason


class LayerHooks:
    """Hooks on the layers, and on the modules that hold them: the outermost one called spans a pass.

    Where they are to follow one pass only (`once`), they rest when it ends, and when another call begins
    after one that failed. With `raises` false nothing that is wrong here ends the user's own run.
    """

    def __init__(
        self, found: Found, sink: Sink, *, repeats: str, missing: str, passes: str, when: str, state: State
    ):
        check_choice("repeats", repeats, REPEATS)
        check_choice("missing", missing, MISSING)
        check_choice("passes", passes, PASSES)
        check_choice("when", when, WHEN)
        mistakes.check_state_choice(state)
        self.names = [name for name, _ in found.layers]
        self.once, self.raises, self.stays = False, True, False
        self.calls: list[Call] = []  # of the modules around the layers, outermost first
        self._found, self._sink, self._state = found, sink, state
        self._repeats, self._missing, self._passes, self._when = repeats, missing, passes, when
        self._handles: list[RemovableHandle] = []
        self._copies: list[weakref.ref[nn.Module]] = []
        self._ran: list[str] = []
        self._given: dict[str, Tensor | None] = {}  # what the layers took that have not ended yet
        self._last: weakref.ref[Tensor] | None = None  # the state that the last layer gave
        self._open = False  # a pass has begun and has not ended
        self._ignored = False  # the call that spans it is not to be followed
        self._reentered = False  # a module that holds the layers was called again inside it
        self._empty = False  # the model was called and no layer ran
        self._whole = False  # a whole pass has ended since the hooks were attached
        self._failed = False  # the pass was given up
        self._told = False  # which of several tensors is taken for the state
        self._caller: nn.Module | None = None  # the module whose call spans the pass
        self._awake = False
        self._thread = 0  # that entered the block; what runs in others is none of it
        # Made once: code that torch.compile traced with these hooks works whenever they are awake again.
        self._holder_hooks = [
            (module, _Hook(self, module, self._before_holder), _Hook(self, module, self._after_holder))
            for module in found.holders
        ]
        self._layer_hooks = [
            (
                module,
                _Hook(self, module, functools.partial(self._before_layer, name)),
                _Hook(self, module, functools.partial(self._after_layer, name)),
            )
            for name, module in found.layers
        ]

    def attach(self) -> None:
        """Put the hooks in place, awake."""
        self._awake, self._open, self._caller = True, False, None
        self._ignored = self._empty = self._reentered = self._whole = self._failed = self._told = False
        self._ran, self._last, self.calls = [], None, []
        self._thread = threading.get_ident()
        if self._handles:
            return
        for module, before, _ in self._holder_hooks:
            self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        for module, before, after in self._layer_hooks:
            self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            self._handles.append(module.register_forward_hook(after))
        for module, _, after in self._holder_hooks:
            self._handles.append(module.register_forward_hook(after))

    def sleep(self) -> None:
        """Leave the hooks in place, without effect; `attach` wakes them."""
        self._awake = False

    def detach(self) -> None:
        """Take the hooks away, from copies too; compiled code that calls them finds them asleep."""
        self.sleep()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for copied in self._copies:
            if (module := copied()) is not None:
                _remove_idle(module)
        self._copies.clear()

    def finish(self) -> None:
        """Close a pass that no call of the model closes, and refuse one that is not whole."""
        try:
            if self._open and self._ran:
                self._close()
            elif self._empty and not self._whole and self._missing == "raise":
                raise mistakes.layers_did_not_run(self.names, len(self.names))
        except (ValueError, TypeError, RuntimeError) as error:
            self._give_up(error)
            if self.raises:
                raise
        self._open, self.calls = False, []

    def not_run(self) -> list[str]:
        """Return the layers that have not run in the current or last pass."""
        ran = set(self._ran)
        return [name for name in self.names if name not in ran]

    def rest(self) -> None:
        """Follow nothing more until `attach`; hooks that compiled code needs stay, asleep."""
        if self.stays:
            self.sleep()
        else:
            self.detach()

    def copied(self, module: nn.Module) -> None:
        """Remember a copy that was made of a module with its hooks."""
        self._copies.append(weakref.ref(module))

    def follow(self, action: Callable[..., None], module: nn.Module, *rest: Any) -> None:
        """Let a hook act, unless it is asleep."""
        # Activation checkpointing runs a layer again inside the backward pass: that is no second layer.
        elsewhere = threading.get_ident() != self._thread
        if not self._awake or elsewhere or in_backward():
            return
        try:
            action(module, *rest)
        except (ValueError, TypeError, RuntimeError) as error:
            self._give_up(error)
            if self.raises:
                raise

    def _give_up(self, error: Exception) -> None:
        self._open, self._failed, self._ignored = False, True, self._caller is not None
        self._sink.refuse(error)
        if self._caller is None:
            self._end_failed()

    def _end_failed(self) -> None:
        self._failed = False
        if not self.raises:
            self._sink.end()
        if self.once:
            self.rest()

    # A hook that another thread removes meanwhile may be called without the keywords it asked for.
    def _before_holder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] = NOTHING
    ) -> None:
        if self._caller is None or self._caller is module:  # its own call again: the last one failed half-way
            if self._caller is module and self.once:
                return self.rest()
            if self._caller is None and self._open:
                self._close()
            self._caller = module
            self._ignored = not self._followed(module)
            self._ran, self._reentered, self._last, self.calls = [], False, None, []
            if not self._ignored:
                self._begin()
        elif not self._ignored and self._ran:
            self._reentered = True
        if not self._ignored:
            self.calls.append(Call.of(named_arguments(module, args, kwargs)))

    def _after_holder(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._caller is not module:
            return
        self._caller, self._ignored = None, False
        if self._failed:
            self._end_failed()
        elif self._open and not self._ran:
            self._open, self._empty = False, True  # another part of the model was at work
        elif self._open:
            self._close()
        elif self._whole:
            self._rest_if_enough()
        self.calls = []

    def _before_layer(
        self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] = NOTHING
    ) -> None:
        if self._ignored:
            return
        arguments = named_arguments(layer, args, kwargs)
        states = input_states(name, arguments, self._state)
        if name in self._ran:
            self._run_again(name, list(states.values()))
        if self._ignored:
            return
        if not self._open:
            if self._caller is None and not self._followed(layer):
                return
            if self._repeats == "raise":
                mistakes.check_single_layer_is_called_through(name, self.names)
            self._begin()
        self._given[name] = next(iter(states.values()), None)
        self._sink.enter(name, layer, arguments, states)

    def _after_layer(self, name: str, layer: nn.Module, args: Any, output: Any) -> None:
        if self._ignored or name not in self._given:
            return
        state, told = output_state(name, output, self._state, self._given.pop(name))
        if told is not None and not self._told:
            self._told = True
            self._sink.say(told)
        self._ran.append(name)
        self._last = weakref.ref(state)
        self._sink.leave(name, layer, state)
        if self._repeats == "raise" and not self.not_run():
            self._close()

    def _run_again(self, name: str, states: Sequence[Tensor]) -> None:
        """A layer runs that has run: the same track goes on, another pass begins, or nobody knows."""
        if self._caller is None and not self._open:
            self._ran = []
            return
        last = None if self._last is None else self._last()
        goes_on = last is not None and any(is_same(state, last) for state in states)
        if goes_on and self._repeats == "append":
            return
        whole = not self.not_run()
        if self._reentered and whole and not goes_on:
            if self._passes == "last":
                raise mistakes.several_passes_in_a_call(name)
            if self._open:
                self._close()
            self._ran, self._reentered, self.calls = [], False, self.calls[-1:]
            self._ignored = self._passes == "first" or self.once
            return
        raise mistakes.layer_ran_twice(name, goes_on, whole, self._repeats)

    def _followed(self, module: nn.Module) -> bool:
        return self._when == "always" or (module.training and torch.is_grad_enabled())

    def _begin(self) -> None:
        self._open, self._given = True, {}
        if self._caller is None:
            self._ran = []
        self._sink.begin()

    def _close(self) -> None:
        self._open = False
        not_run = self.not_run()
        if not_run and self._missing == "raise":
            raise mistakes.layers_did_not_run(not_run, len(self.names))
        self._whole = True
        self._sink.end()
        if self._caller is None:
            self._rest_if_enough()

    def _rest_if_enough(self) -> None:
        if self._passes == "first" or self.once:
            self.rest()


class _Hook:
    """One hook of one module. A copy of the module, or one from a file, gets one that does nothing."""

    def __init__(self, hooks: LayerHooks, module: nn.Module, action: Callable[..., None]):
        self._hooks, self._module, self._action = hooks, module, action

    @outside_graphs  # torch.compile leaves it as it is, with a break in the graph around it
    def __call__(self, module: nn.Module, *rest: Any) -> None:
        if module is self._module:
            self._hooks.follow(self._action, module, *rest)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        copied = memo.get(id(self._module))
        if isinstance(copied, nn.Module):
            self._hooks.copied(copied)
        return _IDLE.__exit__

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (_IDLE, "__exit__")


def _remove_idle(module: nn.Module) -> None:
    for kept in (module._forward_hooks, module._forward_pre_hooks):
        for key in [key for key, hook in kept.items() if hook == _IDLE.__exit__]:
            del kept[key]
            module._forward_pre_hooks_with_kwargs.pop(key, None)


@functools.lru_cache(maxsize=1024)
def _parameters(forward: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(forward).parameters)[1:]


def named_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of a call by name, None where nothing was given."""
    names = _parameters(type(module).forward)
    return {**dict.fromkeys(names), **dict(zip(names, args, strict=False)), **kwargs}
