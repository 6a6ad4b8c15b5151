# SPDX-License-Identifier: MIT
import math

import pytest
import torch

from geodesic_fast import ots


def test_says_what_is_wrong():
    x = torch.zeros(4, 3)
    bad = x.clone()
    bad[2, 1] = math.nan
    for error, match, call in (
        (ValueError, "at least 1 point", lambda: ots(x[:0], x[:0])),
        (ValueError, "at least 1 feature", lambda: ots(x[:, :0], x[:, :0])),
        (ValueError, "first in row 2", lambda: ots(x, bad)),
        (ValueError, "same width", lambda: ots(x, x[:, :2])),
        (ValueError, "same number of points", lambda: ots(x, x[:2])),
        (ValueError, "same dtype", lambda: ots(x, x.double())),
        (ValueError, "same device", lambda: ots(x, x.to("meta"))),
        (ValueError, "on the CPU or a CUDA device", lambda: ots(x.to("meta"), x.to("meta"))),
        (TypeError, r"convert it with torch\.as_tensor\(x\)\.float", lambda: ots(x.long(), x.long())),
        (ValueError, "method must be one of 'auto'", lambda: ots(x, x, method="fast")),
        (ValueError, "time_budget must be positive", lambda: ots(x, x, time_budget=0)),
        (TypeError, "memory_budget must be a number", lambda: ots(x, x, memory_budget="1 GB")),
        (ValueError, r"potentials must be \(u, v\) of shape \(4,\)", lambda: ots(x, x, potentials=(x, x))),
    ):
        with pytest.raises(error, match=match):
            call()
