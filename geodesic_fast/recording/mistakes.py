# SPDX-License-Identifier: MIT
"""What can be wrong when tracks are taken out of a model: one function per mistake, one sentence each.

A `check_` looks and raises; the others are the mistake itself, for who has found it to raise.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geodesic_fast._validation import check_float_tensor
from geodesic_fast.engine.torch_internals import is_transformed

_LISTED = 5


def check_module(model: object) -> None:
    """Refuse what is not a module."""
    if not isinstance(model, nn.Module):
        remedy = "pass the module that is called"
        if isinstance(model, torch.export.ExportedProgram):
            remedy = _UNTRACED
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}: {remedy}.")


_UNTRACED = "pass the module that was exported, or torch.export.unflatten(program)"


def check_followed(model: nn.Module, layers: Sequence[tuple[str, nn.Module]]) -> None:
    """Refuse layers that run past their hooks: those of scripted models, and those traced into a graph."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in (model, *(m for _, m in layers))):
        raise TypeError(
            "model must be an eager module, got a scripted one, which calls its layers past their hooks: "
            "pass the module that it was made of."
        )
    for graph in model.modules():
        if isinstance(graph, torch.fx.GraphModule) and (graph is model or layers):
            called = [graph.get_submodule(str(n.target)) for n in graph.graph.find_nodes(op="call_module")]
            reached = {inner for module in called for inner in module.modules()}
            traced = set(graph.modules()) - reached
            lost = [name for name, module in layers if module in traced]
            if lost or not layers:
                raise _traced(lost)


def _traced(names: Sequence[str]) -> ValueError:
    return ValueError(
        f"layers must be modules that the model calls, got {', '.join(names[:_LISTED]) or 'none'} of a "
        "traced model, whose graph holds their operations instead: for a model of torch.fx pass the one that "
        f"it was made of, for an exported one {_UNTRACED}."
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


def check_one_stack(candidates: Sequence[str], stacks: int) -> None:
    """Refuse to guess the layers of a model that has no stack of equal blocks, or several."""
    if stacks == 1:
        return
    found = ", ".join(candidates[:_LISTED]) + (", ..." if len(candidates) > _LISTED else "")
    found = found or "none" if stacks else f"lists of different modules are {found or 'none'}"
    raise ValueError(
        "layers must be named for this model, which should hold exactly 1 stack of equal blocks, "
        f"got {stacks} ({found}): pass layers='name.*', or a list of such patterns."
    )


def check_blocks_are_called(pattern: str, classes: Sequence[type]) -> None:
    """Refuse lists as layers, which are not called themselves."""
    if any(cls is nn.ModuleList for cls in classes):
        raise ValueError(
            f"layers must be named for this model, whose stack {pattern} holds lists that are not called "
            "themselves: pass a pattern of the modules inside them, such as "
            f"layers='{pattern}.*'."
        )


def blocks_or_stages(outer: str, inner: Sequence[str]) -> ValueError:
    """Say that a stack may hold blocks or stages of blocks."""
    return ValueError(
        f"layers must be named for this model, whose stack {outer} may hold blocks or stages of blocks "
        f"({', '.join(inner[:_LISTED])}): pass layers='{outer}', or the patterns of the blocks inside."
    )


def layers_dropped(names: Sequence[str]) -> str:
    """Say which layers belong to no track."""
    listed = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
    return (
        f"{len(names)} of the layers belong to no track, for no layer next to them has states of their shape "
        f"({listed}): name more layers around them, or leave them out."
    )


def one_step(names: Sequence[str]) -> str:
    """Say that a track of one step is a straight line whatever the network does."""
    return (
        f"{len(names)} of the groups have a single step, which is straight whatever the network does: lss "
        f"is 1 there, and says nothing (at {', '.join(names[:_LISTED])}). Name the blocks inside "
        f"these layers, or "
        "leave them out."
    )


def check_single_layer_is_called_through(name: str, names: Sequence[str]) -> None:
    """Refuse one layer that runs outside a call of the model: how often it runs per pass is unknown."""
    if len(names) == 1:
        raise RuntimeError(
            f"layers must hold more than {name!r} when the model itself is not what is called, got this "
            "one layer: pass the module that is called as model."
        )


def layer_ran_twice(name: str, goes_on: bool, whole: bool, repeats: str) -> RuntimeError:
    """Say that a layer ran twice in one pass, and what that can mean."""
    if goes_on:
        remedy = "its input is what the last layer gave: pass repeats='append' to make each run a point"
    elif whole:
        remedy = (
            "its input is not what the last layer gave, so that it may belong to other data (as in a siamese "
            "network) or to the same after a change: watch a module that is called once for each, or wrap "
            "the block and what lies between its runs in one module"
        )
    else:
        remedy = (
            "the pass before it is not whole: after one that failed leave the block and enter it again, and "
            "pass the module that is called as model"
        )
    return RuntimeError(f"each layer must run once per pass, got a second run of {name!r}, and {remedy}.")


def several_passes_in_a_call(name: str) -> RuntimeError:
    """Say that the model sent several inputs through its layers in one call."""
    return RuntimeError(
        f"each layer must run once per pass, got a second run of {name!r} on other data after every layer "
        "had run, as in a siamese network: pass passes='all' for the numbers of all, or passes='first'."
    )


def layers_did_not_run(missing: Sequence[str], total: int) -> RuntimeError:
    """Say which layers did not run in a pass."""
    listed = ", ".join(missing[:_LISTED]) + (", ..." if len(missing) > _LISTED else "")
    return RuntimeError(
        f"all {total} layers must run in a pass, got no run of {len(missing)} of them ({listed}): call "
        "the model inside the with block, name only layers that run, enter the block before the "
        "first call of a "
        "compiled model, pass the eager model in place of an exported or scripted one, or pass "
        "missing='skip' for networks that drop layers; layers whose forward() the model calls "
        "itself, past their hooks, "
        "cannot be followed."
    )


def layers_not_seen(missing: Sequence[str]) -> str:
    """Say that a training step went by without the layers that should have been measured."""
    listed = ", ".join(missing[:_LISTED]) + (", ..." if len(missing) > _LISTED else "")
    got = f"none of {listed}" if missing else "a step without a whole forward pass"
    return (
        f"every layer must run in a measured training step, got {got}: nothing is logged for this step. "
        "Name layers that run in training, pass missing='skip' for networks that drop layers and "
        "when='always' for layers that train in evaluation mode or without gradients, or start the "
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
        "of a compiled model; exported and scripted models, and copies of the model, are not followed."
    )


def check_state_choice(state: object) -> None:
    """Refuse what does not choose a tensor."""
    if not (
        state is None or callable(state) or (isinstance(state, int | str) and not isinstance(state, bool))
    ):
        raise TypeError(
            f"state must be None, an index, a name or a function of a layer's output, got {state!r}."
        )


def check_state(name: str, state: Tensor) -> None:
    """Refuse a tensor that is no point."""
    if not state.is_floating_point() or state.ndim < 1:
        raise TypeError(
            f"the output of layer {name!r} must hold a floating-point tensor, got {state.dtype} of shape "
            f"{tuple(state.shape)}: name layers whose output is the hidden state."
        )


def state_not_there(name: str, state: object, output: object) -> ValueError:
    """Say that a layer's output holds nothing under an index or name."""
    return ValueError(
        f"state must choose a tensor of what layer {name!r} gives, got {state!r} for a "
        f"{type(output).__name__}: pass an index or a name that it holds, or a function of it."
    )


def check_one_state(name: str, found: Sequence[tuple[str, tuple[int, ...]]]) -> None:
    """Refuse to guess among several tensors that could be the state."""
    if len(found) > 1:
        listed = ", ".join(f"{key!r} of shape {shape}" for key, shape in found[:_LISTED])
        raise ValueError(
            f"state must say which tensor of the output of layer {name!r} is its state, got {len(found)} "
            f"that could be ({listed}): pass state=0, a name, or a function such as "
            "lambda output: output[0] + output[1] where the layer leaves the addition of its residual to the "
            "next one."
        )


def input_unclear(name: str, arguments: Sequence[str]) -> ValueError:
    """Say that the input that belongs to a state cannot be told."""
    return ValueError(
        f"the input of layer {name!r} must hold one tensor that goes on as the state that was chosen, got "
        f"{len(arguments)} of its shape ({', '.join(arguments)}), and the next layer takes the state as none "
        "of them: pass inputs=False to begin with the first output."
    )


def state_taken(name: str, key: str) -> str:
    """Say which tensor was taken for the state."""
    return (
        f"layer {name!r} gives several tensors, and the one that has the shape of its input is taken for its "
        f"state, {key!r}: pass state={key!r} or another choice to say so."
        if not key.isdigit()
        else f"layer {name!r} gives several tensors, and the one that has the shape of its input is taken "
        f"for its state, index {key}: pass state={key} or another choice to say so."
    )


def axes_unclear(name: str, shape: tuple[int, ...]) -> ValueError:
    """Say that the axis of the features cannot be told."""
    return ValueError(
        f"flatten must say which axes of the state at {name!r} are one point, got shape {shape}, which the "
        "layer's parts do not tell: pass flatten='maps' for (batch, channels, *space), or flatten='never' "
        "where the last axis holds the features."
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
    if is_transformed(state):
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
    return RuntimeError("ends=True must be said for .ends, got False: pass ends=True to watch.")


def no_profile() -> RuntimeError:
    """Say that the steps were not measured one by one."""
    return RuntimeError(
        "profile=True must be said for .profile, got False: pass profile=True to watch or TrackAccumulator."
    )


def check_curve_points(points: Tensor, number: int) -> None:
    """Refuse a point (m, d) that no curve of measures runs through."""
    if not len(points) or not bool(points.isfinite().all()):
        got = "NaN or inf" if len(points) else "no track that counts"
        raise ValueError(
            f"curve=True takes finite states of at least one track that counts, got {got} at point {number} "
            "of the pass: leave curve=True out to have the other numbers of such a pass."
        )


def no_curve() -> RuntimeError:
    """Say that there is no curve of measures, or one for each of several passes."""
    return RuntimeError(
        "curve=True must be said for .curve, and a single pass be kept, got another watch: pass curve=True "
        "to watch, and read the curves of several passes in .passes."
    )


def gradient_lost(name: str) -> RuntimeError:
    """Say that a state that should carry gradients does not."""
    return RuntimeError(
        f"detach=False needs states that carry a gradient, got one without at {name!r}: leave "
        "torch.no_grad(), and with activation checkpointing use use_reentrant=False."
    )


def changed_in_place(name: str) -> RuntimeError:
    """Say that a state changed while it was still needed."""
    return RuntimeError(
        f"the {name} state must stay as it was until the next layer has run, got one that was changed in "
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


def zero_step_found(step: int, tracks: int) -> ValueError:
    """Say that a step has length zero under zero_step='raise'."""
    return ValueError(
        f"zero_step='raise' allows no step of length zero, got {tracks} of them at step {step}: "
        "pass zero_step='skip' to leave such steps out."
    )
