# SPDX-License-Identifier: MIT
"""A benchmark of every public function that measures, beside its rivals: `make bench`.

Tracks, rivals and checks are those of the tables (`bench_<stem>.py`). Answers are checked, then timed.
A room is a function: it returns its ways by name, "ours" among them. Those that end in ", backward" are
forward and backward together and make a group of their own.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import bench_chord_deviation
import bench_geodesic_bound
import bench_geodesic_gap
import bench_line_deviation
import bench_lss
import bench_nearest_track
import bench_ots
import bench_step_geometry
import bench_track_distance
import bench_wasserstein_curve
import numpy as np
import ots_problems
import pytest
import torch
from torch import Tensor, nn
from tracks import backward_of, make_tracks

import geodesic_fast as gf

Size = tuple[int, int, int]  # points, tracks, features
Ways = dict[str, Callable[[], Any]]
PACKAGES = {"POT": "ot", "lapjvs": "lap", "lapjvr, batch": "lap", "geomloss": "geomloss"}
SIZES: dict[str, tuple[Size, Size]] = {  # usual, quick
    "tracks": ((33, 2048, 256), (13, 256, 64)),
    "pairs": ((13, 1000, 64), (9, 150, 7)),
}
ROOMS: dict[str, tuple[str, tuple[str, ...], Callable[[Size], Ways]]] = {}


def room(kind: str, *rivals: str) -> Callable[[Callable[[Size], Ways]], Callable[[Size], Ways]]:
    """Enter a function that builds a room, with the names of what it compares."""

    def enter(build: Callable[[Size], Ways]) -> Callable[[Size], Ways]:
        ROOMS[build.__name__] = kind, ("ours", *rivals), build
        return build

    return enter


@functools.lru_cache(maxsize=1)  # the ways of one room follow each other
def built(name: str, size: Size) -> Ways:
    torch.manual_seed(0)
    return ROOMS[name][2](size)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = [
        pytest.param(name, way, size, id=f"{name}, {way}, {'x'.join(map(str, size))}")
        for name, (kind, ways, _) in ROOMS.items()
        for size in [SIZES[kind][metafunc.config.getoption("quick")]]
        for way in ways
    ]
    metafunc.parametrize(("name", "way", "size"), cases)


def test_speed(benchmark: Any, name: str, way: str, size: Size) -> None:
    if way in PACKAGES:
        pytest.importorskip(PACKAGES[way], reason=f"the rival {way} is not installed")
    benchmark.group = f"{name}, forward and backward" if way.endswith(", backward") else name
    benchmark(built(name, size)[way])


def standing(size: Size) -> Tensor:
    return make_tracks(("layer-major", torch.float32, *size), "cpu")


def both(ours: Callable[[Any], Any], eager: Callable[[Any], Any], x: Tensor) -> Ways:
    """Return forward alone, and forward and backward together."""
    return {
        "ours": lambda: ours(x), "eager": lambda: eager(x),
        "ours, backward": backward_of(ours, x), "eager, backward": backward_of(eager, x),
    }  # fmt: skip


BOTH = ("eager", "ours, backward", "eager, backward")


@room("tracks", *BOTH, "loop")
def lss(size: Size) -> Ways:
    x = standing(size)
    bench_lss.check(x)
    return both(gf.lss, bench_lss.eager, x) | {"loop": lambda: bench_lss.loop(list(x))}


@room("tracks", "loop")
def lss_shuffled(size: Size) -> Ways:
    x = standing(size)
    torch.testing.assert_close(gf.lss_shuffled(x), gf.reference.lss_shuffled(x), rtol=1e-4, atol=0)

    def loop() -> Tensor:
        orders = [torch.randperm(len(x)) for _ in range(8)]
        return torch.stack([bench_lss.eager(x[order]) for order in orders]).mean(0)

    return {"ours": lambda: gf.lss_shuffled(x), "loop": loop}


@room("tracks", "definition")
def track_geometry(size: Size) -> Ways:
    x = standing(size)
    for got, expected in zip(gf.track_geometry(x), gf.reference.track_geometry(x.double()), strict=True):
        torch.testing.assert_close(got.double(), expected.double(), rtol=1e-4, atol=1e-4)
    return {"ours": lambda: gf.track_geometry(x), "definition": lambda: gf.reference.track_geometry(x)}


@room("tracks", "eager", "m x m")
def step_geometry(size: Size) -> Ways:
    x = standing(size)
    for got, expected in zip(gf.step_geometry(x), bench_step_geometry.eager(x.double()), strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)
    return {
        "ours": lambda: gf.step_geometry(x), "eager": lambda: bench_step_geometry.eager(x),
        "m x m": lambda: bench_step_geometry.influence_by_matrix(x),
    }  # fmt: skip


def eager_collapse(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Write within over between and the error of the nearest mean in torch, all layers at once."""
    member = nn.functional.one_hot(labels).to(x.dtype)  # (m, classes)
    count = member.sum(0)
    mean = (member.T @ x) / count[:, None]  # (n+1, classes, d)
    within = (x - mean[:, labels]).square().sum((1, 2))
    between = ((mean - x.mean(1, keepdim=True)).square().sum(-1) * count).sum(-1)
    return within / between, (torch.cdist(x, mean).argmin(-1) != labels).to(x.dtype).mean(-1)


@room("tracks", "eager")
def neural_collapse(size: Size) -> Ways:
    labels = torch.arange(size[1]) % 10
    x = standing(size) + torch.randn(10, size[2])[labels]
    for got, expected in zip(
        gf.neural_collapse(x, labels=labels), eager_collapse(x.double(), labels), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)
    return {
        "ours": lambda: gf.neural_collapse(x, labels=labels), "eager": lambda: eager_collapse(x, labels),
    }  # fmt: skip


@room("tracks", *BOTH)
def line_deviation(size: Size) -> Ways:
    x = standing(size)
    bench_line_deviation.check(x)
    return both(gf.line_deviation, bench_line_deviation.eager, x)


@room("tracks", *BOTH)
def chord_deviation(size: Size) -> Ways:
    x = standing(size)
    truth = bench_chord_deviation.eager(x.double())
    torch.testing.assert_close(gf.chord_deviation(x).double(), truth, rtol=1e-5, atol=1e-5)
    return both(gf.chord_deviation, bench_chord_deviation.eager, x)


@room("tracks", *BOTH)
def action(size: Size) -> Ways:
    x = standing(size)
    torch.testing.assert_close(gf.action(x), bench_geodesic_gap.eager_action(x), rtol=1e-5, atol=0)
    return both(gf.action, bench_geodesic_gap.eager_action, x)


class Network(nn.Module):
    """A residual network, of which the states are wanted."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def by_hooks(network: Network, points: Tensor) -> Tensor:
    """Score the states as one gathers them with hooks and writes it in torch."""
    states = [points]
    hooks = [b.register_forward_hook(lambda _, __, out: states.append(out)) for b in network.blocks]
    network(points)
    for hook in hooks:
        hook.remove()
    return bench_lss.eager(torch.stack(states))


def recording(size: Size, ours: Callable[[Network, Tensor], Tensor]) -> Ways:
    network, points = Network(size[0] - 1, size[2]).requires_grad_(False), torch.randn(size[1:])
    torch.testing.assert_close(ours(network, points), by_hooks(network, points)[...], rtol=1e-4, atol=1e-4)
    return {
        "ours": lambda: ours(network, points),
        "hooks, eager": lambda: by_hooks(network, points),
        "pass alone": lambda: network(points),
    }


@room("tracks", "hooks, eager", "pass alone")
def record(size: Size) -> Ways:
    def ours(network: Network, points: Tensor) -> Tensor:
        with gf.record(network, layers="blocks.*") as recording:
            network(points)
        return gf.lss(recording.tracks)

    return recording(size, ours)


@room("tracks", "hooks, eager", "pass alone")
def watch(size: Size) -> Ways:
    def ours(network: Network, points: Tensor) -> Tensor:
        with gf.watch(network, layers="blocks.*") as watched:
            network(points)
        return watched.geometry.lss

    return recording(size, ours)


@room("tracks", "eager")
def TrackAccumulator(size: Size) -> Ways:
    layers = list(standing(size))

    def ours() -> Tensor:
        accumulator = gf.TrackAccumulator(copy=False)
        for layer in layers:
            accumulator.push(layer)
        return accumulator.close().lss

    torch.testing.assert_close(ours(), bench_lss.loop(layers), rtol=1e-5, atol=0)
    return {"ours": ours, "eager": lambda: bench_lss.loop(layers)}


@room("pairs", "loop")
def track_distance(size: Size) -> Ways:
    x = standing(size)
    bench_track_distance.check(x)
    return {"ours": lambda: gf.track_distance(x), "loop": lambda: bench_track_distance.loop(x)}


@room("pairs", "blocks")
def nearest_track(size: Size) -> Ways:
    x = standing(size)
    bench_nearest_track.check(x, None)
    return {"ours": lambda: gf.nearest_track(x), "blocks": lambda: bench_nearest_track.blocks(x, None)}


@room("pairs", "eager")
def geodesic_bound(size: Size) -> Ways:
    x = standing(size).cumsum(0)
    bench_geodesic_bound.check(x)
    return {"ours": lambda: gf.geodesic_bound(x), "eager": lambda: bench_geodesic_bound.eager_bound(x)}


@room("pairs", "eager")
def geodesic_bound_summary(size: Size) -> Ways:
    x = standing(size).cumsum(0)
    bench_geodesic_bound.check(x)
    return {
        "ours": lambda: gf.geodesic_bound_summary(x), "eager": lambda: bench_geodesic_bound.eager_summary(x)
    }  # fmt: skip


def ends(size: Size, family: str = "half scrambled") -> tuple[Any, Any, Tensor, Tensor]:
    x, y = ots_problems.make(family, size[1], size[2])
    return x, y, torch.from_numpy(x), torch.from_numpy(y)


BATCH = 32  # problems, each of an eighth of the points


@room("pairs", "SciPy", "lapjvs", "POT", "ours, batch", "SciPy, batch", "lapjvr, batch")
def ots(size: Size) -> Ways:
    x, y, a, b = ends(size)
    bench_ots.check("half scrambled", x, y, gf.ots(a, b))
    best = bench_ots.objective(x, y, bench_ots.by_scipy(x, y))
    assert math.isclose(gf.ots(a, b).optimal_cost, best, rel_tol=bench_ots.OBJECTIVE_TOLERANCE)
    made = [ots_problems.make("half scrambled", size[1] // 8, size[2], seed) for seed in range(BATCH)]
    many = [torch.from_numpy(np.stack(side)) for side in zip(*made, strict=True)]
    bests = [bench_ots.objective(*problem, bench_ots.by_scipy(*problem)) for problem in made]
    found = gf.ots(*many, batch_dims=1).optimal_cost.tolist()
    assert np.allclose(found, bests, rtol=bench_ots.OBJECTIVE_TOLERANCE, atol=0)
    return {
        "ours, batch": lambda: gf.ots(*many, batch_dims=1),
        "SciPy, batch": lambda: [bench_ots.by_scipy(*problem) for problem in made],
        "lapjvr, batch": lambda: [bench_ots.by_lapjvr(*problem) for problem in made],
        "ours": lambda: gf.ots(a, b), "SciPy": lambda: bench_ots.by_scipy(x, y),
        "lapjvs": lambda: bench_ots.by_lapjvs(x, y), "POT": lambda: bench_ots.by_pot(x, y),
    }  # fmt: skip


@room("pairs", "SciPy")
def ots_curve(size: Size) -> Ways:
    x, y, a, b = ends(size)
    sizes = [size[1] // 4, size[1]]

    def by_scipy() -> float:
        """Score one subset of each size, where ours scores four and one."""
        found = [bench_ots.by_scipy(x[:k], y[:k]) == range(k) for k in sizes]
        return found[-1].mean()

    assert math.isclose(gf.ots_curve(a, b, sizes).mean[-1].item(), by_scipy(), abs_tol=1e-9)
    return {"ours": lambda: gf.ots_curve(a, b, sizes, subsets=1), "SciPy": by_scipy}


@room("pairs", "geomloss")
def soft_ots(size: Size) -> Ways:
    _, _, a, b = ends(size, "residual")
    blur = 2.0
    exact = gf.reference.soft_ots(a, b, blur=blur, iterations=500)
    for backend in ("tiles", *(["geomloss"] if has_geomloss() else [])):
        assert math.isclose(
            gf.soft_ots(a, b, blur=blur, backend=backend, tolerance=1e-4).soft_score, exact, rel_tol=5e-3
        )
    return {
        "ours": lambda: gf.soft_ots(a, b, blur=blur),
        "geomloss": lambda: gf.soft_ots(a, b, blur=blur, backend="geomloss"),
    }


def has_geomloss() -> bool:
    try:
        import geomloss  # noqa: F401
        import pykeops  # noqa: F401
    except ImportError:
        return False
    return True


@room("pairs", "SciPy")
def displacement_interpolation(size: Size) -> Ways:
    x, y, a, b = ends(size)
    times = torch.linspace(0, 1, size[0])

    def by_scipy() -> Tensor:
        images = b[torch.from_numpy(bench_ots.by_scipy(x, y))]
        return torch.lerp(a, images, times[:, None, None])

    torch.testing.assert_close(gf.displacement_interpolation(a, b, times), by_scipy(), rtol=1e-5, atol=1e-5)
    return {"ours": lambda: gf.displacement_interpolation(a, b, times), "SciPy": by_scipy}


@room("pairs", "POT")
def geodesic_gap(size: Size) -> Ways:
    x = bench_geodesic_gap.make_tracks("half scrambled", *size, "cpu")
    found = gf.geodesic_gap(x)
    exact = gf.reference.geodesic_gap(x)
    assert found.certified
    assert math.isclose(found.gap.item(), exact.gap.item(), rel_tol=1e-5)
    return {"ours": lambda: gf.geodesic_gap(x), "POT": lambda: bench_geodesic_gap.eager_gap(x)}


@room("pairs", "POT")
def wasserstein_curve(size: Size) -> Ways:
    x = bench_wasserstein_curve.make_tracks("residual", *size, "cpu")
    found = gf.wasserstein_curve(x)
    assert found.certified
    distances = [math.sqrt(gf.reference.ots(a, b).optimal_cost) for a, b in itertools.pairwise(x)]
    ratio = sum(distances) / math.sqrt(gf.reference.ots(x[0], x[-1]).optimal_cost)
    assert math.isclose(found.ratio.item(), ratio, rel_tol=1e-6)
    return {"ours": lambda: gf.wasserstein_curve(x), "POT": lambda: bench_wasserstein_curve.pot_ratio(x)}
