# SPDX-License-Identifier: MIT
"""Loads the compiled engine `geodesic_fast._C`, or remembers why it could not; says where it works."""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch  # first: the engine then shares torch's OpenMP threads instead of bringing its own

_CPU = os.environ.get("GEODESIC_FAST_CPU", "")
if _CPU not in ("", "avx512", "avx2", "baseline"):
    raise ValueError(
        f"GEODESIC_FAST_CPU must be 'avx512', 'avx2' or 'baseline', got {_CPU!r}: it caps the instructions "
        "that the CPU kernels use; leave it out for the best that the processor has."
    )


class _Missing:
    """Stands where the engine could not be loaded: nothing asks it without `is_loaded` or `has_engine`."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"geodesic_fast._C.{name} is missing: {engine_error}")


engine_error = ""
if TYPE_CHECKING:
    from geodesic_fast import _C as engine
else:
    try:
        engine = importlib.import_module("geodesic_fast._C")
    except ImportError as error:
        engine, engine_error = _Missing(), str(error)
is_loaded = not isinstance(engine, _Missing)

_warned: set[str] = set()


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def find_reason(device_type: str) -> str:
    """Find out why the engine cannot work on tensors of `device_type`; "" if it can."""
    if not is_loaded:
        return (
            f"the compiled engine geodesic_fast._C is missing ({engine_error}). Install a C++ compiler "
            "(g++ or clang++) and run `pip install .` in the sources again."
        )
    if device_type == "cpu":
        return ""
    if device_type != "cuda":
        return f"the compiled engine has no kernels for device type {device_type!r}, only for cpu and cuda."
    if not engine.cuda_archs:
        return (
            "the compiled engine was built without CUDA. Put nvcc on PATH and reinstall with "
            "GEODESIC_FAST_CUDA=1."
        )
    runtime, driver = engine.cuda_runtime_version(), engine.cuda_driver_version()
    if driver == 0:
        return "no NVIDIA driver is installed on this machine."
    if driver < runtime // 1000 * 1000:
        return (
            f"the engine was compiled with CUDA {_version(runtime)}, but the driver supports only CUDA "
            f"{_version(driver)}. Update the driver, or rebuild with an older nvcc."
        )
    return ""


# Asked once, here: torch.compile can trace a look-up, but no call into the driver.
_REASONS = {device_type: find_reason(device_type) for device_type in ("cpu", "cuda")}


def why_not(device_type: str) -> str:
    """Return why the engine cannot work on tensors of `device_type`, or "" if it can."""
    return _REASONS[device_type] if device_type in _REASONS else find_reason(device_type)


def has_engine(device: torch.device) -> bool:
    """Say whether the compiled engine serves `device`; where it does not, warn once per reason."""
    reason = why_not(device.type)
    if reason:
        _warn_once(device.type, reason)
    return not reason


gpu_type = "cuda"  # device type of what the CUDA kernels serve; compiled for the CPU they serve its tensors


def on_gpu(device: torch.device) -> bool:
    """Say whether the CUDA kernels serve tensors on `device`."""
    return device.type == gpu_type


def place_of(device: torch.device) -> engine.Place:
    """Return where a kernel is to run: this many threads, or a GPU and its current stream."""
    if not on_gpu(device):
        return cpu_place(torch.get_num_threads())
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    return engine.Place(threads=0, device=device.index or 0, stream=stream)


@functools.cache
def cpu_place(threads: int) -> engine.Place:
    """Return the CPU, for kernels that are there alone."""
    return engine.Place(threads=threads, device=-1, stream=0)


_HERE = nullcontext()


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Make `device` the current one of this thread while a kernel is launched."""
    return torch.cuda.device(device) if device.type == "cuda" else _HERE


def _warn_once(device_type: str, reason: str) -> None:
    if device_type in _warned:
        return
    _warned.add(device_type)
    warnings.warn(
        f"geodesic_fast answers from its slower plain-torch reference on {device_type}: {reason}",
        RuntimeWarning,
        stacklevel=4,
    )
