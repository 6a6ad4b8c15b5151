# SPDX-License-Identifier: MIT
"""A model spread over devices: the accumulator follows the layers, and the numbers stay those of one device.

The second device is a GPU where there is one. Everywhere else it is torch's lazy backend, which keeps its
tensors apart from the CPU's as a GPU does; it is switched on for a whole process, hence one of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from assert_accurate import assert_accurate
from known_tracks import random_tracks

from geodesic_fast import TrackAccumulator, track_geometry

ON_A_LAZY_DEVICE = """
import sys
import torch
try:
    import torch._lazy.ts_backend
    torch._lazy.ts_backend.init()
    torch.zeros(1, device="lazy")
except Exception as error:
    sys.exit(f"no lazy backend: {error}")
from test_track_accumulator_devices import check_layers_in_turn
torch.manual_seed(0)
check_layers_in_turn("lazy")
print("measured")
"""


def check_layers_in_turn(second):
    tracks = random_tracks((7, 5, 40), torch.float32)
    truth, plain = track_geometry(tracks.double()), track_geometry(tracks)
    for turn in range(3):  # the first layer, the second, the last: each is on the second device once
        accumulator = TrackAccumulator()
        for number, state in enumerate(tracks):
            accumulator.push(state.to(second) if number % 3 == turn else state)
        found = accumulator.geometry
        home = second if (len(tracks) - 1) % 3 == turn else "cpu"
        assert found.lss.device.type == home
        for name in found._fields[:-1]:
            values = (getattr(each, name).cpu() for each in (found, plain, truth))
            assert_accurate(*values, name=name)
        assert torch.equal(found.zero_steps.cpu(), truth.zero_steps)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU is visible")
def test_follows_layers_to_a_gpu_and_back():
    check_layers_in_turn("cuda")


def test_follows_layers_to_another_device_and_back():
    run = subprocess.run(
        [sys.executable, "-W", "ignore::RuntimeWarning", "-c", ON_A_LAZY_DEVICE],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
    )
    if "no lazy backend" in run.stderr:
        pytest.skip(run.stderr.strip())
    assert run.stdout == "measured\n", run.stderr
