# SPDX-License-Identifier: MIT
"""A pytest plugin: the tests of a GPU run on CPU tensors, with the CUDA kernels as compiled for the CPU.

CUDA_ON_CPU_ENGINE names the engine that was built so. What nobody has written holds NaN.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator

import pytest
import torch  # first: the engine then shares its OpenMP threads


def _load_engine(path: str) -> None:
    spec = importlib.util.spec_from_file_location("geodesic_fast._C", path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])


_load_engine(os.environ["CUDA_ON_CPU_ENGINE"])

from geodesic_fast.engine import load  # noqa: E402

assert load.is_loaded, load.engine_error
assert load.engine.cuda_archs == "emulated", "this engine was not built by tests/cuda_on_cpu"
load.gpu_type = "cpu"


@pytest.fixture(autouse=True)
def _nothing_is_initialised() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


def pytest_report_header() -> str:
    """Name the device that is emulated."""
    names = ("CUDA_ON_CPU_ARCH", "CUDA_ON_CPU_SMS", "CUDA_ON_CPU_ORDER")
    return "emulated GPU: " + ", ".join(f"{name}={os.environ.get(name, 'default')}" for name in names)
