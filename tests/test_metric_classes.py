# SPDX-License-Identifier: MIT
import inspect
import itertools
import logging
import math
import os
import socket
import subprocess
import sys
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn

import geodesic_fast
from geodesic_fast.integrations._training import TrainingWatch
from geodesic_fast.recording import watch

torchmetrics = pytest.importorskip("torchmetrics", reason="needs the package torchmetrics")

from geodesic_fast.integrations.torchmetrics import (  # noqa: E402
    LineShapeScore,
    OptimalTransportScore,
    StepProfile,
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


def test_steps_are_means_over_batches_of_those_tracks_that_have_the_number():
    parts = batches()
    parts[1][2, :2] = parts[1][1, :2]  # two steps of length zero
    metric, masked, streamed = StepProfile(3), StepProfile(3), StepProfile(steps=3)
    net = nn.Sequential(*(nn.Linear(6, 6) for _ in range(3)))
    for batch in parts:
        metric.update(batch)
        masked.update(list(batch), torch.arange(batch.shape[1]) > 0)
        with watch(net, "*", profile=True) as w:
            net(batch[0])
        streamed.update(w.profile)
    with watch(net, "*", profile=True) as w:
        net(torch.cat(parts, 1)[0])
    for got, x in ((metric, parts), (masked, [batch[:, 1:] for batch in parts])):
        x = torch.cat(x, 1).double()  # (n+1, m, d)
        v, cosine = x.diff(dim=0), torch.nn.functional.cosine_similarity
        moved = v.norm(dim=-1) > 0
        expected = {
            "length": v.norm(dim=-1).mean(1),
            "relative_length": (v.norm(dim=-1) / x[:-1].norm(dim=-1)).mean(1),
            "state_cosine": cosine(x[:-1], x[1:], dim=-1).mean(1),
            "update_cosine": cosine(v, x[:-1], dim=-1).where(moved, torch.nan).nanmean(1),
            "turning_cosine": cosine(v[:-1], v[1:], dim=-1)
            .where(moved[1:] & moved[:-1], torch.nan)
            .nanmean(1),
        }
        computed = got.compute()
        assert list(computed) == list(expected)
        for name, values in computed.items():
            torch.testing.assert_close(values, expected[name], rtol=1e-6, atol=1e-7)
    for name, values in streamed.compute().items():
        torch.testing.assert_close(values, getattr(w.profile.mean, name), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="tracks must have 3 steps, as steps= says, got 2"):
        metric.update(parts[0][:3])
    with pytest.raises(ValueError, match=r"mask must have one value per track, shape \(5,\)"):
        metric.update(parts[0], torch.ones(4))
    metric.reset()
    assert all(values.isnan().all() for values in metric.compute().values())


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


CLASSES = (LineShapeScore, TrackGeometry, OptimalTransportScore)
OTHERS = {"dim": (0, 1), "zero_step": ("skip", "keep"), "undefined": ("propagate", "skip")}


def agreeing_batch() -> torch.Tensor:
    """Square tracks on which every choice of every argument gives the same numbers."""
    half = torch.randn(4, 4, 6, generator=torch.Generator().manual_seed(1))
    return half + half.transpose(0, 1)


def telling_batch() -> torch.Tensor:
    """Square tracks on which no two choices agree: a step of zero, a track of NaN, no symmetry."""
    tracks = torch.randn(4, 4, 6, generator=torch.Generator().manual_seed(2))
    tracks[1, 1] = tracks[2, 1]
    tracks[2, 2] = tracks[2, 3]
    tracks[0, 0] = torch.nan
    return tracks


def variants() -> dict[str, torchmetrics.Metric]:
    """Every class with every choice of each of its own arguments, and a class of the user's own."""

    class OnlyStraight(LineShapeScore):
        def update(self, tracks, mask=None):
            super().update(tracks[:, tracks[0, :, 0] > -1e9][:, :3])

    found: dict[str, torchmetrics.Metric] = {"own": OnlyStraight()}
    for cls in CLASSES:
        arguments = set(inspect.signature(cls.__init__).parameters) - {"self", "kwargs"}
        if issubclass(cls, TrackGeometry):
            arguments |= set(inspect.signature(TrackGeometry.__init__).parameters) - {"self", "kwargs"}
        assert arguments <= set(OTHERS), "an argument without two choices in this test"
        for choice in itertools.product(*(OTHERS[name] for name in sorted(arguments))):
            chosen = dict(zip(sorted(arguments), choice, strict=True))
            found[f"{cls.__name__} {chosen}"] = cls(**chosen)
    return found


def values_of(metric) -> list[float]:
    computed = metric.compute()
    return [value.item() for value in (computed.values() if isinstance(computed, dict) else [computed])]


def test_no_metric_shares_states_with_an_unlike_one():
    alone, together = variants(), torchmetrics.MetricCollection(variants())
    again = torchmetrics.MetricCollection({"one": LineShapeScore(), "two": LineShapeScore()})
    for batch in (agreeing_batch(), telling_batch()):
        together.update(batch)
        again.update(batch)
        for name, metric in alone.items():
            metric.update(batch.nan_to_num(3.0) if "Optimal" in name else batch)
    together = {name: values_of(metric) for name, metric in together.items() if "Optimal" not in name}
    for name, values in together.items():
        assert values == pytest.approx(values_of(alone[name]), rel=1e-12, nan_ok=True), name
    told = [tuple(map(repr, values)) for name, values in together.items() if "LineShapeScore" in name]
    assert len(set(told)) > 4  # the batch does tell the choices apart
    assert len(again.compute_groups) == 1  # like ones still share


def test_states_of_unlike_metrics_are_not_added_up():
    one, other = LineShapeScore(zero_step="keep"), LineShapeScore()
    for metric in (one, other):
        metric.update(agreeing_batch())
    with pytest.raises(ValueError, match="zero_step='skip'"):
        other.merge_state(one)
    like = LineShapeScore()
    like.update(telling_batch().nan_to_num())
    other.merge_state(like)
    expected = torch.cat([agreeing_batch(), telling_batch().nan_to_num()], 1)
    assert other.compute().item() == pytest.approx(geodesic_fast.lss(expected).double().mean().item())


@pytest.mark.parametrize(
    "convert",
    [
        lambda module: module.to(torch.bfloat16),
        lambda module: module.bfloat16(),
        lambda module: module.half(),
        lambda module: module.to("cpu", torch.float16),
        lambda module: [metric.set_dtype(torch.float16) for metric in module.metrics],
        lambda module: module.to(torch.bfloat16).to(torch.float32),
    ],
    ids=["to", "bfloat16", "half", "device and dtype", "set_dtype", "back"],
)
def test_states_keep_their_precision_whatever_the_module_becomes(convert):
    module = nn.Module()
    module.layer, module.metrics = nn.Linear(2, 2), nn.ModuleList(cls() for cls in CLASSES)
    plain = [cls() for cls in CLASSES]
    first, *rest = batches()
    for metric in (*module.metrics, *plain):
        metric.update(first)
    convert(module)
    for batch in rest:
        for metric in (*module.metrics, *plain):
            metric.update(batch)
    for metric, expected in zip(module.metrics, plain, strict=True):
        assert values_of(metric) == values_of(expected), type(metric).__name__
        metric.reset()
        metric.update(first)
        expected.reset()
        expected.update(first)
        assert values_of(metric) == values_of(expected), type(metric).__name__


def test_lightning_in_bf16_true_logs_the_mean_of_all_tracks(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch", reason="needs the package lightning")
    seen: list[torch.Tensor] = []

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(*(nn.Linear(6, 6) for _ in range(3)))
            self.line = LineShapeScore()

        def training_step(self, batch, index):
            states = [batch[0]]
            for layer in self.net:
                states.append(layer(states[-1]))
            self.line.update(states)
            seen.append(geodesic_fast.lss([state.detach() for state in states]))
            return states[-1].square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    module = Module()
    data = torch.utils.data.TensorDataset(torch.randn(400, 6))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = lightning.Trainer(
        max_epochs=1, precision="bf16-true", logger=False, accelerator="cpu", enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=16))
    assert module.net[0].weight.dtype == torch.bfloat16
    assert module.line.compute().dtype == torch.float64
    assert module.line.compute().item() == pytest.approx(torch.cat(seen).double().mean().item(), rel=1e-12)


def test_batches_without_points_add_none():
    empty, full = torch.randn(4, 0, 6), batches()[0]
    for cls in CLASSES:
        metric, expected = cls(), cls()
        metric.update(empty)
        metric.update(full, mask=torch.zeros(5, dtype=torch.bool))
        assert all(map(math.isnan, values_of(metric))), cls.__name__
        metric.update(full)
        metric(empty)
        expected.update(full)
        assert values_of(metric) == values_of(expected), cls.__name__
    of_pairs = OptimalTransportScore()
    of_pairs.update(torch.randn(0, 6), torch.randn(0, 6))
    assert of_pairs.compute().isnan()
    with pytest.raises(ValueError, match="same number of points"):
        of_pairs.update(torch.randn(0, 6), torch.randn(3, 6))


def test_transport_score_of_points_of_several_widths_is_refused():
    wide, narrow = torch.randn(2, 8, 8), torch.randn(2, 8, 4)
    metric = OptimalTransportScore()
    metric.update(wide)
    with pytest.raises(ValueError, match="same width in all batches"):
        metric.update(narrow)
    assert metric.compute().item() == geodesic_fast.ots(wide).score
    metric(narrow)  # the value of this batch is right, and there is none of both together
    with pytest.raises(ValueError, match="same width in all batches"):
        metric.compute()
    metric.reset()
    metric.update(narrow)
    assert metric.compute().item() == geodesic_fast.ots(narrow).score


def test_points_are_kept_as_they_were():
    tracks = batches()[0]
    metric, expected = OptimalTransportScore(), geodesic_fast.ots(tracks).score
    metric.update(tracks)
    held = sum(points.untyped_storage().nbytes() for points in (*metric.x, *metric.y))
    assert held == 2 * tracks[0].nbytes
    tracks[-1] = tracks[-1].flip(0)
    assert metric.compute().item() == expected


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
    steps = StepProfile(3)
    for batch in batches()[rank::2]:
        steps.update(batch)
    for value, expected in zip(steps.compute().values(), geodesic_fast.step_geometry(together), strict=True):
        torch.testing.assert_close(value, expected.double().mean(1), rtol=1e-6, atol=1e-9)
    one_sided = OptimalTransportScore()
    if rank == 0:
        one_sided.update(together)
    assert one_sided.compute().item() == geodesic_fast.ots(together).score
    mixed = OptimalTransportScore()
    mixed.update(together[..., : 6 - rank])
    with pytest.raises(ValueError, match="same width in all batches and processes"):
        mixed.compute()
    of_a_training_step(rank, parallel, net)
    dist.destroy_process_group()


def of_a_training_step(rank: int, parallel: nn.Module, net: nn.Module) -> None:
    """A callback logs the mean over the tracks of both processes; if one lacks layers, neither waits."""
    training = TrainingWatch("*", every_n_steps=1, batches=1, options={"profile": True})
    training.start(parallel, compiled=False)
    training.before_batch(0)
    parallel(batches()[rank][0])
    logged = training.after_batch()
    with watch(net, "*", profile=True) as w:
        net(torch.cat(batches()[:2], 1)[0])
    assert logged["geodesic/1/turning_cosine"] == pytest.approx(
        w.profile.mean.turning_cosine[1].item(), rel=1e-4
    )
    assert logged["geodesic/lss"] == pytest.approx(w.geometry.lss.double().mean().item(), rel=1e-6)
    training.before_batch(1)
    if rank == 0:
        net(batches()[0][0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert training.after_batch() is None


def test_two_processes_give_the_value_of_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__]
    running = [subprocess.Popen([*command, str(rank), str(port)]) for rank in range(2)]
    try:
        assert [process.wait(timeout=240) for process in running] == [0, 0]
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
    os._exit(0)  # a thread of gloo that still drops a Python object aborts an interpreter that ends
