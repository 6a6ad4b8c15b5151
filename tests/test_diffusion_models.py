# SPDX-License-Identifier: MIT
"""Diffusion transformers, whose blocks give a text and an image: the image is measured, or what is chosen."""

import pytest
import torch
from assert_accurate import assert_streamed

from geodesic_fast import lss
from geodesic_fast.recording import watch

diffusers = pytest.importorskip("diffusers", reason="needs the package diffusers")

WIDTH, PATCHES = 32, 16


def flux():
    config = {"patch_size": 1, "num_layers": 3, "num_single_layers": 3, "axes_dims_rope": (4, 4, 8)}
    return diffusers.FluxTransformer2DModel(**config, **shared())


def stable_diffusion_3():
    config = {"patch_size": 2, "sample_size": 8, "num_layers": 3, "caption_projection_dim": WIDTH}
    return diffusers.SD3Transformer2DModel(**config, **shared())


def shared():
    return {
        "in_channels": 4, "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": WIDTH,
        "pooled_projection_dim": WIDTH,
    }  # fmt: skip


def inputs(build, words):
    given = {
        "hidden_states": torch.randn(2, PATCHES, 4) if build is flux else torch.randn(2, 4, 8, 8),
        "encoder_hidden_states": torch.randn(2, words, WIDTH),
        "pooled_projections": torch.randn(2, WIDTH),
        "timestep": torch.full((2,), 0.5),
    }
    if build is flux:
        given |= {"img_ids": torch.zeros(PATCHES, 3), "txt_ids": torch.zeros(words, 3)}
    return given


def streams(model, stack, given):
    """The texts and the images that each block took and gave, by hooks of our own."""
    texts, images, handles = [], [], []
    for at, block in enumerate(getattr(model, stack)):
        if not at:
            handles.append(block.register_forward_pre_hook(first(texts, images), with_kwargs=True))
        handles.append(block.register_forward_hook(lambda _, args, output: both(texts, images, *output)))
    with torch.no_grad():
        model(**given)
    for handle in handles:
        handle.remove()
    return texts, images


def first(texts, images):
    return lambda _, args, kwargs: both(
        texts, images, kwargs["encoder_hidden_states"], kwargs["hidden_states"]
    )


def both(texts, images, text, image):
    images.append(image.clone())
    if text is not None:  # Stable Diffusion 3 drops the text in its last block
        texts.append(text.clone())


CASES = [
    (flux, "transformer_blocks"),
    (flux, "single_transformer_blocks"),
    (stable_diffusion_3, "transformer_blocks"),
]


@pytest.mark.parametrize(("build", "stack"), CASES)
@pytest.mark.parametrize("words", [7, PATCHES])
def test_the_image_is_measured_or_what_is_chosen(build, stack, words):
    torch.manual_seed(0)
    model = build().eval()
    given = inputs(build, words)
    texts, images = streams(model, stack, given)
    assert len(images) == 4
    if words == PATCHES:
        with torch.no_grad(), pytest.raises(ValueError, match="state must say"), watch(model, f"{stack}.*"):
            model(**given)
    else:
        told = pytest.warns(RuntimeWarning, match="pass state=1 or another choice")
        with torch.no_grad(), told, watch(model, f"{stack}.*") as w:
            model(**given)
        assert_streamed(w.geometry.lss, lss(images))
    with torch.no_grad(), watch(model, f"{stack}.*", state=1) as w:
        model(**given)
    assert_streamed(w.geometry.lss, lss(images))
    layers = [f"{stack}.{at}" for at in range(len(texts) - 1)]
    with torch.no_grad(), watch(model, layers, state=0) as w:
        model(**given)
    assert_streamed(w.geometry.lss, lss(texts))


def test_two_stacks_are_named():
    with pytest.raises(ValueError, match=r"transformer_blocks\.\*, single_transformer_blocks\.\*"):
        watch(flux())
