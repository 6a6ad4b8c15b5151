# SPDX-License-Identifier: MIT
"""Entropic potentials from geomloss, imported only when asked for."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

MULTISCALE_UP_TO = 3  # dimensions that geomloss's coarse-to-fine clusters are made for
_FEW = 16  # points that are enough to compile for
_compiled: set[tuple[int, torch.dtype, str]] = set()  # in this process
_SCALING = 0.9  # geomloss's ratio of successive blurs: nearer 1 is slower and closer


def geomloss_potentials(x: Tensor, y: Tensor, blur: float) -> tuple[Tensor, Tensor, str]:
    """Return (f, g), (m) float64 each, for the cost |x - y|^2 / 2 at epsilon = blur^2, and the backend used.

    x, y: (m, d) float32 or float64. Backend "multiscale" up to 3 dimensions, else "online"; O(m) memory.
    """
    x, y = x.contiguous(), y.contiguous()
    backend = "multiscale" if x.shape[1] <= MULTISCALE_UP_TO else "online"
    kind = (x.shape[1], x.dtype, x.device.type)  # KeOps compiles for each
    if kind not in _compiled:
        with _alone():
            _solve(x[:_FEW], y[:_FEW], blur, backend)
            _compiled.add(kind)
            atexit.unregister(_keep_alone)
            atexit.register(_keep_alone)  # last registered, first called: before KeOps writes what it knows
    f, g = _solve(x, y, blur, backend)
    return f.detach().reshape(-1).double(), g.detach().reshape(-1).double(), backend


def _solve(x: Tensor, y: Tensor, blur: float, backend: str) -> tuple[Tensor, Tensor]:
    geomloss = _import("geomloss", "pip install geomloss pykeops")
    _import("pykeops", "pip install pykeops")
    with _quiet() as said:
        try:
            loss = geomloss.SamplesLoss(
                "sinkhorn", p=2, blur=blur, scaling=_SCALING, debias=False, potentials=True, backend=backend
            )
            return loss(x, y)
        except Exception as error:  # KeOps compiles at run time: whatever the compiler says arrives here
            if not any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "g++", "clang++")):
                raise RuntimeError(
                    "backend='geomloss' compiles with KeOps at run time and finds no C++ compiler: "
                    "install g++, or use backend='tiles'."
                ) from error
            raise RuntimeError(
                f"backend='geomloss' failed in its {backend} backend ({type(error).__name__}: {error}; "
                f"{said.getvalue().strip()[-300:]}): see that KeOps works by itself, with "
                "`python -c 'import pykeops; pykeops.test_torch_bindings()'`, or use backend='tiles'."
            ) from error


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let one process at a time compile: KeOps writes into a folder that all of them share, and read."""
    lock = _lock()
    try:
        yield
    finally:
        os.close(lock)


def _keep_alone() -> None:
    _lock()  # until the process has ended


def _lock() -> int:
    import fcntl  # where there is none, as on Windows, there is no KeOps

    folder = Path(os.environ.get("KEOPS_CACHE_FOLDER") or Path.home() / ".cache")
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / "geodesic_fast-keops.lock", os.O_RDWR | os.O_CREAT, 0o666)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _import(name: str, remedy: str) -> ModuleType:
    with _quiet():
        try:
            return importlib.import_module(name)
        except Exception as error:  # a broken KeOps raises anything from ImportError to OSError
            raise ImportError(
                f"backend='geomloss' needs the package {name}, which cannot be imported "
                f"({type(error).__name__}: {error}): {remedy}, or use backend='tiles'."
            ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    """Keep what KeOps prints while it is imported and compiles out of our callers' output."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), torch.no_grad():
        yield said
