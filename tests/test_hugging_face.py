# SPDX-License-Identifier: MIT
import pytest
import torch
from assert_accurate import assert_accurate, assert_streamed

import geodesic_fast
from geodesic_fast.integrations.hugging_face import hidden_state_geometry, hidden_state_tracks
from geodesic_fast.recording import record, watch

tiny = pytest.importorskip("tiny_transformers", reason="needs the package transformers")

BLOCKS = {
    "gpt2": "transformer.h.*", "llama": "model.layers.*", "bert": "encoder.layer.*", "vit": "layers.*",
    "t5 encoder": "encoder.block.*", "t5 decoder": "decoder.block.*",
}  # fmt: skip
AFTER_FINAL_NORM = {"gpt2", "llama", "t5 encoder", "t5 decoder"}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny networks: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(name):
    """The model, its inputs, the side to read, and the pattern of its blocks."""
    model = getattr(tiny, name.split()[0])()
    inputs = {"pixel_values": torch.randn(2, 3, 16, 16)} if name == "vit" else tiny.padded_batch()
    if name.startswith("t5"):
        longer = tiny.padded_batch(tokens=9)
        inputs |= {
            "decoder_input_ids": longer["input_ids"],
            "decoder_attention_mask": longer["attention_mask"],
        }
    return model, inputs, name.split()[1] if " " in name else None


@pytest.mark.parametrize("name", list(BLOCKS))
def test_what_each_entry_is(name):
    model, inputs, side = build(name)
    with torch.no_grad(), record(model, BLOCKS[name]) as blocks:
        output = model(**inputs, output_hidden_states=True)
    tracks = hidden_state_tracks(output, final_norm="include", side=side)
    assert len(tracks) == len(blocks.tracks) == 5
    assert all(map(torch.equal, tracks[:-1], blocks.tracks[:-1]))
    assert torch.equal(tracks[-1], blocks.tracks[-1]) == (name not in AFTER_FINAL_NORM)
    shorter = hidden_state_tracks(output, final_norm="exclude", embeddings="exclude", side=side)
    assert all(map(torch.equal, shorter, blocks.tracks[1:-1]))
    assert len(shorter) == 3


@pytest.mark.parametrize("name", list(BLOCKS))
def test_watch_measures_the_residual_stream_of_real_tokens(name):
    model, inputs, side = build(name)
    with torch.no_grad(), watch(model, BLOCKS[name]) as w, record(model, BLOCKS[name]) as blocks:
        model(**inputs)
    expected = geodesic_fast.lss(blocks.tracks)
    mask = inputs.get("decoder_attention_mask" if side == "decoder" else "attention_mask")
    expected = expected[mask.bool()] if mask is not None else expected
    assert_streamed(w.geometry.lss, expected)
    assert w.geometry.lss.shape == {"t5 decoder": (16,), "vit": (2, 5)}.get(name, (12,))


def test_decoder_without_a_mask_does_not_take_that_of_the_encoder():
    model, inputs, _ = build("t5 decoder")
    inputs["decoder_input_ids"] = inputs["input_ids"]
    del inputs["decoder_attention_mask"]
    with torch.no_grad(), watch(model, "decoder.block.*") as w:
        model(**inputs)
    assert w.geometry.lss.shape == (2, 7)


def test_blocks_are_found_without_a_pattern():
    model, inputs, _ = build("gpt2")
    with torch.no_grad(), watch(model) as w:
        model(**inputs)
    assert w.names == ["input of transformer.h.0", *(f"transformer.h.{i}" for i in range(4))]
    with pytest.raises(ValueError, match=r"got 2 \(encoder.block.\*, decoder.block.\*\)"):
        watch(tiny.t5())


def test_real_tokens_alone_do_not_depend_on_padding():
    model, inputs, _ = build("bert")
    with torch.no_grad():
        padded = hidden_state_geometry(
            model(**inputs, output_hidden_states=True),
            final_norm="include",
            attention_mask=inputs["attention_mask"],
        )
        alone = model(input_ids=inputs["input_ids"][1:, :5], output_hidden_states=True)
    torch.testing.assert_close(
        padded.lss[7:], geodesic_fast.lss(alone.hidden_states)[0], rtol=1e-4, atol=1e-4
    )


def test_the_tuple_goes_into_lss_as_it_is():
    model, inputs, _ = build("llama")
    states = model(**inputs, output_hidden_states=True).hidden_states
    score = geodesic_fast.lss(states)
    torch.testing.assert_close(score, geodesic_fast.reference.lss(states))
    score.mean().backward()
    assert model.model.embed_tokens.weight.grad.abs().sum() > 0


def test_gradient_checkpointing_of_the_library():
    model, inputs, _ = build("gpt2")
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    torch.manual_seed(0)
    with watch(model) as w, record(model, detach=False, clone=False) as recording:
        loss = model(**inputs, labels=inputs["input_ids"]).loss
        (loss + geodesic_fast.lss(recording.tracks)[inputs["attention_mask"].bool()].mean()).backward()
    assert w.geometry.lss.shape == (12,)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_placeholders_are_refused_or_skipped():
    model, inputs, _ = build("bert")
    try:
        output = model(**inputs, output_hidden_states=[0, 2, 4])
    except TypeError:
        pytest.skip("this version of transformers cannot select hidden states")
    if all(state is not None for state in output.hidden_states):
        pytest.skip("this version of transformers cannot select hidden states")
    with pytest.raises(ValueError, match="got None at 1, 3"):
        hidden_state_tracks(output, final_norm="include")
    tracks = hidden_state_tracks(output, final_norm="include", missing="skip")
    assert len(tracks) == 3


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_passes_with_a_cache_have_the_mask_of_their_own_tokens(name):
    model, inputs, _ = build(name)
    ids, mask = inputs["input_ids"].flip(1), inputs["attention_mask"].flip(1)  # padding comes first
    with torch.no_grad(), watch(model) as whole:
        model(ids, attention_mask=mask)
    with torch.no_grad():
        cache = model(ids[:, :-3], attention_mask=mask[:, :-3], use_cache=True).past_key_values
        with watch(model) as rest:
            model(ids[:, -3:], attention_mask=mask, past_key_values=cache)
    real = torch.arange(ids.shape[1]).expand_as(ids)[mask.bool()]
    torch.testing.assert_close(
        rest.geometry.lss, whole.geometry.lss[real >= ids.shape[1] - 3], rtol=1e-4, atol=0
    )
    with torch.no_grad(), watch(model) as w:
        model.generate(ids, attention_mask=mask, max_new_tokens=3, do_sample=False)
    assert w.geometry.lss.shape == (2,)  # the last pass: one token of each sentence


@pytest.mark.parametrize("autocast", [False, True])
def test_every_pass_of_a_training_loop_is_that_of_the_stored_states(autocast):
    """Dropout, gradient accumulation, autocast, padding, evaluation between the steps."""
    model = tiny.gpt2().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for step in range(4):
        inputs = tiny.padded_batch(tokens=5 + step)
        model.train(step != 2)
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=autocast),
            watch(model) as w,
            record(model) as stored,
        ):
            loss = model(**inputs, labels=inputs["input_ids"]).loss / 2
        real = inputs["attention_mask"].bool()
        plain, truth = (
            geodesic_fast.reference.lss([state.to(dtype) for state in stored.tracks])[real]
            for dtype in (torch.float32, torch.float64)
        )
        assert_accurate(w.geometry.lss, plain, truth)
        loss.backward()
        if step % 2:
            optimizer.step()
            optimizer.zero_grad()


def test_models_that_accelerate_moves_about():
    accelerate = pytest.importorskip("accelerate", reason="needs the package accelerate")
    model, inputs, _ = build("gpt2")
    with torch.no_grad(), watch(model) as plain:
        model(**inputs)
    offloaded = accelerate.cpu_offload(tiny.gpt2(), execution_device="cpu")
    with torch.no_grad(), watch(offloaded) as w:
        offloaded(**inputs)
    assert torch.equal(w.geometry.lss, plain.geometry.lss)


def test_bf16_models():
    model, inputs, _ = build("llama")
    model = model.bfloat16()
    with torch.no_grad(), watch(model) as w, record(model) as recording:
        model(**inputs)
    expected = geodesic_fast.reference.lss([state.double() for state in recording.tracks])
    torch.testing.assert_close(
        w.geometry.lss.double(), expected[inputs["attention_mask"].bool()], rtol=2e-6, atol=0
    )


def test_says_what_is_wrong():
    model, inputs, _ = build("gpt2")
    output = model(**inputs, output_hidden_states=True)
    with pytest.raises(ValueError, match="language models such as GPT-2, Llama and T5"):
        hidden_state_tracks(output)
    with pytest.raises(ValueError, match="call the model with output_hidden_states=True"):
        hidden_state_tracks(model(**inputs), final_norm="exclude")
    with pytest.raises(TypeError, match="got Tensor"):
        hidden_state_tracks(output.logits, final_norm="exclude")
    with pytest.raises(ValueError, match=r"attention_mask must have one value per track, shape \(2, 7\)"):
        hidden_state_geometry(output, final_norm="exclude", attention_mask=torch.ones(2, 6))
    generated = model.generate(
        inputs["input_ids"][:1], max_new_tokens=2, output_hidden_states=True, return_dict_in_generate=True
    )
    with pytest.raises(TypeError, match="one tuple per generated token"):
        hidden_state_tracks(generated.hidden_states, final_norm="exclude")
    model, inputs, _ = build("t5 encoder")
    with pytest.raises(ValueError, match="got hidden states of the encoder and the decoder"):
        hidden_state_tracks(model(**inputs, output_hidden_states=True), final_norm="exclude")


def test_outputs_without_names_are_no_tuple_per_token():
    for model, inputs, _ in map(build, ("bert", "gpt2", "t5 encoder")):
        output = model(**inputs, output_hidden_states=True, return_dict=False)
        with pytest.raises(TypeError, match="with return_dict=False: pass the tuple hidden_states"):
            hidden_state_tracks(output, final_norm="include", side=None)
        states = next(item for item in output if isinstance(item, tuple) and len(item) == 5)
        assert len(hidden_state_tracks(states, final_norm="include")) == 5


def test_models_of_parts_say_which_parts_have_hidden_states():
    small = pytest.importorskip("small_families")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    vision = sizes | {"image_size": 32, "patch_size": 8}
    config = tiny.transformers.Blip2Config(
        vision_config=vision,
        qformer_config=sizes | {"vocab_size": 99, "encoder_hidden_size": 32},
        text_config={
            "model_type": "opt", "vocab_size": 99, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 3,
            "num_attention_heads": 4, "word_embed_proj_dim": 32, "max_position_embeddings": 64,
        },
        num_query_tokens=4, image_token_index=98,
    )  # fmt: skip
    images, ids = torch.randn(2, 3, 32, 32), torch.randint(2, 90, (2, 5))
    blip = tiny.transformers.Blip2ForConditionalGeneration(config).eval()
    clip = tiny.transformers.CLIPModel(small.small_config(tiny.transformers.CLIPConfig)).eval()
    pictures = torch.full((2, 4), 98)
    for model, inputs, part, tokens in (
        (clip, {"input_ids": ids}, "vision_model_output", 17),
        (blip, {"input_ids": torch.cat([pictures, ids], 1)}, "language_model_outputs", 9),
    ):
        with torch.no_grad():
            output = model(pixel_values=images, **inputs, output_hidden_states=True)
            without = model(pixel_values=images, **inputs)
        with pytest.raises(ValueError, match=rf"{part}.*: pass one of them, output\."):
            hidden_state_tracks(output, final_norm="include")
        tracks = hidden_state_tracks(output[part], final_norm="include")
        assert (len(tracks), tracks[0].shape) == (4, (2, tokens, 32))
        with pytest.raises(ValueError, match="call the model with output_hidden_states=True"):
            hidden_state_tracks(without, final_norm="include")
