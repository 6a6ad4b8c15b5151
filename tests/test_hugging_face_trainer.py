# SPDX-License-Identifier: MIT
import functools
import sys
import warnings

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from trained_networks import FIELDS, hook_count, same_weights

import geodesic_fast
from geodesic_fast.recording import record

pytestmark = pytest.mark.usefixtures("one_thread")  # tiny networks: more threads only wait for each other


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
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "geodesic_fast.integrations.hugging_face_trainer", raising=False)
    with pytest.raises(ImportError, match=r"the Trainer callback needs the package transformers"):
        import geodesic_fast.integrations.hugging_face_trainer  # noqa: F401
