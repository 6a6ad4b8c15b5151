# SPDX-License-Identifier: MIT
import pytest
import torch
from small_networks import Block, Net, hook_count
from torch import nn
from torch.utils.checkpoint import checkpoint

import geodesic_fast
from geodesic_fast.recording import record, watch


@pytest.fixture
def x():
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layers", [None, "blocks.*", ["blocks.?"], "modules"])
@pytest.mark.parametrize("as_tuple", [False, True])
def test_holds_the_input_and_every_output(x, layers, as_tuple):
    net = Net(as_tuple=as_tuple)
    with record(net, list(net.blocks) if layers == "modules" else layers) as recording:
        net(x)
    expected = list(net.states(x))
    assert recording.names == ["input of blocks.0", "blocks.0", "blocks.1", "blocks.2", "blocks.3"]
    assert all(map(torch.equal, recording.tracks, expected))
    assert not recording.tracks[1].requires_grad
    assert geodesic_fast.lss(recording.tracks).shape == (5,)
    assert hook_count(net) == 0


def test_outputs_alone(x):
    net = Net()
    with record(net, inputs=False) as recording:
        net(x)
    assert recording.names == ["blocks.0", "blocks.1", "blocks.2", "blocks.3"]


def test_keyword_inputs_are_found(x):
    class Keywords(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(Block() for _ in range(2))

        def forward(self, ids):
            state = ids.float()
            for block in self.blocks:
                state = block(x=state)
            return state

    net = Keywords()
    with record(net) as recording:
        net(torch.ones(2, 8, dtype=torch.long))
    assert torch.equal(recording.tracks[0], torch.ones(2, 8))


def test_copies_are_safe_from_later_changes_in_place(x):
    net = Net(between=lambda state: state.mul_(2))
    with torch.no_grad():
        expected = [state.clone() for state in net.states(x)]
        with record(net) as copied:
            net(x)
        with record(net, clone=False) as shared:
            net(x)
    assert all(map(torch.equal, copied.tracks, expected))
    assert not all(map(torch.equal, shared.tracks, expected))


def test_gradients_flow_without_detach(x):
    net = Net()
    with record(net, detach=False) as recording:
        net(x)
    geodesic_fast.lss(recording.tracks).mean().backward()
    got = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    geodesic_fast.reference.lss(list(net.states(x))).mean().backward()
    for a, p in zip(got, net.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-4, atol=1e-6)


def test_refuses_gradients_where_none_flow(x):
    net = Net()
    carries = pytest.raises(RuntimeError, match="detach=False needs states that carry")
    with torch.no_grad(), carries, record(net, detach=False):
        net(x)
    assert hook_count(net) == 0


class Checkpointed(Net):
    use_reentrant = False

    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.use_reentrant)
        return x


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_recomputation_is_no_second_layer(x, use_reentrant):
    net = Checkpointed()
    net.use_reentrant = use_reentrant
    x.requires_grad_()
    with record(net) as recording:
        net(x).sum().backward()
    assert all(map(torch.equal, recording.tracks, net.states(x)))


def test_penalty_under_checkpointing(x):
    net = Checkpointed()
    with record(net, detach=False) as recording:
        loss = net(x).square().mean()
        (loss + geodesic_fast.lss(recording.tracks).mean()).backward()
    got = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    states = list(Net.states(net, x))
    (states[-1].square().mean() + geodesic_fast.lss(states).mean()).backward()
    for a, p in zip(got, net.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad)
    net.use_reentrant = True
    with pytest.raises(RuntimeError, match="use_reentrant=False"), record(net, detach=False):
        net(x.requires_grad_())


def test_the_last_pass_is_the_one_that_counts(x):
    net = Net()
    with record(net) as recording:
        net(x)
        first = recording.tracks
        net(2 * x)
    assert torch.equal(first[0], x)
    assert torch.equal(recording.tracks[0], 2 * x)


def test_a_call_that_fails_leaves_no_hooks_and_no_half_pass(x):
    net = Net()
    with pytest.raises(RuntimeError, match="mat1"), record(net):
        net(torch.randn(5, 9))
    assert hook_count(net) == 0
    with record(net) as recording:
        with pytest.raises(RuntimeError, match="mat1"):
            net(torch.randn(5, 9))
        net(x)
    assert torch.equal(recording.tracks[0], x)


def test_widths_become_groups_and_maps_are_flattened():
    class Convolutional(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3, padding=1)
            self.stage1 = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(2)))
            self.stage2 = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, padding=1))
            self.single = nn.Conv2d(6, 7, 1)

        def forward(self, x):
            return self.single(self.stage2(self.stage1(self.stem(x))))

    net = Convolutional()
    with record(net, ["stage?.*", "single"]) as recording:
        net(torch.randn(2, 3, 8, 8))
    first, second = recording.groups
    assert first.names == ["input of stage1.0", "stage1.0", "stage1.1"]
    assert second.names == ["stage2.0", "stage2.1"]
    assert [tuple(t.shape) for t in (first.tracks[0], second.tracks[0])] == [(2, 4 * 64), (2, 6 * 16)]
    with pytest.raises(ValueError, match="got 2 groups of layers of different shape"):
        _ = recording.tracks
    with record(net, "single") as alone:
        net(torch.randn(2, 3, 8, 8))
    with pytest.raises(ValueError, match="no two in a row of one shape"):
        _ = alone.tracks


@pytest.mark.parametrize(
    ("flatten", "shape"), [("maps", (2, 3, 8)), ("samples", (2, 24)), ("never", (2, 3, 8))]
)
def test_tokens_are_tracks_unless_samples_are_asked_for(flatten, shape):
    net = Net()
    with record(net, flatten=flatten) as recording:
        net(torch.randn(2, 3, 8))
    assert recording.tracks[0].shape == shape


def test_mixed_dtypes_meet_in_the_widest(x):
    net = Net()
    with torch.autocast("cpu", torch.bfloat16), record(net, "blocks.*.linear") as recording:
        net(x)
    assert {t.dtype for t in recording.tracks} == {torch.float32}
    net = Net().bfloat16()
    with record(net) as recording:
        net(x.bfloat16())
    assert {t.dtype for t in recording.tracks} == {torch.bfloat16}
    assert geodesic_fast.lss(recording.tracks).dtype == torch.float32


def test_compiled_models(x):
    net = Net()
    compiled = torch.compile(net, backend="eager")
    with record(net) as recording:
        compiled(x)
    assert all(map(torch.equal, recording.tracks, net.states(x)))
    compiled(x)
    assert torch.equal(recording.tracks[0], x)
    torch._dynamo.reset()
    compiled(x)
    late = pytest.raises(RuntimeError, match="before the first call of a compiled model")
    with late, record(compiled, "blocks.*"):
        compiled(x)


def test_says_what_is_wrong(x):
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got str"):
        record("model")
    with pytest.raises(TypeError, match="layers must be names, glob patterns"):
        record(Net(), [3])
    with pytest.raises(ValueError, match=r"got 2 \(a.blocks.\*, b.blocks.\*\)"):
        record(nn.ModuleDict({"a": Net(), "b": Net()}))
    with pytest.raises(ValueError, match="repeats must be one of 'raise', 'append', got 'twice'"):
        record(Net(), repeats="twice")
    with record(Net()) as recording:
        pass
    with pytest.raises(RuntimeError, match="must be called inside the with block"):
        _ = recording.tracks

    class Counting(nn.Module):
        def forward(self, x):
            return {"count": 3}

    net = nn.Sequential(Counting())
    with (
        pytest.raises(TypeError, match="the output of layer '0' must hold a floating-point tensor, got dict"),
        record(net, "0"),
    ):
        net(x)


def test_what_the_hooks_call_is_private():
    told = {"groups", "names", "passes"}
    assert {name for name in dir(record) if not name.startswith("_")} == told | {"tracks"}
    assert {name for name in dir(watch) if not name.startswith("_")} == told | {
        "curve", "ends", "forget", "geometry", "measured", "profile",
    }  # fmt: skip
