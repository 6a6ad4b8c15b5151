# SPDX-License-Identifier: MIT
"""Every private name of torch that is used, looked for once; without one of them the plain route is taken."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import has_torch_function

Function = TypeVar("Function", bound=Callable[..., Any])


def _find(path: str, root: Any = torch) -> Any:
    """Return what torch calls `path`, or None where it has no such name."""
    return functools.reduce(lambda found, name: getattr(found, name, None), path.split("."), root)


_dispatch_keys: Callable[[Tensor], Any] | None = _find("_C._dispatch_keys")
_thread_keys: Callable[[], Any] | None = _find("_C._dispatch_tls_local_include_set")
_profiles: Callable[[], bool] | None = _find("_C._autograd._profiler_enabled")
_is_wrapped: Callable[[Tensor], bool] | None = _find("_C._functorch.is_functorch_wrapped_tensor")
_innermost: Callable[[], Any] | None = _find("_C._functorch.peek_interpreter_stack")
_graph_task: Callable[[], int] | None = _find("_C._current_graph_task_id")
_multiply_each: Callable[[Sequence[Tensor], float], None] | None = _find("_foreach_mul_")
_BATCHES: tuple[Any, ...] = tuple(
    _find(name)
    for name in (
        "_C._functorch.is_legacy_batchedtensor",
        "_C._vmapmode_increment_nesting",
        "_C._vmapmode_decrement_nesting",
        "_remove_batch_dim",
        "_add_batch_dim",
    )
)
_transforms: tuple[Any, ...] = tuple(
    _find(f"_C._functorch.TransformType.{name}") for name in ("Grad", "Vmap", "Jvp")
)
_OWN_TYPES = (Tensor, torch.nn.Parameter)
_PLAIN_NAMES = (
    *("CPU", "AutogradCPU", "AutocastCPU", "CUDA", "AutogradCUDA", "AutocastCUDA"),
    *("BackendSelect", "ADInplaceOrView"),
)


def _unusual_bits() -> int | None:
    """Return the bits of a set of keys that ask for something, None where keys cannot be looked at."""
    make, key = _find("_C.DispatchKeySet"), _find("_C.DispatchKey")
    if None in (make, key, _dispatch_keys, _thread_keys, _profiles):
        return None
    try:
        keys = make(key.Undefined)
        for name in _PLAIN_NAMES:
            keys = keys.add(getattr(key, name))
        return ~int(keys.raw_repr())
    except AttributeError:
        return None


_UNUSUAL_BITS = _unusual_bits()


def forward_mode() -> bool:
    """Say whether forward-mode derivatives may be asked for."""
    return getattr(forward_ad, "_current_level", 0) >= 0


def is_transformed(tensor: Tensor) -> bool:
    """Say whether a tensor stands for others inside torch.func.grad, vmap or jvp."""
    return _is_wrapped is not None and _is_wrapped(tensor)


def in_transform() -> bool:
    """Say whether torch.func.grad or vmap is the innermost transform, which an operation has a rule for."""
    if _innermost is None or torch.compiler.is_compiling():
        return False
    innermost = _innermost()
    return innermost is not None and innermost.key() in _transforms


def is_batched(tensor: Tensor) -> bool:
    """Say whether a tensor is one of the gradients that torch.autograd.grad(is_grads_batched=True) passes."""
    return None not in _BATCHES and _BATCHES[0](tensor)


def batch_level() -> int:
    """Return how deep batched gradients are nested."""
    _, enter, leave, *_ = _BATCHES
    leave_to = enter() - 1
    leave()
    return int(leave_to)


def with_batch_shown(tensor: Tensor, level: int) -> Tensor:
    """Return a batched gradient with its batch axis first."""
    return _BATCHES[3](tensor, level, 1, 0)


def with_batch_hidden(tensor: Tensor, axis: int, level: int) -> Tensor:
    """Return a tensor whose batch axis does not show."""
    return _BATCHES[4](tensor, axis, level)


def goes_direct(tensors: Sequence[Tensor]) -> bool:
    """Say whether an operation on these tensors is its kernel alone, and nothing else wants to see it.

    The dispatcher is asked itself: the keys that it would look at are those of the tensors and of the thread.
    They name every mode, transform, wrapper and lazy view: fake tensors, tracing, vmap, grad,
    functionalization, negative and zero tensors, and also what is yet to be invented, since its key is none
    of the plain ones.
    """
    if torch.compiler.is_compiling() or _UNUSUAL_BITS is None or has_torch_function(tensors):
        return False
    assert _dispatch_keys is not None
    assert _thread_keys is not None
    assert _profiles is not None
    differentiates = torch.is_grad_enabled()
    bits = _thread_keys().raw_repr()
    for tensor in tensors:
        if differentiates and tensor.requires_grad:
            return False
        bits |= _dispatch_keys(tensor).raw_repr()
    if bits & _UNUSUAL_BITS:
        return False
    return not forward_mode() and not _profiles()


def is_plain(tensor: Tensor) -> bool:
    """Say whether a tensor's values lie at its address, as its strides say."""
    if _UNUSUAL_BITS is None or _dispatch_keys is None:
        return type(tensor) in _OWN_TYPES and not tensor.is_neg() and not tensor.is_meta
    return not _dispatch_keys(tensor).raw_repr() & _UNUSUAL_BITS


def resolved(tensor: Tensor) -> Tensor:
    """Return a tensor that is neither lazily negated nor lazily zero."""
    is_zero = getattr(tensor, "_is_zerotensor", None)
    return torch.zeros_like(tensor) if is_zero is not None and is_zero() else tensor.resolve_neg()


def multiply_each(tensors: Sequence[Tensor], factor: float) -> None:
    """Multiply tensors in place, in one launch where torch can."""
    if _multiply_each is not None:
        return _multiply_each(tensors, factor)
    for tensor in tensors:
        tensor.mul_(factor)


def is_wrapper(tensor: Tensor) -> bool:
    """Say whether a tensor's values are elsewhere and can be fetched: other processes, a collective."""
    return type(tensor) not in _OWN_TYPES and (
        hasattr(tensor, "full_tensor") or hasattr(tensor, "trigger_wait")
    )


def unwrapped(tensor: Tensor) -> Tensor:
    """Return what such a wrapper stands for, gathered or waited for, its gradient too; others as they are.

    A DTensor is taken whole: its metrics are those of all tracks, and each process takes part.
    """
    if type(tensor) in _OWN_TYPES:
        return tensor
    if hasattr(tensor, "full_tensor"):
        return unwrapped(tensor.full_tensor())
    if hasattr(tensor, "trigger_wait"):  # torch's AsyncCollectiveTensor
        return tensor.clone() if tensor.requires_grad else tensor.trigger_wait()
    return tensor


def outside_graphs(function: Function) -> Function:
    """Keep torch.compile out of a function, without loading its tracer where nobody compiles."""
    disabled: Any = None

    @functools.wraps(function)
    def outer(*args: Any, **kwargs: Any) -> Any:
        nonlocal disabled
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        if disabled is None:
            disabled = torch.compiler.disable(function)
        return disabled(*args, **kwargs)

    outer._torchdynamo_disable = True  # type: ignore[attr-defined]
    return outer  # type: ignore[return-value]


def constant_in_graphs(function: Function) -> Function:
    """Let torch.compile take what a function gives for constants as a constant."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def in_backward() -> bool:
    """Say whether this thread is inside a backward pass."""
    return _graph_task is not None and _graph_task() != -1
