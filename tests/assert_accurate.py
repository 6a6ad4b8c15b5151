# SPDX-License-Identifier: MIT
"""The accuracy rule: a fast answer errs at most twice as much as the plain one in the same dtype."""

import torch

from geodesic_fast.engine.load import is_loaded


def assert_accurate(got, plain, truth, *, condition=1.0, name=""):
    """Compare `got` and `plain` of one dtype, both against `truth`; NaN and inf must agree exactly.

    `condition` says how much the formula magnifies the rounding of its inputs: no answer in that dtype can be
    held to less, and on a handful of values the plain one may be closer by luck. A float64 answer is held to
    1e-13, since the truth it is compared with is itself rounded.
    """
    unit = torch.finfo(got.dtype).eps if got.dtype != torch.float64 else 1e-13
    rounding = unit * torch.as_tensor(condition).double().cpu()
    got, plain, truth = (torch.as_tensor(value).detach().double().cpu() for value in (got, plain, truth))
    assert got.shape == truth.shape, f"{name}: shape {tuple(got.shape)}, expected {tuple(truth.shape)}"
    assert torch.equal(got.isnan(), truth.isnan()), f"{name}: NaN in other places"
    infinite = truth.isinf()
    assert torch.equal(got[infinite], truth[infinite]), f"{name}: inf in other places"
    finite = truth.isfinite()
    if finite.any():
        scale = truth[finite].abs().max().item() or 1.0
        plain_error = (plain - truth)[finite].abs().max().item() / scale
        found = (got - truth)[finite].abs() / scale
        allowed = (2 * rounding.clamp(min=plain_error)).expand(truth.shape)[finite]
        worst = (found / allowed).argmax()
        assert (found <= allowed).all(), f"{name}: error {found[worst]:.3g}, allowed {allowed[worst]:.3g}"


def assert_streamed(got, stored):
    """Compare scores of tracks that were never stored with those of stored ones.

    The engine adds up both alike, to the last bit. Without it streams are summed in float64 and stored tracks
    in their own type, so the two may differ by its rounding.
    """
    if is_loaded:
        assert torch.equal(got, stored)
    else:
        torch.testing.assert_close(got, stored)
