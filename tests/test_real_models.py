# SPDX-License-Identifier: MIT
"""Real models whose layers see other tokens than the caller gave, or other shapes than most."""

import contextlib
import io
import warnings

import pytest
import torch
from small_networks import hook_count

from geodesic_fast import lss
from geodesic_fast.integrations.hugging_face import hidden_state_tracks
from geodesic_fast.recording import record, watch

tiny = pytest.importorskip("tiny_transformers", reason="needs the package transformers")
small = pytest.importorskip("small_families", reason="needs the package transformers")


@pytest.fixture(autouse=True)
def _one(one_thread):
    small.transformers.logging.set_verbosity_error()


def left_padded():
    batch = tiny.padded_batch()
    return {key: value.flip(1) for key, value in batch.items()}


def test_all_passes_of_a_generation_are_the_tokens_of_one_pass():
    model, given = tiny.llama(), left_padded()
    with torch.no_grad(), watch(model, passes="all") as w:
        text = model.generate(**given, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    mask = torch.nn.functional.pad(given["attention_mask"], (0, 3), value=1)
    with torch.no_grad(), watch(model) as whole:
        model(text[:, :-1], attention_mask=mask)
    assert len(w.passes) == 4
    got, want = w.geometry.lss.sort().values, whole.geometry.lss.sort().values
    torch.testing.assert_close(got, want, rtol=1e-4, atol=0)


@pytest.mark.parametrize("options", [{"cache_implementation": "static"}, {"prefill_chunk_size": 3}, {}])
def test_padding_of_a_prompt_does_not_count(options):
    model, given = tiny.llama(), left_padded()
    with torch.no_grad(), watch(model, passes="all") as w:
        model.generate(**given, max_new_tokens=2, min_new_tokens=2, do_sample=False, **options)
    assert w.geometry.lss.shape == (12 + 2,)


def test_t5_encoder_under_generate():
    model, given = tiny.t5(), tiny.padded_batch()
    with torch.no_grad(), watch(model, "encoder.block.*") as w:
        model.generate(**given, max_new_tokens=3)
    with torch.no_grad(), watch(model.encoder) as alone:
        model.encoder(**given)
    assert torch.equal(w.geometry.lss, alone.geometry.lss)


def test_whisper_encoder_shortens_what_its_mask_is_of():
    model = small.build("whisper").get_encoder()
    features, mask = torch.randn(2, 80, 128), torch.ones(2, 128, dtype=torch.long)
    with torch.no_grad(), watch(model) as w:
        model(features, attention_mask=mask)
    assert w.geometry.lss.shape == (2, 64)
    mask[1, 50:] = 0
    with torch.no_grad(), pytest.warns(RuntimeWarning, match="pass mask="), watch(model) as w:
        model(features, attention_mask=mask)
    assert not w.measured


def test_a_text_mask_is_none_of_the_vision_tower():
    config = small.small_config(small.transformers.CLIPConfig)
    model = small.transformers.CLIPModel(config).eval()
    ids = torch.randint(1, 90, (2, 17))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    images = torch.randn(2, 3, small.IMAGE, small.IMAGE)
    shapes = {}
    for side in ("vision", "text"):
        with torch.no_grad(), watch(model, f"{side}_model.encoder.layers.*") as w:
            model(input_ids=ids, pixel_values=images, attention_mask=mask)
        shapes[side] = tuple(w.geometry.lss.shape)
    assert shapes == {"vision": (2, 17), "text": (21,)}


def test_xlnet_has_tokens_before_samples():
    model = small.build("xlnet")
    ids = torch.randint(1, 90, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    with torch.no_grad(), watch(model) as w, record(model) as stored:
        model(ids, attention_mask=mask)
    assert torch.equal(w.geometry.lss, lss(stored.tracks)[mask.T.bool()])
    with torch.no_grad(), pytest.warns(RuntimeWarning, match="fit the states in one way"), watch(model) as w:
        model(ids[:, :2].repeat(1, 1), attention_mask=torch.tensor([[1, 1], [1, 0]]))
    assert not w.measured


def test_tokens_and_ids_of_xlnet_which_has_tokens_before_samples():
    model = small.build("xlnet")
    ids = torch.arange(1, 19).reshape(2, 9)
    with torch.no_grad(), record(model) as stored:
        model(ids)
    want = lss(stored.tracks)  # (tokens, samples)
    with torch.no_grad(), watch(model, tokens=slice(1, None)) as w:
        model(ids)
    assert torch.equal(w.geometry.lss, want[1:].flatten())
    with torch.no_grad(), watch(model, without_ids=[3, 10]) as w:
        model(ids)
    assert torch.equal(w.geometry.lss, want[~torch.isin(ids.T, torch.tensor([3, 10]))])
    with torch.no_grad(), pytest.warns(RuntimeWarning, match="which axis"), watch(model, tokens=[0]) as w:
        model(ids[:, :2])
    assert not w.measured


def test_a_class_token_of_images_is_left_out():
    model, images = tiny.vit(), torch.randn(3, 3, 16, 16)
    with torch.no_grad(), record(model) as stored:
        model(pixel_values=images)
    with torch.no_grad(), watch(model, tokens=slice(1, None)) as w:
        model(pixel_values=images)
    assert torch.equal(w.geometry.lss, lss(stored.tracks)[:, 1:].flatten())


@pytest.mark.parametrize(
    ("name", "batch"), [("longformer", (21,)), ("deepseek_v4", (84,)), ("gemma3n_text", (84,))]
)
def test_padding_inside_and_streams(name, batch):
    model = small.build(name)
    if model is None:
        pytest.skip("this version of transformers has no such model")
    with torch.no_grad(), watch(model) as w:
        model(**small.inputs(model))
    assert w.geometry.lss.shape == batch


@pytest.mark.parametrize("name", ["convnext", "convnextv2", "resnet", "swin", "swinv2", "bit", "focalnet"])
def test_stages_of_image_models_are_groups_of_blocks(name):
    model = small.build(name)
    with torch.no_grad(), watch(model) as w, record(model) as stored:
        model(**small.inputs(model))
    assert len(w.groups) >= 3
    for group, expected in zip(w.groups, stored.groups, strict=True):
        assert len(group.names) == len(expected.tracks)
        torch.testing.assert_close(group.geometry.lss, lss(expected.tracks), rtol=1e-5, atol=0)
        stage = group.names[-1].rsplit(".", 2)[0]
        assert all(stage in point for point in group.names)


@pytest.mark.parametrize("name", ["mamba", "mamba2", "falcon_mamba", "rwkv"])
def test_hidden_states_without_the_embedding(name):
    model = small.build(name)
    if model is None:
        pytest.skip("this version of transformers has no such small model")
    with torch.no_grad(), record(model) as stored:
        output = model(**small.inputs(model), output_hidden_states=True)
    with pytest.raises(ValueError, match="embeddings must say"):
        hidden_state_tracks(output, final_norm="exclude")
    tracks = hidden_state_tracks(output, final_norm="exclude", embeddings="absent")
    assert len(tracks) == len(stored.tracks) - 1
    assert all(map(torch.equal, tracks, stored.tracks[1:]))


def test_blocks_of_two_classes_in_one_list():
    model = small.build("jamba")
    with torch.no_grad(), watch(model) as w:
        model(**small.inputs(model))
    assert len({type(layer) for layer in model.layers}) == 2
    assert (len(w.names), w.geometry.lss.shape) == (5, (21,))


def test_layers_that_are_called_past_their_hooks_are_refused():
    model = small.build("squeezebert")
    refused = pytest.raises(RuntimeError, match="past their hooks, cannot be followed")
    with torch.no_grad(), refused, watch(model):
        model(**small.inputs(model))


def test_models_are_stored_and_generate_while_they_are_watched():
    model, given = tiny.gpt2(), left_padded()
    with torch.no_grad(), watch(model) as w:
        model.generate(**given, max_new_tokens=2)
        torch.save(model, io.BytesIO())
    assert w.measured


@pytest.mark.parametrize("kind", [watch, record])
@pytest.mark.parametrize("passes", ["last", "first", "all"])
@pytest.mark.parametrize("left", [True, False])
def test_an_interrupted_pass_leaves_a_model_that_generates_and_is_stored(kind, passes, left):
    """Ctrl-C in a layer, inside a with block, or in one that was entered by hand and is never left."""
    model, given = tiny.gpt2().train(), left_padded()

    def interrupt(*arguments):
        raise KeyboardInterrupt

    handle = model.transformer.h[2].register_forward_pre_hook(interrupt)
    context = kind(model, passes=passes)
    with contextlib.suppress(KeyboardInterrupt):
        if left:
            with context:
                model(**given)
        else:
            context.__enter__()
            model(**given)
    handle.remove()
    assert hook_count(model) == 0 or not left
    text = model.eval().generate(**given, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert torch.equal(
        text, tiny.gpt2().generate(**given, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    )
    stored = io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    loaded = torch.load(stored, weights_only=False)
    with torch.no_grad(), watch(loaded) as w:
        loaded(**given)
    assert w.geometry.lss.shape == (12,)


@pytest.mark.parametrize("kind", ["PrefixTuningConfig", "PromptTuningConfig"])
@pytest.mark.parametrize("build", [tiny.gpt2, tiny.llama])
def test_prompts_and_prefixes_that_are_learned(kind, build):
    """A prefix is in the cache, as earlier tokens are; a prompt is among the tokens that the layers see."""
    peft = pytest.importorskip("peft", reason="needs the package peft")
    config = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model, given = peft.get_peft_model(build(), config).eval(), left_padded()
    seen = 3 if kind == "PromptTuningConfig" else 0
    real = torch.nn.functional.pad(given["attention_mask"], (seen, 0), value=1).bool()
    with torch.no_grad(), watch(model) as w, record(model) as stored:
        model(**given)
    assert torch.equal(w.geometry.lss, lss(stored.tracks)[real])
    with (
        torch.no_grad(),
        warnings.catch_warnings(),
        watch(model, passes="all") as w,
        record(model, passes="all") as stored,
    ):
        warnings.simplefilter("ignore")
        model.generate(**given, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    tokens = [group.tracks[0].shape[1] for (group,) in stored.passes]
    if tokens[1:] == [1, 1]:
        counts = [group.geometry.lss.numel() for (group,) in w.passes]
        assert counts == [int(real.sum()), 2, 2]
    else:  # releases of peft and transformers that do not fit put the prompt before each new token again
        assert (kind, tokens[1:]) == ("PromptTuningConfig", [4, 4])
        with pytest.raises(ValueError, match="pass mask="):
            _ = w.passes
