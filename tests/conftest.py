# SPDX-License-Identifier: MIT
"""What every test shares: the devices, and one seed per test."""

import pytest
import torch

from geodesic_fast import _extension


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    found = torch.device(_extension.gpu_type if request.param == "cuda" else "cpu")
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
