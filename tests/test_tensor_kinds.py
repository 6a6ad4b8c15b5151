# SPDX-License-Identifier: MIT
"""Tensors whose values lie elsewhere: the right number, or a sentence, and never a crash."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from geodesic_fast import lss, ots, track_geometry

WALK = Path(__file__).with_name("tensor_kinds.py")
WHOLE = {"plain", "named", "parameter", "lazily negated", "lazily zero", "of a collective",
         "DTensor over tracks", "DTensor over features", "DTensor of copies"}  # fmt: skip
OF_LISTS = {"watch", "record"}  # a list is no state of a layer
BY_TORCH = {"geodesic_bound_summary", "record"}  # need values, which torch itself refuses to read


@pytest.fixture(scope="module")
def outcomes():
    done = subprocess.run([sys.executable, str(WALK)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout.splitlines()[-1:] + done.stderr.splitlines()[-5:]
    lines = [line.split("\t") for line in done.stdout.splitlines() if line.count("\t") == 2]
    return {(kind, name): got for kind, name, got in lines if kind != "calls"}


def test_every_function_on_every_kind_of_tensor(outcomes):
    assert len(outcomes) > 500
    for (kind, name), got in outcomes.items():
        assert not got.startswith("DIFFERENT") or (kind, name) == ("sparse", "record"), (kind, name, got)
        if name.startswith("reference."):
            continue
        if kind in WHOLE and not (kind == "lazily zero" and name in OF_LISTS):
            assert got == "same", (kind, name, got)
        elif got not in ("same", "shapes"):
            sentence = got.startswith(("TypeError: ", "ValueError: ")) and ", got " in got
            by_torch = name in BY_TORCH or kind == "freed" or (kind, name) == ("meta", "watch")
            assert sentence or by_torch or kind == "meta", (kind, name, got)


@pytest.mark.engine
def test_gradients_go_through_distributed_tensors():
    from torch.distributed._functional_collectives import all_reduce
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        x = torch.randn(4, 6, 5)
        leaf = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(lss(leaf).sum(), leaf)
        for axis in (1, 2):
            spread = distribute_tensor(x, mesh, [Shard(axis)]).requires_grad_()
            (found,) = torch.autograd.grad(lss(list(spread)).sum(), spread)
            torch.testing.assert_close(found.full_tensor(), expected)
        waited = all_reduce(x, "sum", mesh)
        assert type(waited) is not torch.Tensor
        waited.requires_grad_()
        (found,) = torch.autograd.grad(track_geometry(waited).lss.sum(), waited)
        torch.testing.assert_close(found, expected)
    finally:
        dist.destroy_process_group()


def test_transforms_of_what_searches_are_refused_in_a_sentence():
    x = torch.randn(3, 6, 5)
    for call in (
        lambda: torch.func.vmap(lambda x: ots(x, x + 1).score)(x),
        lambda: torch.func.grad(lambda x: ots(x, x).score)(x[0]),
    ):
        with pytest.raises(TypeError, match="x must be a tensor whose values lie in memory"):
            call()
