# SPDX-License-Identifier: MIT
"""Every public function on every kind of tensor that torch has, in a process that may crash.

Prints a line before each call and one after it, so that the last line of a crash names the call. Run as
`python tests/tensor_kinds.py`; tests/test_tensor_kinds.py reads what it prints.
"""

import contextlib
import functools
import inspect
import warnings

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives
from torch._subclasses import FakeTensor, FakeTensorMode
from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.utils._pytree import tree_leaves, tree_map

import geodesic_fast as gf

OPTIONS = {
    "soft_ots": {"blur": 0.5},
    "ots_curve": {"sizes": [2, 4]},
    "displacement_interpolation": {"t": 0.5},
}
OF_ENDS = ("ots", *OPTIONS)
OPTIONS["neural_collapse"] = {"labels": torch.arange(6) % 2}


class Wrapper(torch.Tensor):
    """What users write: a tensor that holds another and passes every operation on to it."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=inner.device
        )

    def __init__(self, inner):
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        inner = tree_map(lambda t: t.inner if isinstance(t, cls) else t, (args, kwargs or {}))
        return tree_map(
            lambda t: cls(t) if isinstance(t, torch.Tensor) else t, operation(*inner[0], **inner[1])
        )


class Named(torch.Tensor):
    """A tensor with another name, whose values are its own."""


@contextlib.contextmanager
def freed(x):
    """Memory that was given back, as that of parameters spread by FSDP."""
    x = x.clone()
    x.untyped_storage().resize_(0)
    yield x


def kinds(mesh):
    """What makes a tensor of each kind, and whether its metrics are those of the plain one."""
    fakes, functionals = FakeTensorMode(), FunctionalTensorMode()

    @contextlib.contextmanager
    def fake(x):
        given = fakes.from_tensor(x)
        with fakes:
            yield given

    @contextlib.contextmanager
    def real_among_fakes(x):
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield x

    @contextlib.contextmanager
    def functional(x):
        with functionals:
            yield FunctionalTensor.to_functional(x)

    def made_by(make):
        return lambda x: contextlib.nullcontext(make(x))

    def spread(*placements):
        return made_by(lambda x: distribute_tensor(x, mesh, placements))

    return {
        "plain": made_by(lambda x: x),
        "named": made_by(lambda x: x.as_subclass(Named)),
        "parameter": made_by(torch.nn.Parameter),
        "lazily negated": made_by(lambda x: torch.complex(torch.zeros_like(x), -x).conj().imag),
        "lazily zero": made_by(lambda x: [x[0], *(x[1:-1] + 0), torch._efficientzerotensor(x[0].shape)]),
        "DTensor over tracks": spread(Shard(1)),
        "DTensor over features": spread(Shard(2)),
        "DTensor of copies": spread(Replicate()),
        "of a collective": made_by(lambda x: collectives.all_reduce(x, "sum", mesh)),
        "wrapper": made_by(Wrapper),
        "fake": fake,
        "real among fakes": real_among_fakes,
        "functional": functional,
        "meta": made_by(lambda x: x.to("meta")),
        "sparse": made_by(lambda x: x.to_sparse()),
        "nested": made_by(lambda x: torch.nested.nested_tensor(list(x))),
        "jagged": made_by(lambda x: torch.nested.nested_tensor(list(x), layout=torch.jagged)),
        "masked": made_by(lambda x: torch.masked.masked_tensor(x, torch.ones_like(x, dtype=torch.bool))),
        "freed": freed,
    }


def through(network):
    def measured(x):
        net = torch.nn.Sequential(*[torch.nn.Identity() for _ in range(3)])
        with network(net, layers="*") as found:
            net(x)
        return found.geometry if network is gf.watch else found.tracks

    return measured


def accumulated(x):
    tracks = gf.TrackAccumulator()
    for index in range(4):
        tracks.push(x[index])
    return tracks.geometry


def functions():
    """Every public function as one of tracks (n+1, m, d)."""
    found = [(name, getattr(gf, name)) for name in gf.__all__ if inspect.isfunction(getattr(gf, name))]
    found += [(f"reference.{name}", getattr(gf.reference, name)) for name in gf.reference.__all__]
    for name, function in found:
        stem = name.removeprefix("reference.")
        options = OPTIONS.get(stem, {})
        if stem in OF_ENDS:
            yield name, lambda x, f=function, o=options: f(x[0], x[-1], **o)
        else:
            yield name, functools.partial(function, **options)
    yield from (("watch", through(gf.watch)), ("record", through(gf.record)), ("accumulator", accumulated))


def values_of(result):
    """Return the floating-point tensors and numbers in a result."""
    parts = vars(result) if hasattr(result, "score") or hasattr(result, "soft_score") else result
    parts = {k: v for k, v in parts.items() if k != "record"} if isinstance(parts, dict) else parts
    leaves = [leaf for leaf in tree_leaves(parts) if isinstance(leaf, torch.Tensor | float)]
    return [leaf if isinstance(leaf, torch.Tensor) else torch.tensor(leaf) for leaf in leaves]


def held_by(value):
    value = value.inner if isinstance(value, Wrapper) else value
    return value.full_tensor() if isinstance(value, DTensor) else value


def outcome(function, x, expected):
    try:
        return compared(values_of(function(x)), expected)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"


def compared(found, expected):
    if any(value.is_meta or isinstance(value, FakeTensor | FunctionalTensor) for value in found):
        return "shapes" if [v.shape for v in found] == [v.shape for v in expected] else f"DIFFERENT: {found}"
    found = [held_by(value) for value in found]
    same = len(found) == len(expected) and all(
        a.layout == b.layout and torch.allclose(a, b, equal_nan=True)
        for a, b in zip(found, expected, strict=True)
    )
    return "same" if same else f"DIFFERENT: {found}"


def main():
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    x = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))
    x[-1] = 0
    every = dict(functions())
    expected = {name: values_of(function(x)) for name, function in every.items()}
    for kind, make in kinds(mesh).items():
        for name, function in every.items():
            if name.startswith("reference.") and kind in ("DTensor over features", "DTensor of copies"):
                continue  # plain torch, which takes a second for each
            if name == "record" and kind == "freed":
                continue  # torch's own clone crashes
            print(f"calls\t{kind}\t{name}", flush=True)
            with make(x) as given:
                got = outcome(function, given, expected[name])
            print(f"{kind}\t{name}\t{got}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
