# SPDX-License-Identifier: MIT
"""Which passes are followed: copies of the model, calls that fail, several passes in a call or in a block."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from assert_accurate import assert_streamed
from small_networks import Net, hook_count
from torch import nn

from geodesic_fast import lss
from geodesic_fast.recording import record, watch


@pytest.fixture
def x():
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


def expected(net: Net, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return lss(list(net.states(x)))


@pytest.mark.parametrize("kind", [record, watch])
@pytest.mark.parametrize("how", ["deepcopy", "averaged", "pickle", "torch.save"])
def test_a_copy_of_the_model_is_not_followed(x, kind, how):
    net = Net()
    with kind(net) as followed:
        net(x)
        if how == "deepcopy":
            other = copy.deepcopy(net)
        elif how == "averaged":
            other = torch.optim.swa_utils.AveragedModel(net)
        elif how == "pickle":
            other = pickle.loads(pickle.dumps(net))
        else:
            file = io.BytesIO()
            torch.save(net, file)
            other = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
        assert torch.equal(other(3 * x), net(3 * x)) or how == "averaged"
        net(x)
        other(5 * x)
    got = lss(followed.tracks) if kind is record else followed.geometry.lss
    assert_streamed(got, expected(net, x))
    assert hook_count(net) == 0
    assert how in ("pickle", "torch.save") or hook_count(other) == 0
    other(x)  # what is left in a stored model does nothing


class Siamese(nn.Module):
    def __init__(self, together: bool = False):
        super().__init__()
        self.encoder, self.together = Net(), together

    def forward(self, a, b):
        return self.encoder(a) - self.encoder(b)


def test_two_passes_in_one_call_are_no_track(x):
    net = Siamese()
    first, second = expected(net.encoder, x), expected(net.encoder, -2 * x + 1)
    for repeats in ("raise", "append"):
        refused = pytest.raises(RuntimeError, match=r"on other data .* pass passes='all'")
        with refused, watch(net, "encoder.blocks.*", repeats=repeats) as w:
            net(x, -2 * x + 1)
        with pytest.raises(RuntimeError, match="on other data"):
            _ = w.geometry
        with watch(net, "encoder.blocks.*", repeats=repeats, passes="all") as w:
            net(x, -2 * x + 1)
        assert_streamed(w.geometry.lss, torch.cat([first, second]))
        for (group, *_), want in zip(w.passes, (first, second), strict=True):
            assert_streamed(group.geometry.lss, want)
        with watch(net, "encoder.blocks.*", repeats=repeats, passes="first") as w:
            net(x, -2 * x + 1)
        assert_streamed(w.geometry.lss, first)


class TwoInputs(Net):
    """Calls its own blocks on two inputs, one after the other, or each block on both."""

    together = False

    def forward(self, a, b):
        if self.together:
            for block in self.blocks:
                a, b = block(a), block(b)
            return a - b
        return super().forward(a) - super().forward(b)


@pytest.mark.parametrize("repeats", ["raise", "append"])
@pytest.mark.parametrize("together", [False, True])
def test_the_remedy_for_a_second_run_fits(x, repeats, together):
    net = TwoInputs()
    net.together = together
    with pytest.raises(RuntimeError) as refused, watch(net, repeats=repeats):
        net(x, -2 * x)
    assert "repeats='append'" not in str(refused.value)
    assert ("not whole" if together else "siamese") in str(refused.value)


def test_half_a_pass_by_hand_is_not_strung_together_with_the_next(x):
    holder = nn.ModuleDict({"net": Net()})
    for repeats in ("raise", "append"):
        with watch(holder, "net.blocks.*", repeats=repeats) as w:
            holder["net"].blocks[0](x)
            with pytest.raises(RuntimeError) as refused:
                holder["net"].blocks[0](2 * x)
        with pytest.raises(RuntimeError, match="after one that failed"):
            _ = w.geometry
        assert "after one that failed" in str(refused.value)
        assert "repeats='append'" not in str(refused.value)


def test_first_last_and_all_passes_of_a_block(x):
    net = Net()
    want = [expected(net, scale * x) for scale in (1, 2, 3)]
    for passes, kept in {"first": want[:1], "last": want[-1:], "all": want}.items():
        with watch(net, passes=passes, ends=True) as w, record(net, passes=passes) as stored:
            for scale in (1, 2, 3):
                net(scale * x)
                assert (hook_count(net) == 0) == (passes == "first")
        assert_streamed(w.geometry.lss, torch.cat(kept))
        assert torch.equal(lss(stored.tracks), torch.cat(kept))
        assert len(w.passes) == len(kept)
        assert torch.equal(w.ends[0], stored.tracks[0])
        assert torch.equal(w.ends[1], stored.tracks[-1])


def test_passes_of_training_alone(x):
    net = Net().train()
    with watch(net, when="training", passes="first") as w:
        with torch.no_grad():
            net(5 * x)
        net.eval()
        net(4 * x)
        net.train()
        net(x)
        net(2 * x)
    assert_streamed(w.geometry.lss, expected(net, x))
    with watch(net.eval(), when="training") as w:
        net(x)
    with pytest.raises(RuntimeError, match="must be called inside"):
        _ = w.geometry


def test_a_new_block_forgets_the_one_before(x):
    net = Net()
    with watch(net) as w:
        net(x)
    with w:
        pass
    with pytest.raises(RuntimeError, match="must be called inside"):
        _ = w.geometry


class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Net(), Net()

    def forward(self, x, encoded=None):
        return self.decoder(self.encoder(x) if encoded is None else encoded)


def test_a_call_that_goes_past_the_layers_is_no_pass(x):
    net = Halves()
    with watch(net, "encoder.blocks.*") as w:
        encoded = net.encoder(x)
        for _ in range(3):
            net(None, encoded)
    assert_streamed(w.geometry.lss, expected(net.encoder, x))
    with pytest.raises(RuntimeError, match="got no run of 4 of them"), watch(net, "encoder.blocks.*"):
        net(None, encoded)


def test_one_step_and_lost_layers_are_told_once(x):
    net = nn.Sequential(*(nn.Linear(a, b) for a, b in [(8, 8), (8, 6), (6, 4), (4, 4), (4, 4)]))
    watching = watch(net, "*")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            with watching:
                net(x)
    told = [str(warning.message) for warning in told]
    assert len(told) == 2
    assert "1 of the layers belong to no track" in told[0]
    assert "(1)" in told[0]
    assert "1 of the groups have a single step" in told[1]
    assert [group.names for group in watching.groups] == [["input of 0", "0"], ["2", "3", "4"]]


def test_callers_that_must_not_fail_hear_of_it(x):
    """What the training callbacks use: nothing that is wrong here ends the run."""
    net = TwoInputs()
    w = watch(net)
    w.hooks.raises = False
    with pytest.warns(RuntimeWarning, match="second run of 'blocks.0'"), w:
        net(x, 2 * x)
    assert "second run" in str(w.refused)
    assert not w.measured
    with pytest.raises(RuntimeError, match="second run"):
        _ = w.geometry


def test_hooks_that_follow_one_pass_leave_after_one_that_failed(x):
    net = Net()
    w = watch(net, when="training")
    w.hooks.once = True
    w.hooks.attach()
    with pytest.raises(RuntimeError, match="mat1"):
        net(torch.randn(5, 9))
    net(x)
    assert hook_count(net) == 0
    assert not w.measured
    w.hooks.attach()
    net(x)
    assert hook_count(net) == 0
    assert_streamed(w.geometry.lss, expected(net, x))
