# SPDX-License-Identifier: MIT
import functools
import logging
import sys
import warnings

import pytest
import torch
from torch import nn

import geodesic_fast
from geodesic_fast.recording import record

FIELDS = {f"geodesic/{name}" for name in geodesic_fast.TrackGeometry._fields}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny networks: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.3)) for _ in range(4)
        )

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x


def train_lightning(tmp_path, every: int | None = None, net=None, batches=1, stop_at=None, **options):
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
                raise KeyError("stop")
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
    trainer = lightning.Trainer(
        max_epochs=2, callbacks=callbacks, logger=logger, accelerator="cpu", enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=8, shuffle=True))
    return module, [(step, m) for step, m in logger.lines if any("geodesic/" in k for k in m)], trainer


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    return all(map(torch.equal, a.parameters(), b.parameters()))


def hook_count(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


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


def test_lightning_hooks_leave_after_an_error(tmp_path):
    net = Net()
    with pytest.raises(KeyError, match="stop"):
        train_lightning(tmp_path, every=1, net=net, stop_at=2)
    assert hook_count(net) == 0


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


def remembering(model_class, seen):
    class Remembering(model_class):
        @functools.wraps(model_class.forward)
        def forward(self, *args, attention_mask=None, **kwargs):
            with record(self) as recording:
                output = super().forward(*args, attention_mask=attention_mask, **kwargs)
            geometry = geodesic_fast.track_geometry_reference(recording.tracks)
            seen.append(torch.stack([field[attention_mask.bool()].double() for field in geometry]))
            return output

    return Remembering


def train_hugging_face(tmp_path, every: int | None = None, batches=1, seen=None, **arguments):
    """Train a tiny GPT-2 with padding; return it and the lines of the log that hold geodesic values.

    `seen` takes the geometry of the real tokens of each pass, by the definition.
    """
    tiny = pytest.importorskip("tiny_transformers", reason="needs the package transformers")
    pytest.importorskip("accelerate", reason="the Hugging Face Trainer needs the package accelerate")
    from geodesic_fast.integrations.hugging_face_trainer import GeodesicCallback

    class Sentences(torch.utils.data.Dataset):
        def __len__(self):
            return 24

        def __getitem__(self, index):
            ids = torch.randint(1, tiny.VOCABULARY, (6,), generator=torch.Generator().manual_seed(index))
            mask = (torch.arange(6) < 3 + index % 4).long()
            return {"input_ids": ids, "attention_mask": mask, "labels": ids.where(mask.bool(), -100)}

    options = {
        "per_device_train_batch_size": 4, "max_steps": 6, "disable_tqdm": True, "use_cpu": True,
        "report_to": [], "save_strategy": "no", "logging_steps": 1000, "seed": 0,
    }  # fmt: skip
    training = tiny.transformers.TrainingArguments(output_dir=str(tmp_path), **{**options, **arguments})
    model = tiny.gpt2()
    if seen is not None:
        model.__class__ = remembering(type(model), seen)
    trainer = tiny.transformers.Trainer(model=model, args=training, train_dataset=Sentences())
    if every:
        trainer.add_callback(GeodesicCallback(trainer, every_n_steps=every, batches=batches))
    trainer.train()
    return model, [line for line in trainer.state.log_history if "geodesic/lss" in line]


def test_hugging_face_trainer_logs_every_k_steps_and_changes_nothing(tmp_path):
    plain, logged = train_hugging_face(tmp_path)
    assert logged == []
    watched, logged = train_hugging_face(tmp_path, every=4)
    assert same_weights(plain, watched)
    assert [line["step"] for line in logged] == [1, 5]
    assert set(logged[0]) >= FIELDS
    assert 1 <= logged[0]["geodesic/lss"] <= 3
    assert hook_count(watched) == 0


@pytest.mark.parametrize(
    ("batches", "accumulate", "lines"),
    [(1, 1, {1: [0], 5: [4]}), (3, 1, {3: [0, 1, 2]}), (3, 2, {2: [0, 1, 2], 6: [8, 9, 10]})],
)
def test_hugging_face_trainer_values_are_those_of_the_batches(tmp_path, batches, accumulate, lines):
    seen = []
    _, logged = train_hugging_face(
        tmp_path, every=4, batches=batches, seen=seen, gradient_accumulation_steps=accumulate
    )
    assert len(seen) == 6 * accumulate
    assert [line["step"] for line in logged] == list(lines)
    for line, passes in zip(logged, lines.values(), strict=True):
        means = torch.cat([seen[index] for index in passes], 1).mean(1)  # (fields)
        for name, mean in zip(geodesic_fast.TrackGeometry._fields, means.tolist(), strict=True):
            assert line[f"geodesic/{name}"] == pytest.approx(mean, rel=1e-5, abs=1e-6), name


def test_hugging_face_trainer_with_accumulation_checkpointing_and_bf16(tmp_path):
    accumulate = {
        "gradient_accumulation_steps": 2,
        "max_steps": 3,
        "bf16": True,
        "gradient_checkpointing": True,
    }
    plain, _ = train_hugging_face(tmp_path, **accumulate)
    watched, logged = train_hugging_face(tmp_path, every=2, **accumulate)
    assert same_weights(plain, watched)
    assert [line["step"] for line in logged] == [1, 3]


def test_values_reach_tensorboard(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs the package tensorboard"
    )
    _, logged = train_hugging_face(tmp_path, every=4, report_to=["tensorboard"])
    events = accumulator.EventAccumulator(str(next(tmp_path.rglob("events.*")).parent))
    events.Reload()
    found = [(e.step, e.value) for tag in events.Tags()["scalars"] if tag.removeprefix("train/") ==
             "geodesic/lss" for e in events.Scalars(tag)]  # fmt: skip
    assert found == [(line["step"], pytest.approx(line["geodesic/lss"], rel=1e-6)) for line in logged]


def test_says_what_is_wrong(monkeypatch):
    pytest.importorskip("lightning.pytorch", reason="needs the package lightning")
    from geodesic_fast.integrations.lightning import GeodesicCallback

    with pytest.raises(ValueError, match="every_n_steps must be an int of at least 1, got 0"):
        GeodesicCallback(every_n_steps=0)
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "geodesic_fast.integrations.hugging_face_trainer", raising=False)
    with pytest.raises(ImportError, match=r"the Trainer callback needs the package transformers"):
        import geodesic_fast.integrations.hugging_face_trainer  # noqa: F401
