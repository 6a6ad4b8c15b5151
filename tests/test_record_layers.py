# SPDX-License-Identifier: MIT
import pytest
import torch
from small_networks import Block, Net
from torch import nn

from geodesic_fast.recording import record, watch


@pytest.fixture
def x():
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


class Shared(nn.Module):
    """One block applied several times, as ALBERT does."""

    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        for _ in range(3):
            x = self.block(x)
        return x


def test_layer_that_runs_twice_is_refused_or_appended(x):
    net = Shared()
    with pytest.raises(RuntimeError, match="second run of 'block'"), record(net, "block"):
        net(x)
    with record(net, "block", repeats="append") as recording:
        net(x)
        net(2 * x)
    assert recording.names == ["input of block", "block", "block", "block"]
    assert torch.equal(recording.tracks[-1], net(2 * x))


def test_layer_that_does_not_run_is_refused_or_skipped(x):
    class Dropping(Net):
        def forward(self, x):
            return self.blocks[3](self.blocks[0](x))

    net = Dropping()
    with pytest.raises(RuntimeError, match=r"got no run of 2 of them \(blocks.1, blocks.2\)"), record(net):
        net(x)
    with record(net, missing="skip") as recording:
        net(x)
    assert recording.names == ["input of blocks.0", "blocks.0", "blocks.3"]


def test_model_that_is_not_what_is_called(x):
    holder = nn.ModuleDict({"net": Net()})
    with record(holder, "net.blocks.*") as recording:
        holder["net"](x)
        holder["net"](2 * x)
    assert torch.equal(recording.tracks[0], 2 * x)
    blocks = holder["net"].blocks
    with record(holder, "net.blocks.*") as recording:
        for scale in (1, 3):
            state = scale * x
            for block in blocks:
                state = block(state)
    assert torch.equal(recording.tracks[0], 3 * x)
    with pytest.raises(RuntimeError, match="the module that is called"), record(holder, "net.blocks.0"):
        blocks[0](x)


class Wrapper(nn.Module):
    """Has the name that DistributedDataParallel gives to what it wraps."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


@pytest.mark.parametrize("pattern", ["blocks.*", "module.blocks.*"])
def test_wrapped_models_keep_their_names(x, pattern):
    net = Wrapper(Net())
    net.module.blocks[2] = Wrapper(net.module.blocks[2])
    with record(net, pattern) as recording:
        net(x)
    assert recording.names == ["input of blocks.0", *(f"blocks.{i}" for i in range(4))]


def test_wrapper_is_no_layer_of_its_own(x):
    net = Wrapper(nn.Sequential(*(Block() for _ in range(3))))
    with record(net, "*") as recording:
        net(x)
    assert recording.names == ["input of 0", "0", "1", "2"]


def test_layers_inside_layers_are_points_in_the_order_in_which_they_end(x):
    net = Net(depth=2)
    with record(net, ["blocks.*", "blocks.*.linear"]) as recording:
        net(x)
    names = ["input of blocks.0", "blocks.0.linear", "blocks.0", "blocks.1.linear", "blocks.1"]
    assert recording.names == names
    assert torch.equal(recording.tracks[0], x)


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ("block.*", r"got 'block.\*', which matches none: .* near names are blocks"),
        ([], "at least 1 module, got none"),
        (nn.Linear(1, 1), "got a Linear that is not"),
    ],
)
def test_says_which_layers_there_are(layers, sentence):
    with pytest.raises(ValueError, match=sentence):
        record(Net(), layers)


@pytest.mark.parametrize("adapters", ["LoraConfig", "PrefixTuningConfig"])
def test_patterns_of_the_base_model_name_its_layers_under_adapters(adapters):
    tiny = pytest.importorskip("tiny_transformers", reason="needs the package transformers")
    peft = pytest.importorskip("peft", reason="needs the package peft")
    options = {"target_modules": ["c_attn"]} if adapters == "LoraConfig" else {"num_virtual_tokens": 3}
    model = peft.get_peft_model(tiny.gpt2(), getattr(peft, adapters)(task_type="CAUSAL_LM", **options))
    base, batch = model.get_base_model(), tiny.padded_batch()
    for pattern, blocks in (("transformer.h.*", base.transformer.h), ("*.h.[12]", base.transformer.h[1:3])):
        expected: list[torch.Tensor] = []

        def keep(module, args, output, expected=expected):
            expected.append(output if isinstance(output, torch.Tensor) else output[0])

        handles = [block.register_forward_hook(keep) for block in blocks]
        with torch.no_grad(), record(model, pattern, inputs=False) as recording:
            model(**batch)
        for handle in handles:
            handle.remove()
        assert len(recording.tracks) == len(blocks)
        assert all(map(torch.equal, recording.tracks, expected))
    with pytest.raises(ValueError, match="layers must match modules"):
        record(model, "transformer.blocks.*")


class Residual(nn.Sequential):
    def forward(self, x):
        for layer in self:
            x = x + layer(x)
        return x


class Scriptable(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Residual(nn.Linear(8, 8), nn.Linear(8, 8)) for _ in range(4))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize("layers", [None, "blocks.*", "blocks.*.0"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_models_whose_layers_run_past_their_hooks_name_the_one_to_pass(layers):
    net, x = Scriptable(), torch.randn(3, 5, 8)
    program = torch.export.export(net, (x,))
    scripted = (torch.jit.script(net), torch.jit.trace(net, x), nn.Sequential(torch.jit.script(net)))
    for model in scripted[:2] if layers is None else scripted:
        pattern = layers if model is not scripted[2] or layers is None else f"0.{layers}"
        with pytest.raises(TypeError, match=r"got a scripted one, .* pass the module that it was made of"):
            watch(model, pattern)
    with pytest.raises(TypeError, match=r"got ExportedProgram: .* torch\.export\.unflatten\(program\)"):
        watch(program, layers)
    with pytest.raises(ValueError, match=r"traced model, .* torch\.export\.unflatten\(program\)"):
        watch(program.module(), layers)
    graph = torch.fx.symbolic_trace(net)
    if layers == "blocks.*.0":  # of these the graph calls each
        with watch(graph, layers) as w, watch(net, layers) as eager:
            graph(x)
            net(x)
        assert torch.equal(w.geometry.lss, eager.geometry.lss)
    else:
        with pytest.raises(ValueError, match=r"traced model, .* pass the one that it was made of"):
            watch(graph, layers)
    if layers is not None:
        flat = torch.export.unflatten(program)
        with watch(flat, layers) as w, watch(net, layers) as eager:
            flat(x)
            net(x)
        assert torch.equal(w.geometry.lss, eager.geometry.lss)
