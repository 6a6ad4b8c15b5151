# SPDX-License-Identifier: MIT
import numpy as np
import pytest
import torch
from scipy.stats import directional_stats

from geodesic_fast import lss, lss_shuffled, reference


def scipys(x, shuffles, seed):
    """The mean over orders of one over the mean resultant length, in float64."""
    random = np.random.default_rng(seed)
    x = x.double().numpy()
    steps = [np.diff(x[random.permutation(len(x))], axis=0) for _ in range(shuffles)]
    return np.mean([1 / directional_stats(v, axis=0).mean_resultant_length for v in steps], axis=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["tensor", "list", "last axis but one"])
def test_is_the_mean_over_orders_by_scipy(dtype, kind):
    x = torch.randn(9, 4, 5, 16, generator=torch.Generator().manual_seed(0)).cumsum(0).to(dtype)
    given = {"tensor": x, "list": list(x), "last axis but one": x.movedim(0, 2)}[kind]
    options = {"dim": 2} if kind == "last axis but one" else {}
    for shuffles, seed in ((1, 0), (5, 3)):
        expected = torch.from_numpy(scipys(x, shuffles, seed))
        for function in (lss_shuffled, reference.lss_shuffled):
            got = function(given, shuffles=shuffles, seed=seed, **options)
            torch.testing.assert_close(
                got.double(), expected, rtol=1e-12 if dtype is torch.float64 else 1e-5, atol=0
            )


def test_states_without_an_order_score_alike_and_a_walk_does_not():
    states = torch.randn(13, 200, 2048, generator=torch.Generator().manual_seed(0))
    assert lss(states).mean().item() == pytest.approx(12, rel=0.01)  # n, as definitions say
    assert lss_shuffled(states).mean().item() == pytest.approx(12, rel=0.01)
    walk = states.cumsum(0)
    assert lss(walk).mean().item() == pytest.approx(12**0.5, rel=0.01)
    assert lss_shuffled(walk).mean().item() > 1.5 * 12**0.5


def test_one_step_and_many_layers():
    assert lss_shuffled(torch.randn(2, 7, 3)).tolist() == [1.0] * 7
    long = torch.randn(1100, 2, 4, dtype=torch.float64)
    torch.testing.assert_close(lss_shuffled(long, shuffles=2), torch.from_numpy(scipys(long, 2, 0)))


def test_gradients():
    x = torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: lss_shuffled(x, shuffles=3), (x,))


def test_says_what_is_wrong():
    for shuffles in (0, 1.5, True):
        with pytest.raises(ValueError, match="shuffles must be an int of at least 1"):
            lss_shuffled(torch.randn(3, 2, 2), shuffles=shuffles)
    with pytest.raises(ValueError, match="at least 2 layers"):
        lss_shuffled(torch.randn(1, 2, 2))
    still = torch.zeros(3, 2, 4)
    with pytest.raises(ValueError, match="no step of length zero"):
        lss_shuffled(still, zero_step="raise")
    assert lss_shuffled(still).isnan().all()
