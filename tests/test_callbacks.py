# SPDX-License-Identifier: MIT
import functools
import logging
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import geodesic_fast
from geodesic_fast.integrations._training import TrainingWatch
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
            geometry = geodesic_fast.reference.track_geometry(recording.tracks)
            seen.append(torch.stack([field[attention_mask.bool()].double() for field in geometry]))
            return output

    return Remembering


def sentences(tiny, before=None, classes=None):
    """A dataset of padded sentences; `before` is called for each."""

    class Sentences(torch.utils.data.Dataset):
        def __len__(self):
            return 24

        def __getitem__(self, index):
            if before is not None:
                before()
            ids = torch.randint(1, tiny.VOCABULARY, (6,), generator=torch.Generator().manual_seed(index))
            mask = (torch.arange(6) < 3 + index % 4).long()
            labels = ids if classes is None else ids % classes
            return {"input_ids": ids, "attention_mask": mask, "labels": labels.where(mask.bool(), -100)}

    return Sentences()


def hugging_face_trainer(
    tmp_path,
    every=None,
    batches=1,
    model=None,
    data=None,
    around=((), ()),
    layers=None,
    profile=False,
    **arguments,
):
    """A Trainer for a tiny GPT-2, or another model; `around`: callbacks before and after ours."""
    tiny = pytest.importorskip("tiny_transformers", reason="needs the package transformers")
    pytest.importorskip("accelerate", reason="the Hugging Face Trainer needs the package accelerate")
    from geodesic_fast.integrations.hugging_face_trainer import GeodesicCallback

    options = {
        "per_device_train_batch_size": 4, "max_steps": 6, "disable_tqdm": True, "use_cpu": True,
        "report_to": [], "save_strategy": "no", "logging_steps": 1000, "seed": 0,
    }  # fmt: skip
    training = tiny.transformers.TrainingArguments(output_dir=str(tmp_path), **{**options, **arguments})
    trainer = tiny.transformers.Trainer(
        model=tiny.gpt2() if model is None else model,
        args=training,
        train_dataset=sentences(tiny) if data is None else data,
    )
    for callback in around[0]:
        trainer.add_callback(callback)
    if every:
        options = {"every_n_steps": every, "batches": batches, "profile": profile}
        trainer.add_callback(GeodesicCallback(trainer, layers, **options))
    for callback in around[1]:
        trainer.add_callback(callback)
    return trainer


def train_hugging_face(tmp_path, every: int | None = None, seen=None, model=None, **arguments):
    """Train a tiny GPT-2 with padding; return it and the lines of the log that hold geodesic values.

    `seen` takes the geometry of the real tokens of each pass, by the definition.
    """
    tiny = pytest.importorskip("tiny_transformers", reason="needs the package transformers")
    model = tiny.gpt2() if model is None else model
    if seen is not None:
        model.__class__ = remembering(type(model), seen)
    trainer = hugging_face_trainer(tmp_path, every, model=model, **arguments)
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


def test_hugging_face_trainer_logs_the_profile_of_the_steps(tmp_path):
    model, logged = train_hugging_face(tmp_path, every=4, profile=True)
    tiny = pytest.importorskip("tiny_transformers", reason="needs the package transformers")
    names = [
        f"geodesic/transformer.h.{at}/{field}"
        for at in range(4)
        for field in geodesic_fast.StepGeometry._fields
    ]
    assert set(logged[0]) >= {*FIELDS, *names[:-1]}
    assert names[-1] not in logged[0]  # the last step turns into none
    assert all(-1 <= line[name] <= 1 for line in logged for name in names[:-1] if name.endswith("cosine"))
    path, steps = (
        logged[0]["geodesic/path_length"],
        [logged[0][name] for name in names if name.endswith("/length")],
    )
    assert sum(steps) == pytest.approx(path, rel=1e-5)
    assert same_weights(model, train_hugging_face(tmp_path, model=tiny.gpt2())[0])


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


def preference_trainer(tiny, tmp_path, policy_first: bool, seen: list):
    """A Trainer that compares the model with itself without adapters, as preference losses do under PEFT."""
    peft = pytest.importorskip("peft", reason="needs the package peft")

    class Preferences(tiny.transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            def reference():
                with torch.no_grad(), model.disable_adapter():
                    return model(**inputs).logits

            expected = None if policy_first else reference()
            with record(model) as recording:
                logits = model(**inputs).logits
            seen.append(geodesic_fast.lss(recording.tracks)[inputs["attention_mask"].bool()].double().mean())
            return (logits - (reference() if policy_first else expected)).square().mean()

    torch.manual_seed(0)
    config = peft.LoraConfig(r=8, lora_alpha=64, target_modules=["c_attn"], init_lora_weights=False)
    model = peft.get_peft_model(tiny.gpt2(), config)
    arguments = tiny.transformers.TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=4, max_steps=3, disable_tqdm=True, use_cpu=True,
        report_to=[], save_strategy="no", logging_steps=1000, remove_unused_columns=False,
    )  # fmt: skip
    return Preferences(model=model, args=arguments, train_dataset=sentences(tiny))


@pytest.mark.parametrize("policy_first", [True, False])
def test_a_reference_pass_without_adapters_is_not_what_is_logged(tmp_path, policy_first):
    tiny = pytest.importorskip("tiny_transformers", reason="needs the package transformers")
    pytest.importorskip("accelerate", reason="the Hugging Face Trainer needs the package accelerate")
    from geodesic_fast.integrations.hugging_face_trainer import GeodesicCallback

    seen = []
    trainer = preference_trainer(tiny, tmp_path, policy_first, seen)
    trainer.add_callback(GeodesicCallback(trainer, every_n_steps=1))
    trainer.train()
    logged = [line["geodesic/lss"] for line in trainer.state.log_history if "geodesic/lss" in line]
    assert logged == pytest.approx([value.item() for value in seen], rel=1e-5)
    assert hook_count(trainer.model) == 0


def other_callback(tiny, what_it_does):
    """A callback that runs the model wherever it can while a step goes on."""

    class Running(tiny.transformers.TrainerCallback):
        def run(self, args, state, control, model=None, **kwargs):
            what_it_does(model)

        on_step_begin = on_substep_end = on_pre_optimizer_step = on_optimizer_step = on_step_end = run

    return Running()


def generating(model):
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        training = model.training
        model.eval().generate(torch.ones(1, 3, dtype=torch.long), max_new_tokens=2, do_sample=False)
        model.train(training)


def passing(model):
    with torch.random.fork_rng():
        model(input_ids=torch.ones(1, 3, dtype=torch.long))


@pytest.mark.parametrize("what", [generating, passing])
def test_what_other_callbacks_run_is_not_what_is_logged(tmp_path, what):
    tiny = pytest.importorskip("tiny_transformers", reason="needs the package transformers")
    _, plain = train_hugging_face(tmp_path, every=2, gradient_accumulation_steps=2)
    around = [other_callback(tiny, what)], [other_callback(tiny, what)]
    _, among = train_hugging_face(tmp_path, every=2, gradient_accumulation_steps=2, around=around)
    assert [line["step"] for line in plain] == [1, 3, 5]
    assert [
        {name: value for name, value in line.items() if name.startswith("geodesic/")} for line in among
    ] == [{name: value for name, value in line.items() if name.startswith("geodesic/")} for line in plain]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("place", ["layer", "backward", "optimizer", "data", "callback"])
def test_a_run_that_ends_anywhere_leaves_no_hooks(tmp_path, error, place):
    tiny = pytest.importorskip("tiny_transformers", reason="needs the package transformers")
    model = tiny.gpt2()
    calls = []

    def end(*arguments, **kwargs):
        calls.append(place)
        if len(calls) == 2:
            raise error("stop")

    around, data = ([], []), sentences(tiny, end if place == "data" else None)
    if place == "layer":
        model.transformer.h[2].mlp.register_forward_hook(end)
    elif place == "backward":
        model.transformer.h[2].mlp.register_full_backward_hook(end)
    elif place == "callback":
        around = ([], [other_callback(tiny, end)])
    before = hook_count(model)
    if place == "optimizer":
        handle = register_optimizer_step_pre_hook(end)
    try:
        with pytest.raises(error, match="stop"):
            train_hugging_face(tmp_path, every=1, model=model, data=data, around=around)
    finally:
        if place == "optimizer":
            handle.remove()
    assert hook_count(model) == before
    calls.clear()
    calls.extend("enough")
    generating(model)
    torch.save(model.state_dict(), tmp_path / "model.pt")


def test_a_trainer_that_failed_trains_again_and_logs_once(tmp_path):
    tiny = pytest.importorskip("tiny_transformers", reason="needs the package transformers")
    model, calls = tiny.gpt2(), []

    def end(*arguments):
        calls.append("call")
        if len(calls) == 2:
            raise RuntimeError("stop")

    model.transformer.h[2].mlp.register_forward_hook(end)
    trainer = hugging_face_trainer(tmp_path, every=4, model=model)
    with pytest.raises(RuntimeError, match="stop"):
        trainer.train()
    for _ in range(2):
        trainer.train()
        lines = [line["step"] for line in trainer.state.log_history if "geodesic/lss" in line]
        assert lines == [1, 5]


def longformer(tiny):
    """Its embeddings lengthen the input to whole windows, and its mask is of the length that was given."""
    config = tiny.transformers.LongformerConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, attention_window=4, max_position_embeddings=64,
    )  # fmt: skip
    return tiny.transformers.LongformerForMaskedLM(config)


def canine(tiny):
    """Its blocks run over characters joined in fours."""
    config = tiny.transformers.CanineConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_hash_buckets=64,
        max_position_embeddings=64, downsampling_rate=2, local_transformer_stride=4, num_labels=2,
    )  # fmt: skip
    return tiny.transformers.CanineForTokenClassification(config)


@pytest.mark.parametrize(("build", "layers"), [(longformer, None), (canine, "canine.encoder.layer.*")])
def test_a_mask_of_another_length_does_not_end_the_run(tmp_path, build, layers):
    """Every real token counts, or nothing is logged and one warning says why."""
    tiny = pytest.importorskip("tiny_transformers", reason="needs the package transformers")
    data = sentences(tiny, classes=2) if build is canine else sentences(tiny)
    trainer = hugging_face_trainer(tmp_path, every=2, model=build(tiny), data=data, layers=layers)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer.train()
    assert trainer.state.global_step == 6
    ours = [str(one.message) for one in said if "mask" in str(one.message)]
    logged = [line for line in trainer.state.log_history if "geodesic/lss" in line]
    assert (len(ours), len(logged)) in ((1, 0), (0, 3)), (ours, logged)
    assert hook_count(trainer.model) == 0


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
