# SPDX-License-Identifier: MIT
"""Entropic potentials from geomloss, imported only when asked for."""

from __future__ import annotations

import contextlib
import importlib
import io
from types import ModuleType

import torch
from torch import Tensor

MULTISCALE_UP_TO = 3  # dimensions that geomloss's coarse-to-fine clusters are made for
_SCALING = 0.9  # geomloss's ratio of successive blurs: nearer 1 is slower and closer


def geomloss_potentials(x: Tensor, y: Tensor, blur: float) -> tuple[Tensor, Tensor, str]:
    """Return (f, g), (m) float64 each, for the cost |x - y|^2 / 2 at epsilon = blur^2, and the backend used.

    x, y: (m, d) float32 or float64. Backend "multiscale" up to 3 dimensions, else "online"; O(m) memory.
    """
    geomloss = _import("geomloss", "pip install geomloss pykeops")
    _import("pykeops", "pip install pykeops")
    backend = "multiscale" if x.shape[1] <= MULTISCALE_UP_TO else "online"
    with _quiet() as said:
        try:
            loss = geomloss.SamplesLoss(
                "sinkhorn", p=2, blur=blur, scaling=_SCALING, debias=False, potentials=True, backend=backend
            )
            f, g = loss(x.contiguous(), y.contiguous())
        except Exception as error:  # KeOps compiles at run time: whatever the compiler says arrives here
            raise RuntimeError(
                f"backend='geomloss' failed in its {backend} backend ({type(error).__name__}: {error}; "
                f"{said.getvalue().strip()[-300:]}): KeOps needs a C++ compiler at run time, install g++, "
                "or use backend='tiles'."
            ) from error
    return f.detach().reshape(-1).double(), g.detach().reshape(-1).double(), backend


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
def _quiet():  # type: ignore[no-untyped-def]
    """Keep what KeOps prints while it is imported and compiles out of our callers' output."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), torch.no_grad():
        yield said
