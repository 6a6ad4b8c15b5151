# SPDX-License-Identifier: MIT
import socket
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn

import geodesic_fast
from geodesic_fast.recording import watch

torchmetrics = pytest.importorskip("torchmetrics", reason="needs the package torchmetrics")

from geodesic_fast.integrations.torchmetrics import (  # noqa: E402
    LineShapeScore,
    OptimalTransportScore,
    TrackGeometry,
)


def batches(sizes=(5, 3, 8, 2), points=4, width=6) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(points, size, width, generator=generator) for size in sizes]


def test_means_over_batches_of_unequal_size():
    line, geometry = LineShapeScore(), TrackGeometry()
    for batch in batches():
        line.update(batch)
        geometry.update(list(batch))
    together = geodesic_fast.track_geometry(torch.cat(batches(), 1).double())
    assert line.compute().item() == pytest.approx(together.lss.mean().item(), rel=1e-6)
    computed = geometry.compute()
    assert list(computed) == list(geodesic_fast.TrackGeometry._fields)
    for name, value in computed.items():
        assert value.item() == pytest.approx(getattr(together, name).double().mean().item(), rel=1e-6), name
    line.reset()
    assert line.compute().isnan()
    line.update(batches()[0])
    assert line.compute().item() == pytest.approx(together.lss[:5].mean().item(), rel=1e-6)


def test_transport_score_is_that_of_all_points_together():
    metric = OptimalTransportScore()
    for batch in batches():
        metric.update(batch[0], batch[-1])
    together = torch.cat(batches(), 1)
    expected = geodesic_fast.ots(together[0], together[-1]).score
    assert metric.compute().item() == expected
    assert 0 <= expected < 1
    one_by_one = [geodesic_fast.ots(batch[0], batch[-1]).score for batch in batches()]
    assert expected != pytest.approx(sum(one_by_one) / 4)
    metric.reset()
    metric.update(batches()[0])
    assert metric.compute().item() == one_by_one[0]


def test_masks_and_undefined_tracks():
    batch = torch.randn(4, 2, 5, 6)
    batch[1, 0, 3] = torch.nan
    mask = torch.ones(2, 5)
    mask[0, 3:] = 0
    expected = geodesic_fast.lss(batch)[mask.bool()].double().mean().item()
    line, transport = LineShapeScore(), OptimalTransportScore()
    line.update(batch, mask)
    transport.update(batch, mask=mask)
    assert line.compute().item() == expected
    assert (
        transport.compute().item() == geodesic_fast.ots(batch[0][mask.bool()], batch[-1][mask.bool()]).score
    )
    line.update(batch)
    assert line.compute().isnan()
    skipping = LineShapeScore(undefined="skip")
    skipping.update(batch)
    assert skipping.compute().item() == pytest.approx(geodesic_fast.lss(batch).nanmean().item(), rel=1e-6)


def test_takes_what_watch_measured():
    net = nn.Sequential(*(nn.Linear(6, 6) for _ in range(3)))
    metric = TrackGeometry()
    with watch(net, "*") as w:
        net(torch.randn(7, 6))
    metric.update(w.geometry)
    assert metric.compute()["lss"].item() == pytest.approx(w.geometry.lss.double().mean().item())


def test_collection_forward_and_plot():
    collection = torchmetrics.MetricCollection(
        {"line": LineShapeScore(), "geometry": TrackGeometry(), "transport": OptimalTransportScore()}
    )
    first, *rest = batches()
    of_batch = collection(first)
    assert of_batch["line"].item() == pytest.approx(geodesic_fast.lss(first).double().mean().item())
    for batch in rest:
        collection.update(batch)
    computed = collection.compute()
    together = torch.cat(batches(), 1)
    assert computed["line"].item() == pytest.approx(geodesic_fast.lss(together).double().mean().item())
    assert computed["transport"].item() == geodesic_fast.ots(together).score
    assert computed["action"].item() > 0
    matplotlib = pytest.importorskip("matplotlib", reason="needs the package matplotlib")
    matplotlib.use("Agg")
    for metric in (LineShapeScore(), OptimalTransportScore(), TrackGeometry()):
        metric.update(first)
        figure, _ = metric.plot()
        matplotlib.pyplot.close(figure)


def worker(rank: int, port: int) -> None:
    """One of two processes: unequal batches of its own, the values of all of them in the end."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(6, 6) for _ in range(3)))
    parallel = nn.parallel.DistributedDataParallel(net)
    metrics = LineShapeScore(), OptimalTransportScore(), TrackGeometry()
    for batch in batches()[rank::2]:
        for metric in metrics[:2]:
            metric.update(batch)
        with watch(parallel, "*") as w:
            parallel(batch[0])
        metrics[2].update(w.geometry)
    together = torch.cat(batches(), 1)
    with watch(net, "*") as w:
        net(together[0])
    assert metrics[0].compute().item() == pytest.approx(
        geodesic_fast.lss(together).double().mean().item(), rel=1e-12
    )
    assert metrics[1].compute().item() == geodesic_fast.ots(together).score
    for name, value in metrics[2].compute().items():
        expected = getattr(w.geometry, name).double().mean().item()
        assert value.item() == pytest.approx(expected, rel=1e-4), (
            name,
            value.item(),
            expected,
        )  # the layers round by batch size
    dist.destroy_process_group()


def test_two_processes_give_the_value_of_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__]
    running = [subprocess.Popen([*command, str(rank), str(port)]) for rank in range(2)]
    try:
        assert [process.wait(timeout=120) for process in running] == [0, 0]
    finally:
        for process in running:
            process.kill()


def test_says_what_is_wrong(monkeypatch):
    with pytest.raises(ValueError, match="undefined must be one of 'propagate', 'skip'"):
        LineShapeScore(undefined="zero")
    with pytest.raises(TypeError, match=r"tracks must be a torch\.Tensor"):
        LineShapeScore().update(3)
    with pytest.raises(ValueError, match=r"mask must have one value per track, shape \(5,\)"):
        LineShapeScore().update(batches()[0], torch.ones(4))
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.delitem(sys.modules, "geodesic_fast.integrations.torchmetrics")
    with pytest.raises(
        ImportError, match=r"a metric class needs the package torchmetrics.*geodesic-fast\[torchmetrics\]"
    ):
        import geodesic_fast.integrations.torchmetrics  # noqa: F401


if __name__ == "__main__":
    worker(int(sys.argv[1]), int(sys.argv[2]))
