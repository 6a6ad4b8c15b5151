# SPDX-License-Identifier: MIT
import threading

import pytest
import torch
from assert_accurate import assert_accurate
from torch import nn
from torch.utils.checkpoint import checkpoint

from geodesic_fast import TrackGeometry, ots, reference
from geodesic_fast.recording import record, watch


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        return x + self.linear(x).tanh()


class Net(nn.Module):
    def __init__(self, depth: int = 5, width: int = 16, between=None, reentrant: bool | None = None):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.between, self.reentrant = between, reentrant

    def forward(self, x, attention_mask=None):
        for block in self.blocks:
            x = block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=self.reentrant)
            x = self.between(x) if self.between else x
        return x


@pytest.fixture
def x():
    return torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(0))


def stored(net: nn.Module, x: torch.Tensor, **options) -> list[torch.Tensor]:
    with record(net, **options) as recording:
        net(x)
    return recording.tracks


def assert_equal(got: TrackGeometry, tracks: list[torch.Tensor], mask: torch.Tensor | None = None) -> None:
    """Compare what was watched with the definition on stored tracks, in their own precision and in double."""
    plain = reference.track_geometry(tracks)
    truth = reference.track_geometry([state.double() for state in tracks])
    for name, a, b, c in zip(TrackGeometry._fields, got, plain, truth, strict=True):
        b, c = (b, c) if mask is None else (b[mask], c[mask])
        assert torch.equal(a, b) if name == "zero_steps" else assert_accurate(a, b, c, name=name) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("copy", [False, True])
def test_equals_the_stored_track(x, dtype, copy):
    net, x = Net().to(dtype), x.to(dtype)
    with watch(net, copy=copy) as w:
        net(x)
    assert w.names[0] == "input of blocks.0"
    assert w.geometry.lss.shape == (3, 7)
    assert_equal(w.geometry, stored(net, x))
    with torch.inference_mode(), watch(net, copy=copy) as w:
        net(x)
    assert_equal(w.geometry, stored(net, x))


@pytest.mark.parametrize("how", ["keyword", "position", "tensor"])
def test_mask_of_the_call_leaves_padding_out(x, how):
    net, mask = Net(), torch.ones(3, 7, dtype=torch.long)
    mask[1, 4:] = 0
    with watch(net, mask=mask if how == "tensor" else "auto") as w:
        if how == "keyword":
            net(x, attention_mask=mask)
        else:
            net(x, mask) if how == "position" else net(x)
    expected = stored(net, x)
    assert_equal(w.geometry, expected, mask.bool())
    with watch(net, mask=None) as w:
        net(x, attention_mask=mask)
    assert_equal(w.geometry, expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_ends_are_what_ots_takes(x, mode):
    net, mask = Net(between=lambda state: state.mul_(2)), torch.ones(3, 7)
    mask[1, 4:] = 0
    with mode(), watch(net, ends=True, copy=True) as w, record(net) as recording:
        net(x, attention_mask=mask)
    for end, expected in zip(w.ends, (recording.tracks[0], recording.tracks[-1]), strict=True):
        assert torch.equal(end, expected[mask.bool()])
    assert ots(*w.ends).certified
    with mode(), watch(net, copy=True) as without:
        net(x)
    with pytest.raises(RuntimeError, match="pass ends=True to watch"):
        _ = without.ends


def test_mask_reaches_layers_inside_a_model_that_is_not_called(x):
    holder, mask = nn.ModuleDict({"net": Net()}), torch.ones(3, 7)
    mask[2, 1:] = 0
    with watch(holder, "net.blocks.*") as w:
        holder["net"](x, attention_mask=mask)
    assert w.geometry.lss.shape == (15,)


def test_mask_of_another_shape_is_refused(x):
    """The mask of a call ends no run: it is told, and there are no numbers."""
    net, mask = Net(), torch.ones(3, 9)
    mask[1, 4:] = 0
    sentence = r"attention_mask of the call must have one value per track, shape \(3, 7\), got shape \(3, 9\)"
    with pytest.warns(RuntimeWarning, match=sentence), watch(net) as w:
        net(x, attention_mask=mask)
    for read in ("geometry", "groups", "passes", "names"):
        with pytest.raises(ValueError, match=sentence):
            getattr(w, read)
    assert not w.measured
    with watch(net) as w:
        net(x, attention_mask=mask)
        net(x, attention_mask=mask[:, :7])
    assert w.geometry.lss.shape == (18,)
    refused = pytest.raises(ValueError, match=r"mask must have one value per track, shape \(3, 7\)")
    with refused, watch(net, mask=mask):
        net(x)
    with pytest.raises(TypeError, match="mask must be 'auto', the name of an argument, None or a tensor"):
        watch(Net(), mask=3)


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_is_no_second_layer(x, reentrant):
    net = Net(reentrant=reentrant)
    with watch(net) as w:
        net(x.requires_grad_()).sum().backward()
    assert_equal(w.geometry, stored(net, x.detach()))


def test_training_goes_on_as_without_it(x):
    def train(watched: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(Net(), nn.Dropout(0.5))
        optimizer = torch.optim.AdamW(net.parameters())
        for _ in range(3):
            if watched:
                with watch(net, "0.blocks.*"):
                    loss = net(x).square().mean()
            else:
                loss = net(x).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return list(net.parameters())

    assert all(map(torch.equal, train(True), train(False)))


def test_state_that_changes_in_place_is_refused_or_copied(x):
    net = Net(between=lambda state: state.mul_(2)).requires_grad_(False)
    with pytest.raises(RuntimeError, match="changed in place: pass copy=True"), watch(net):
        net(x)
    with watch(net, copy=True) as w:
        net(x)
    assert_equal(w.geometry, stored(net, x))


def test_every_pass_is_measured_anew_and_half_ones_are_dropped(x):
    net = Net()
    with watch(net) as w:
        net(2 * x)
        with pytest.raises(RuntimeError, match="mat1"):
            net(torch.randn(3, 7, 15))
        net(x)
        assert_equal(w.geometry, stored(net, x))
        assert w._runs == []
    with pytest.raises(RuntimeError, match="must be called inside"):
        _ = watch(net).geometry


def test_widths_become_groups():
    net = nn.Sequential(*(nn.Linear(a, b) for a, b in [(4, 4), (4, 4), (4, 6), (6, 6), (6, 3)]))
    x = torch.randn(5, 4)
    with watch(net, "*") as w, record(net, "*") as recording:
        net(x)
    assert [(g.names[0], g.names[-1], g.width) for g in w.groups] == [("input of 0", "1", 4), ("2", "3", 6)]
    for group, expected in zip(w.groups, recording.groups, strict=True):
        assert_equal(group.geometry, expected.tracks)
    with pytest.raises(ValueError, match="got 2 groups of layers"):
        _ = w.geometry


def test_compiled_model(x):
    torch._dynamo.reset()
    net = Net()
    compiled = torch.compile(net, backend="eager")
    with watch(net) as w:
        compiled(x)
    assert_equal(w.geometry, stored(net, x))


def test_autocast_keeps_the_numbers_of_the_states(x):
    net = Net()
    with torch.autocast("cpu", torch.bfloat16), watch(net, "blocks.*.linear") as w:
        net(x)
    assert w.geometry.lss.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert_equal(w.geometry, stored(net, x, layers="blocks.*.linear"))


def test_threads_that_share_a_model_measure_their_own_passes():
    net, measured = Net(), {}

    def run(size):
        generator = torch.Generator().manual_seed(size)
        for _ in range(5):
            x = torch.randn(size, 16, generator=generator)
            with torch.no_grad(), watch(net) as w:
                net(x)
            with torch.no_grad(), record(net) as recording:
                net(x)
            measured[size] = w.geometry, recording.tracks

    threads = [threading.Thread(target=run, args=(size,)) for size in (40, 50, 60, 70)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(measured) == [40, 50, 60, 70]
    for size, (geometry, tracks) in measured.items():
        assert geometry.lss.shape == (size,)
        assert_equal(geometry, tracks)


def test_tensors_inside_vmap_are_refused(x):
    net = Net()
    with torch.no_grad(), pytest.raises(TypeError, match=r"got one inside torch\.func"), watch(net):
        torch.vmap(net)(x)


def test_nested_tensors_are_refused(x):
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    padding = torch.zeros(3, 7, dtype=torch.bool)
    padding[1, 5:] = True
    encoder = nn.TransformerEncoder(layer, 3).eval()
    with torch.no_grad(), pytest.raises(TypeError, match="got a nested one"), watch(encoder):
        encoder(x, src_key_padding_mask=padding)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    with torch.no_grad(), watch(encoder, mask=~padding) as w:
        encoder(x, src_key_padding_mask=padding)
    assert w.geometry.lss.shape == (19,)


def test_states_spread_over_devices_are_measured_whole(x, tmp_path):
    tensor_parallel = pytest.importorskip("torch.distributed.tensor")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        net = Net()
        spread = tensor_parallel.distribute_tensor(x, mesh, [tensor_parallel.Shard(2)])
        for parameter_name, parameter in list(net.named_parameters()):
            owner, _, leaf = parameter_name.rpartition(".")
            whole = tensor_parallel.distribute_tensor(parameter.detach(), mesh, [tensor_parallel.Replicate()])
            setattr(net.get_submodule(owner), leaf, nn.Parameter(whole))
        with torch.no_grad(), watch(net) as w:
            net(spread)
        assert type(w.geometry.lss) is torch.Tensor
        assert w.geometry.lss.shape == (3, 7)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("masked", [False, True])
def test_the_curve_of_measures_is_that_of_the_stored_layers(x, mode, masked):
    net, mask = Net(between=lambda state: state.mul(1.5)), torch.ones(3, 7, dtype=torch.bool)
    mask[1, 4:] = not masked
    with mode(), watch(net, curve=True, mask=mask if masked else None) as w, record(net) as recording:
        net(x)
    expected = reference.wasserstein_curve([state.detach()[mask] for state in recording.tracks])
    assert (w.curve.certified, w.curve.m, w.curve.d) == (True, int(mask.sum()), 16)
    for name in ("ratio", "evenness", "length", "distance", "steps", "ots"):
        torch.testing.assert_close(getattr(w.curve, name), getattr(expected, name), rtol=1e-6, atol=1e-9)
    with watch(net, curve=True, passes="all") as w:
        net(x)
        net(2 * x)
    assert [len(group.curve.steps) for (group,) in w.passes] == [5, 5]
    with pytest.raises(RuntimeError, match=r"read the curves of several passes in \.passes"):
        _ = w.curve
    with watch(net) as w:
        net(x)
    with pytest.raises(RuntimeError, match="pass curve=True to watch"):
        _ = w.curve


def test_a_curve_of_broken_states_or_of_none_is_a_sentence():
    net = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3)))
    said = "got NaN or inf at point 0 of the pass: leave curve=True out"
    with pytest.raises(ValueError, match=said), watch(net, curve=True):
        net(torch.full((5, 4), torch.nan))
    none = torch.zeros(5, dtype=torch.bool)
    with (
        pytest.raises(ValueError, match="got no track that counts at point 0"),
        watch(net, curve=True, mask=none),
    ):
        net(torch.randn(5, 4))
