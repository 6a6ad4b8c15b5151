# SPDX-License-Identifier: MIT
"""What can be wrong when tracks are taken out of a model: one function per mistake, one sentence each."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geodesic_fast._validation import check_choice as check_choice  # for the importers of this module
from geodesic_fast._validation import check_float_tensor

_LISTED = 5


def check_module(model: object) -> None:
    """Refuse what is not a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, got {type(model).__name__}: pass the module that is called."
        )


def check_layer_pattern(item: object) -> None:
    """Refuse what is neither a module nor a name."""
    if not isinstance(item, str):
        raise TypeError(
            "layers must be names, glob patterns such as 'blocks.*', or modules, "
            f"got {type(item).__name__}: list the names with model.named_modules()."
        )


def check_layers_found(item: object, found: Sequence[object], names: Sequence[str]) -> None:
    """Refuse a pattern or a module that the model does not hold."""
    if found:
        return
    if isinstance(item, nn.Module):
        raise ValueError(
            f"layers must be modules inside the model, got a {type(item).__name__} that is not: "
            "take it from the model that is passed."
        )
    near = difflib.get_close_matches(str(item), names, n=_LISTED, cutoff=0.0)
    raise ValueError(
        f"layers must match modules of the model, got {item!r}, which matches none: a '*' stands for one "
        "part of "
        f"a dotted name, and near names are {', '.join(near) or 'none, for the model has no inner modules'}."
    )


def check_layers_named(chosen: Sequence[object]) -> None:
    """Refuse an empty choice of layers."""
    if not chosen:
        raise ValueError("layers must name at least 1 module, got none: pass a pattern such as 'blocks.*'.")


def check_one_stack(stacks: Sequence[str]) -> None:
    """Refuse to guess the layers of a model that has no stack of equal blocks, or several."""
    if len(stacks) == 1:
        return
    found = ", ".join(f"{name or 'the model itself'}.*" for name in stacks[:_LISTED]) if stacks else "none"
    raise ValueError(
        "layers must be named for this model, which should hold exactly 1 stack of equal blocks, "
        f"got {len(stacks)} ({found}): pass layers='name.*', or a list of such patterns."
    )


def check_single_layer_is_called_through(name: str, names: Sequence[str]) -> None:
    """Refuse one layer that runs outside a call of the model: how often it runs per pass is unknown."""
    if len(names) == 1:
        raise RuntimeError(
            f"layers must hold more than {name!r} when the model itself is not what is called, got this "
            "one layer: pass the module that is called as model."
        )


def layer_ran_twice(name: str) -> RuntimeError:
    """Say that a layer ran twice in one pass."""
    return RuntimeError(
        f"each layer must run once per pass, got a second run of {name!r}: pass repeats='append' if the "
        "network applies the same block several times, or pass the module that is called as model."
    )


def layers_did_not_run(missing: Sequence[str], total: int) -> RuntimeError:
    """Say which layers did not run in a pass."""
    listed = ", ".join(missing[:_LISTED]) + (", ..." if len(missing) > _LISTED else "")
    return RuntimeError(
        f"all {total} layers must run in a pass, got no run of {len(missing)} of them ({listed}): call the "
        "model inside the with block, name only layers that run, enter the block before the first call of a "
        "compiled model, or pass missing='skip' for networks that drop layers."
    )


def layers_not_seen(missing: Sequence[str]) -> RuntimeError:
    """Say that a training step went by without the layers that should have been measured."""
    listed = ", ".join(missing[:_LISTED]) + (", ..." if len(missing) > _LISTED else "") or "no whole pass"
    return RuntimeError(
        f"every layer must run in a measured training step, got none of {listed}: nothing is logged for "
        "this step. Name "
        "layers that run in training, pass missing='skip' for networks that drop layers, or start the "
        "callback before the model is compiled."
    )


def check_count(name: str, value: object) -> None:
    """Refuse what is not a whole number above zero."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an int of at least 1, got {value!r}.")


def no_pass(names: Sequence[str]) -> RuntimeError:
    """Say that nothing was recorded."""
    return RuntimeError(
        f"the model must be called inside the with block before its tracks are read, got no pass through its "
        f"{len(names)} layers: call it there, in the same thread, and enter the block before the first call "
        "of a compiled model."
    )


def no_state(name: str, what: str, value: object) -> TypeError:
    """Say that a layer took or gave nothing that can be a point of a track."""
    inside = f" of {', '.join(type(v).__name__ for v in value)}" if isinstance(value, tuple | list) else ""
    return TypeError(
        f"the {what} of layer {name!r} must hold a floating-point tensor, got "
        f"{type(value).__name__}{inside}: name layers whose output is the hidden state."
    )


def check_plain(name: str, what: str, state: Tensor) -> None:
    """Refuse a nested tensor, which has no (*batch, d), and one inside vmap, which has no values."""
    if state.is_nested:
        raise TypeError(
            f"the {what} of layer {name!r} must be a dense tensor, got a nested one: build a "
            "torch.nn.TransformerEncoder with enable_nested_tensor=False."
        )
    if torch._C._functorch.is_functorch_wrapped_tensor(state):
        raise TypeError(
            f"the {what} of layer {name!r} must be a plain tensor, got one inside torch.func: call the model "
            "itself on the whole batch, without vmap or grad around it."
        )


def several_groups(shapes: Sequence[tuple[str, int]]) -> ValueError:
    """Say that the network changes its width, so that there is no one track."""
    listed = ", ".join(f"{name} (width {width})" for name, width in shapes[:_LISTED])
    return ValueError(
        f"tracks must stay in one space, got {len(shapes)} groups of layers of different shape, from "
        f"{listed}: take each group from .groups."
    )


def no_group(count: int) -> ValueError:
    """Say that no two layers in a row share a shape."""
    return ValueError(
        f"tracks must have at least 2 points of one shape, got {count} states, no two in a row of one shape: "
        "name layers between which the width stays the same."
    )


def no_ends() -> RuntimeError:
    """Say that the ends of the tracks were not asked for."""
    return RuntimeError(".ends needs what the watch did not keep, got none: pass ends=True to watch.")


def gradient_lost(name: str) -> RuntimeError:
    """Say that a state that should carry gradients does not."""
    return RuntimeError(
        f"detach=False needs states that carry a gradient, got one without at {name!r}: leave "
        "torch.no_grad(), and with activation checkpointing use use_reentrant=False."
    )


def changed_in_place(name: str) -> RuntimeError:
    """Say that a state changed while it was still needed."""
    return RuntimeError(
        f"the state {name} must stay as it was until the next layer has run, got one that was changed in "
        "place: pass copy=True."
    )


def check_push(state: object, shape: tuple[int, ...] | None) -> None:
    """Refuse a state that does not continue the tracks."""
    check_float_tensor("state", state)
    assert isinstance(state, Tensor)
    if state.ndim < 1 or state.shape[-1] < 1:
        raise ValueError(
            f"state must have shape (*batch, d) with at least 1 feature, got {tuple(state.shape)}: "
            "the last axis holds the features."
        )
    if shape is not None and tuple(state.shape) != shape:
        raise ValueError(
            f"state must have the shape of the states before it, {shape}, got {tuple(state.shape)}: a "
            "track stays in one space, so use one accumulator for each width."
        )


def check_pushed(points: int) -> None:
    """Refuse to give numbers of a track with no step."""
    if points < 2:
        raise RuntimeError(
            f"a track needs at least 2 points, got {points}: push the input and the output of a layer first."
        )


def check_mask(name: str, mask: object, shape: tuple[int, ...]) -> None:
    """Refuse a mask that does not say for each track whether it counts."""
    if not isinstance(mask, Tensor):
        raise TypeError(
            f"{name} must be a tensor, got {type(mask).__name__}: convert it with torch.as_tensor."
        )
    if tuple(mask.shape) != shape:
        raise ValueError(
            f"{name} must have one value per track, shape {shape}, got {tuple(mask.shape)}: pass the mask "
            "of the "
            "tokens that the layers see (2-d, without a cache of earlier tokens; decoder_attention_mask "
            "for a decoder), or None to count every token."
        )
    if mask.is_floating_point() and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            f"{name} must be true or 1 where a track counts and 0 elsewhere, got other values in a mask of "
            f"{mask.dtype}: a mask that is added to attention scores becomes one by mask == 0."
        )


def check_watch_mask(mask: object) -> None:
    """Refuse a mask that is neither "auto", a tensor nor None."""
    if not (mask is None or mask == "auto" if isinstance(mask, str | None) else isinstance(mask, Tensor)):
        raise TypeError(
            f"mask must be 'auto', None or a tensor with one value per track, got {mask!r}: "
            "convert it with torch.as_tensor."
        )


def zero_step_found(step: int, tracks: int) -> ValueError:
    """Say that a step has length zero under zero_step='raise'."""
    return ValueError(
        f"zero_step='raise' allows no step of length zero, got {tracks} of them at step {step}: "
        "pass zero_step='skip' to leave such steps out."
    )


def check_final_norm(final_norm: object) -> None:
    """Refuse to guess whether the last hidden state is after a final norm."""
    if final_norm not in ("exclude", "include"):
        raise ValueError(
            f"final_norm must be 'exclude' or 'include', got {final_norm!r}: language models such as "
            "GPT-2, Llama and T5 "
            "return the state after their final norm as the last entry (exclude it), models such as BERT "
            "and ViT the last block's own output (include it)."
        )


def check_one_side(sides: Sequence[str]) -> None:
    """Refuse to guess which half of an encoder-decoder model is meant."""
    if sides:
        raise ValueError(
            f"side must say which half of an encoder-decoder model to measure, got hidden states of the "
            f"{' and the '.join(sides)}: pass side='encoder' or side='decoder'."
        )


def check_hidden_states(states: object) -> None:
    """Refuse what is not a tuple with one tensor, or None, per layer."""
    if states is None:
        raise ValueError(
            "output must hold hidden_states, got none: call the model with output_hidden_states=True."
        )
    if not isinstance(states, tuple | list):
        raise TypeError(
            f"output must be a model's output or its tuple hidden_states, got {type(states).__name__}: "
            "pass what the model returned."
        )
    if any(isinstance(state, tuple | list) for state in states):
        raise TypeError(
            "output must hold one tensor per layer, got one tuple per generated token: call the model "
            "itself on the generated text instead of model.generate."
        )


def check_no_placeholders(absent: Sequence[int]) -> None:
    """Refuse hidden states that were not selected."""
    if absent:
        raise ValueError(
            f"hidden_states must hold a tensor for every layer, got None at {', '.join(map(str, absent))}: "
            "call the model with output_hidden_states=True, or pass missing='skip' to go through the others."
        )


def check_no_zero_step_among(zero_steps: Tensor) -> None:
    """Refuse steps of length zero under zero_step='raise'."""
    if found := int(zero_steps.sum()):
        raise ValueError(
            f"zero_step='raise' allows no step of length zero, got {found} of them among the tracks that "
            "count: pass zero_step='skip' to leave such steps out."
        )
