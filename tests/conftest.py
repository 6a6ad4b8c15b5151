# SPDX-License-Identifier: MIT
"""What every test shares: the devices, one seed per test, and children that listen to Ctrl-C."""

import atexit
import os
import shutil
import signal
import tempfile

# Graphs that an earlier run compiled were of another state of the operations; headers and probes serve all.
os.environ["TORCHINDUCTOR_FX_GRAPH_CACHE"] = os.environ["TORCHINDUCTOR_AUTOGRAD_CACHE"] = "0"
if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(prefix="inductor-")
    atexit.register(shutil.rmtree, os.environ["TORCHINDUCTOR_CACHE_DIR"], ignore_errors=True)

import pytest
import torch

from geodesic_fast.engine import load

pytest_plugins = ["in_background"]


def pytest_configure():
    """Let the children of tests hear SIGINT: a job in the background ignores it, and they inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item):
    if item.get_closest_marker("engine") and not load.is_loaded:
        pytest.skip("needs the compiled engine")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    found = torch.device(load.gpu_type if request.param == "cuda" else "cpu")
    if found.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU is visible")
    return found


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
