# SPDX-License-Identifier: MIT
"""Which tensor of what a layer takes or gives is its state, and which axis of a state holds the features."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from geodesic_fast.recording import mistakes

FLATTEN = ("auto", "maps", "samples", "never")
State = int | str | Callable[[Any], Tensor] | None

_NAMES = ("hidden_states", "last_hidden_state")  # what libraries call the state


def input_states(name: str, arguments: Mapping[str, Any], state: State) -> dict[str, Tensor]:
    """Return the state among the arguments of a layer, by name: `hidden_states`, else the first tensor.

    Where an index or a function chooses among the outputs, each of the tensors may be the state.
    """
    names = (state, *_NAMES) if isinstance(state, str) else _NAMES
    named = {key: arguments[key] for key in names if isinstance(arguments.get(key), Tensor | tuple | list)}
    found = itertools.chain(_float_tensors(named), _float_tensors(arguments))
    several = isinstance(state, int) or callable(state)
    return {
        key: _plain(name, "input", given) for key, given in itertools.islice(found, None if several else 1)
    }


def output_state(name: str, output: Any, state: State, given: Tensor | None) -> tuple[Tensor, str | None]:
    """Return the state in what a layer gave, and what to say about the choice, if anything.

    Args:
        name: of the layer, for messages.
        output: what the layer gave.
        state: an index, a name or a function that chooses; `None`: the tensor that has the shape of the
            layer's input, or the only one.
        given: the state that the layer took.
    """
    if state is not None:
        return _plain(name, "output", _chosen(name, output, state)), None
    if isinstance(output, Tensor):
        mistakes.check_state(name, output)
        return _plain(name, "output", output), None
    found = list(_float_tensors(output))
    if not found:
        raise mistakes.no_state(name, "output", output)
    alike = [one for one in found if given is not None and one[1].shape == given.shape] or found
    named = [one for one in alike if one[0] in _NAMES]
    alike = named if len(named) == 1 else alike
    mistakes.check_one_state(name, [(key, tuple(tensor.shape)) for key, tensor in alike])
    key, tensor = alike[0]
    told = None if tensor is found[0][1] or named else mistakes.state_taken(name, key)
    return _plain(name, "output", tensor), told


def is_same(state: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same values of the same memory."""
    return state is other or (state.data_ptr() == other.data_ptr() != 0 and state.shape == other.shape)


def _chosen(name: str, output: Any, state: int | str | Callable[[Any], Tensor]) -> Tensor:
    try:
        if callable(state):
            value = state(output)
        elif isinstance(state, int):
            value = (list(output.values()) if isinstance(output, Mapping) else output)[state]
        else:
            value = output[state] if isinstance(output, Mapping) else getattr(output, state)
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        raise mistakes.state_not_there(name, state, output) from error
    if not isinstance(value, Tensor):
        raise mistakes.no_state(name, "output", value)
    mistakes.check_state(name, value)
    return value


def _float_tensors(value: Any, key: str = "") -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors inside, one per object, each with the key or index under which it lies."""
    seen: set[int] = set()
    for name, tensor in _tensors(value, key):
        if tensor.is_floating_point() and tensor.ndim > 0 and id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


def _tensors(value: Any, key: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _tensors(item, str(name))
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from _tensors(item, f"{key}.{index}" if key else str(index))


def _plain(name: str, what: str, state: Tensor) -> Tensor:
    mistakes.check_plain(name, what, state)
    # A state spread over devices by tensor parallelism is measured whole: its features may be what is spread.
    return state.full_tensor() if hasattr(state, "full_tensor") else state


def is_map(
    name: str, layers: Sequence[nn.Module], layer: nn.Module, shape: Sequence[int], flatten: str
) -> bool:
    """Whether a state is one point per sample, (batch, channels, *space), rather than one per last axis.

    The layers of the network know it: convolutions and batch norms have their channels on the second axis,
    linear maps and layer norms on the last. Where both would fit, the caller is asked.

    Args:
        name: where the state was taken, for messages.
        layers: all that are followed; they are asked where `layer` does not know.
        layer: the one that took or gave the state.
        shape: of the state.
        flatten: what the caller said.
    """
    rank = len(shape)
    if flatten != "auto" or rank < 3:
        return (flatten == "maps" and rank >= 4) or (flatten == "samples" and rank >= 3)
    for asked in ([layer], layers):
        widths = _Widths(asked)
        second, last = widths.fit(shape)
        if second != last:
            return second
        if second:
            break
    if rank >= 4 or second:
        raise mistakes.axes_unclear(name, tuple(shape))
    return False


class _Widths:
    """The numbers of features that the parts of layers work on, by the axis on which they lie."""

    def __init__(self, layers: Sequence[nn.Module]):
        self.second: set[int] = set()
        self.last: set[int] = set()
        self.normed: set[int] = set()  # of norms that do not say on which axis
        self.linear = False
        for layer in layers:
            for part in layer.modules():
                self._take(part)

    def fit(self, shape: Sequence[int]) -> tuple[bool, bool]:
        """Whether the second and whether the last axis can hold the features."""
        second, last = shape[1] in self.second, shape[-1] in self.last
        if not (second and last) or (shape[1] == shape[-1] and self.linear):
            return second, last
        normed = shape[1] in self.normed, shape[-1] in self.normed
        if normed[0] != normed[1]:
            return normed
        return (second, last) if self.linear else (True, False)

    def _take(self, part: nn.Module) -> None:
        if isinstance(part, nn.modules.conv._ConvNd):
            self.second |= {part.in_channels, part.out_channels}
        elif isinstance(part, nn.modules.batchnorm._NormBase):
            self.second.add(part.num_features)
        elif isinstance(part, nn.GroupNorm):
            self.second.add(part.num_channels)
        elif isinstance(part, nn.Linear):
            self.last |= {part.in_features, part.out_features}
            self.linear = True
        elif "norm" in type(part).__name__.lower():
            sizes = {p.shape[0] for p in part.parameters(recurse=False) if p.ndim == 1}
            sizes |= {b.shape[0] for b in part.buffers(recurse=False) if b.ndim == 1}
            self.normed |= sizes
            self.last |= sizes


def as_points(state: Tensor, is_map: bool) -> Tensor:
    """Return `state` with its features last, (*batch, d)."""
    return state.flatten(1) if is_map else state
