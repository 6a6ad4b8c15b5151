# SPDX-License-Identifier: MIT
"""When torch's dispatcher would do nothing but call the kernel, and may be left out.

The dispatcher is asked itself: the keys that it would look at are those of the tensors and of the thread.
They name every mode, transform, wrapper and lazy view: fake tensors, tracing, vmap, grad, functionalization,
negative and zero tensors, and also what is yet to be invented, since its key is none of the plain ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import has_torch_function

_C: Any = torch._C
_PLAIN_NAMES = (
    *("CPU", "AutogradCPU", "AutocastCPU", "CUDA", "AutogradCUDA", "AutocastCUDA"),
    *("BackendSelect", "ADInplaceOrView"),
)


def _plain_keys() -> Any:
    """Return the keys that ask for nothing, or None from a torch without such: all is dispatched."""
    try:
        keys = _C.DispatchKeySet(_C.DispatchKey.Undefined)
        for name in _PLAIN_NAMES:
            keys = keys.add(getattr(_C.DispatchKey, name))
        return keys if (keys - keys).highestPriorityTypeId() == _C.DispatchKey.Undefined else None
    except AttributeError:
        return None


_PLAIN_KEYS = _plain_keys()


def goes_direct(tensors: Sequence[Tensor]) -> bool:
    """Say whether an operation on these tensors is its kernel alone, and nothing else wants to see it."""
    if torch.compiler.is_compiling() or _PLAIN_KEYS is None or has_torch_function(tensors):
        return False
    differentiates = torch.is_grad_enabled()
    keys = _C._dispatch_tls_local_include_set()
    for tensor in tensors:
        if differentiates and tensor.requires_grad:
            return False
        keys = keys | _C._dispatch_keys(tensor)
    if (keys - _PLAIN_KEYS).highestPriorityTypeId() != _C.DispatchKey.Undefined:
        return False
    return forward_ad._current_level < 0 and not _C._autograd._profiler_enabled()
