# SPDX-License-Identifier: MIT
import logging
import warnings

import pytest
import torch
from torch import nn
from trained_networks import FIELDS, Net, hook_count, same_weights

import geodesic_fast
from geodesic_fast.integrations._training import TrainingWatch
from geodesic_fast.recording import record
from geodesic_fast.recording.mistakes import layers_not_seen

pytestmark = pytest.mark.usefixtures("one_thread")  # tiny networks: more threads only wait for each other


def train_lightning(
    tmp_path,
    every: int | None = None,
    net=None,
    batches=1,
    stop_at=None,
    stop=KeyError,
    trainer=None,
    **options,
):
    """Train a small module; return it, its logged metrics as (step, values), and the trainer."""
    lightning = pytest.importorskip("lightning.pytorch", reason="needs the package lightning")
    from lightning.pytorch.loggers.logger import Logger

    from geodesic_fast.integrations.lightning import GeodesicCallback

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net() if net is None else net

        def training_step(self, batch, index):
            if index == stop_at:
                raise stop("stop")
            return self.net(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    class Lines(Logger):
        name, version = "lines", 0

        def __init__(self):
            super().__init__()
            self.lines = []

        def log_metrics(self, metrics, step=None):
            self.lines.append((step, metrics))

        def log_hyperparams(self, *args, **kwargs):
            pass

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    module, logger = Module(), Lines()
    data = torch.utils.data.TensorDataset(torch.randn(48, 8))
    callbacks = [GeodesicCallback(every_n_steps=every, batches=batches, **options)] if every else []
    arguments = trainer or {}
    trainer = lightning.Trainer(
        max_epochs=2, callbacks=callbacks, logger=logger, accelerator="cpu", enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        **arguments,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=8, shuffle=True))
    return module, [(step, m) for step, m in logger.lines if any("geodesic/" in k for k in m)], trainer


def test_lightning_logs_every_k_steps_and_changes_nothing(tmp_path):
    plain, logged, _ = train_lightning(tmp_path)
    assert logged == []
    watched, logged, trainer = train_lightning(tmp_path, every=5)
    assert same_weights(plain, watched)
    assert [step for step, _ in logged] == [1, 6, 11]
    assert all(set(values) == FIELDS for _, values in logged)
    assert trainer.callback_metrics["geodesic/lss"] == pytest.approx(logged[-1][1]["geodesic/lss"])
    assert hook_count(watched) == 0


def test_lightning_values_are_those_of_the_batches(tmp_path):
    seen = []

    class Remembering(Net):
        def forward(self, x):
            with record(self) as recording:
                y = Net.forward(self, x)
            seen.append(geodesic_fast.lss(recording.tracks))
            return y

    _, logged, _ = train_lightning(tmp_path, every=100, batches=3, net=Remembering(), layers="net.blocks.*")
    assert [step for step, _ in logged] == [3]
    assert logged[0][1]["geodesic/lss"] == pytest.approx(torch.cat(seen[:3]).double().mean().item(), rel=1e-6)


@pytest.mark.parametrize("place", ["step", "layer"])
@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_lightning_hooks_leave_after_an_error(tmp_path, error, place):
    class Ending(Net):
        calls = 0

        def forward(self, x):
            self.calls += 1
            x = self.blocks[0](x)
            if place == "layer" and self.calls == 3:
                raise error("stop")
            return super().forward(x)

    net = Ending() if place == "layer" else Net()
    with pytest.raises((error, SystemExit)):
        train_lightning(tmp_path, every=1, net=net, stop_at=2, stop=error, missing="skip", repeats="append")
    assert hook_count(net) == 0


@pytest.mark.parametrize(("accumulate", "every", "due"), [(1, 5, [0, 5, 10]), (3, 2, [0, 6]), (4, 2, [0, 6])])
def test_lightning_measures_once_per_optimizer_step(tmp_path, accumulate, every, due):
    """12 batches in two epochs: the values are those of the first batch of every `every`-th step."""
    seen = []

    class Remembering(Net):
        def forward(self, x):
            with record(self) as recording:
                y = super().forward(x)
            seen.append(geodesic_fast.lss(recording.tracks).double().mean().item())
            return y

    arguments = {"accumulate_grad_batches": accumulate}
    _, logged, _ = train_lightning(tmp_path, every=every, net=Remembering(), trainer=arguments)
    assert len(seen) == 12
    logged = [values["geodesic/lss"] for _, values in logged]
    assert logged == pytest.approx([seen[index] for index in due], rel=1e-6)


def profile_of(states) -> dict[str, float]:
    """What is logged of each step of the tracks (n+1, m, d) of `blocks.0` to `blocks.<n-1>`."""
    steps = geodesic_fast.reference.step_geometry(torch.stack(list(states)).double())
    return {
        f"{layer}/{field}": value
        for field, rows in zip(steps._fields, steps, strict=True)
        for layer, value in enumerate(rows.nanmean(1).tolist())
    }


def test_lightning_logs_the_profile_of_the_steps(tmp_path):
    seen = []

    class Remembering(Net):
        def forward(self, x):
            with record(self) as recording:
                y = Net.forward(self, x)
            seen.append(profile_of(recording.tracks))
            return y

    _, logged, _ = train_lightning(tmp_path, every=5, net=Remembering(), profile=True)
    assert len(logged) == 3
    for (_, values), expected in zip(logged, seen[::5], strict=True):
        steps = {name: value for name, value in values.items() if name not in FIELDS}
        assert steps.keys() == {f"geodesic/net.blocks.{name}" for name in expected}
        for name, value in expected.items():
            assert steps[f"geodesic/net.blocks.{name}"] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def measured_steps(every: int, steps) -> list[int]:
    net, found = Net(), []
    training = TrainingWatch("blocks.*", every, 1, {})
    training.start(net, compiled=False)
    for step in steps:
        training.before_batch(step)
        net(torch.randn(3, 8)).sum().backward()
        if training.after_batch() is not None:
            found.append(step)
    return found


def test_steps_that_count_by_more_than_one_are_measured_as_often():
    """Lightning counts a step for each of several optimizers; a run goes on from a checkpoint anywhere."""
    assert measured_steps(10, range(0, 60, 3)) == [0, 12, 21, 30, 42, 51]
    assert measured_steps(10, range(7, 35)) == [7, 10, 20, 30]
    assert measured_steps(2, [step for step in range(6) for _ in range(4)]) == [0, 2, 4]


def test_what_is_measured_is_the_first_pass_in_training_mode_with_gradients():
    net, x = Net(), torch.randn(3, 8)
    training = TrainingWatch("blocks.*", 1, 1, {})
    training.start(net, compiled=False)
    training.before_batch(0)
    with torch.no_grad():
        net(x)  # the reference model of a preference loss
    net.eval()(x)  # an evaluation, with gradients
    net.train()
    assert hook_count(net) > 0
    with record(net, "blocks.*") as recording:
        net(2 * x).sum().backward()
    assert hook_count(net) == 0  # they leave when the pass ends, not with the batch
    net(5 * x)
    logged = training.after_batch()["geodesic/lss"]
    assert logged == pytest.approx(geodesic_fast.lss(recording.tracks).double().mean().item(), rel=1e-6)


def test_layers_that_train_in_evaluation_mode_are_said_or_taken():
    for options, logs in (({}, False), ({"when": "always"}, True)):
        net = Net().eval()
        training = TrainingWatch("blocks.*", 1, 1, options)
        training.start(net, compiled=False)
        training.before_batch(0)
        net(torch.randn(3, 8))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert (training.after_batch() is not None) == logs
        assert ["when='always'" in str(one.message) for one in said] == ([] if logs else [True])


def test_what_was_not_seen_is_named():
    """Not "none of" a list that is empty."""
    assert "got none of blocks.0, blocks.1: nothing is logged" in layers_not_seen(["blocks.0", "blocks.1"])
    assert "got a step without a whole forward pass: nothing is logged" in layers_not_seen([])


def test_lightning_compiled_network(tmp_path):
    torch._dynamo.reset()
    net = Net()
    _, logged, _ = train_lightning(tmp_path, every=5, net=torch.compile(net, backend="eager"))
    assert [step for step, _ in logged] == [1, 6, 11]
    assert hook_count(net) == 0


def test_lightning_network_that_changes_its_width(tmp_path):
    net = nn.Sequential(*(nn.Linear(a, b) for a, b in [(8, 8), (8, 8), (8, 4), (4, 4)]))
    _, logged, _ = train_lightning(tmp_path, every=100, net=net, layers="net.*")
    assert {name.rsplit("/", 1)[0] for name in logged[0][1]} == {"geodesic/net.0", "geodesic/net.2"}


def test_step_without_the_layers_is_reported_and_does_not_end_training(tmp_path):
    class Partly(Net):
        def forward(self, x):
            return self.blocks[1](self.blocks[0](x))

    with pytest.warns(RuntimeWarning, match=r"got none of net.blocks.2, net.blocks.3: nothing is logged"):
        _, logged, _ = train_lightning(tmp_path, every=100, net=Partly())
    assert logged == []
    _, logged, _ = train_lightning(tmp_path, every=100, net=Partly(), missing="skip")
    assert logged[0][1]["geodesic/lss"] >= 1


def test_says_what_is_wrong():
    pytest.importorskip("lightning.pytorch", reason="needs the package lightning")
    from geodesic_fast.integrations.lightning import GeodesicCallback

    with pytest.raises(ValueError, match="every_n_steps must be an int of at least 1, got 0"):
        GeodesicCallback(every_n_steps=0)
