# SPDX-License-Identifier: MIT
"""Which modules of a network are its layers: names, glob patterns, or the one stack of equal blocks."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from geodesic_fast.recording import mistakes

# What wrappers (DistributedDataParallel, torch.compile, FSDP, activation checkpointing) put into names.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})

Layers = str | nn.Module | Sequence[str | nn.Module] | None


@dataclass(frozen=True)
class Found:
    """The layers, by name, the modules that hold all of them, outermost first, and where stages begin."""

    layers: list[tuple[str, nn.Module]]
    holders: list[nn.Module]
    stages: frozenset[str]  # names of the layers with which a stage begins that is a track of its own


def find_layers(model: nn.Module, layers: Layers) -> Found:
    """Resolve `layers` to named modules of `model`, in the order in which the model lists them.

    A pattern is matched part by part: `"blocks.*"` means blocks.0, blocks.1, ... and not blocks.0.attn.
    `None` means the one stack of equal blocks that the model holds, or the blocks of its one row of stages.
    """
    mistakes.check_module(model)
    paths = {id(module): path for path, module in model.named_modules()}
    if layers is None:
        stages = _blocks(model, paths)
    else:
        wanted = [layers] if isinstance(layers, str | nn.Module) else list(layers)
        stages = [_chosen(model, wanted)]
    chosen = [module for stage in stages for module in stage]
    begins = frozenset(_plain(paths[id(stage[0])]) for stage in stages)
    named = [(_plain(paths[id(module)]), module) for module in chosen]
    mistakes.check_followed(model, named)
    return Found(named, _holders(model, paths, chosen), begins if len(stages) > 1 else frozenset())


def _chosen(model: nn.Module, wanted: Sequence[str | nn.Module]) -> list[nn.Module]:
    raw = [(path, module) for path, module in model.named_modules() if path]
    plain: dict[str, nn.Module] = {}
    for path, module in raw:
        if name := _plain(path):
            plain.setdefault(name, module)  # of a wrapper and what it wraps, the wrapper
    keep: set[int] = set()
    for item in wanted:
        found = _matches(item, list(plain.items())) or _matches(item, raw) or _matches(item, _adapted(model))
        mistakes.check_layers_found(item, found, list(plain))
        keep.update(map(id, found))
    chosen = [module for _, module in raw if id(module) in keep]
    mistakes.check_layers_named(chosen)
    return chosen


def _adapted(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules of a model inside PEFT's adapters, by the names that they have without adapters."""
    for module in model.modules():
        base_of: Any = getattr(module, "get_base_model", None)
        if base_of is not None:
            return list(base_of().named_modules())
    return []


def _plain(path: str) -> str:
    return ".".join(part for part in path.split(".") if part not in _WRAPPERS)


def _matches(item: str | nn.Module, named: Iterable[tuple[str, nn.Module]]) -> list[nn.Module]:
    if isinstance(item, nn.Module):
        return [module for _, module in named if module is item]
    mistakes.check_layer_pattern(item)
    return [module for name, module in named if _name_matches(name, item)]


def _name_matches(name: str, pattern: str) -> bool:
    parts, patterns = name.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))


def _blocks(model: nn.Module, paths: dict[int, str]) -> list[list[nn.Module]]:
    """The blocks of the one stack that lies inside no other, in one list, or in one list per stage."""
    stacks = _outermost(model, _is_stack)
    candidates = stacks or _outermost(model, _is_mixed_list)
    if not candidates:
        mistakes.check_followed(model, [])
    names = [f"{_plain(paths[id(stack)]) or 'the model itself'}.*" for stack in candidates]
    mistakes.check_one_stack(names, len(stacks))
    outer = list(stacks[0].children())
    inner = [_outermost(child, _is_stage) for child in outer]
    if not all(len(lists) == 1 for lists in inner):
        mistakes.check_blocks_are_called(names[0], [type(child) for child in outer])
        return [outer]
    stages = [list(lists[0].children()) for lists in inner]
    if all(type(child) is nn.ModuleList for child in outer) or _differ_in_width(outer):
        return stages
    if all(_has_other_parts(child, lists[0]) for child, lists in zip(outer, inner, strict=True)):
        return [outer]
    within = [f"{_plain(paths[id(lists[0])])}.*" for lists in inner]
    raise mistakes.blocks_or_stages(names[0], within)


def _outermost(model: nn.Module, is_list: object) -> list[nn.Module]:
    """The lists inside `model` (or `model` itself) of one kind that lie inside no other such list."""
    assert callable(is_list)
    found: list[tuple[str, nn.Module]] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}." if outer else "") for outer, _ in found)
        if not inside and isinstance(module, nn.ModuleList | nn.Sequential) and is_list(module):
            found.append((path, module))
    return [module for _, module in found]


def _is_stack(module: nn.Module) -> bool:
    """At least two children with inner modules, of one class or of one family of classes."""
    children = list(module.children())
    return (
        len(children) >= 2
        and _of_one_family(children)
        and all(any(c.children()) or _is_list(c) for c in children)
    )


def _is_stage(module: nn.Module) -> bool:
    """Children of one family that normalise something, as blocks do and the experts of a mixture do not."""
    children = list(module.children())
    return bool(children) and _of_one_family(children) and all(map(_normalises, children))


def _is_mixed_list(module: nn.Module) -> bool:
    children = list(module.children())
    return (
        isinstance(module, nn.ModuleList) and len(children) >= 2 and any(any(c.children()) for c in children)
    )


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList | nn.Sequential)


def _of_one_family(children: Sequence[nn.Module]) -> bool:
    """Whether all are of one class, or derive from one class that is more than a module."""
    classes = {type(child) for child in children}
    if len(classes) == 1:
        return True
    shared = set.intersection(*(set(cls.__mro__) for cls in classes))
    return not any(map(_is_list, children)) and bool(shared - set(nn.Module.__mro__))


def _has_other_parts(block: nn.Module, inner: nn.Module) -> bool:
    """Whether a module does more beside a list inside it than to change the shape on the way in or out."""
    others = [c for c in block.children() if inner not in c.modules() and any(True for _ in c.parameters())]
    return len(others) > 2


def _normalises(module: nn.Module) -> bool:
    return any("norm" in type(part).__name__.lower() for part in module.modules())


def _differ_in_width(blocks: Sequence[nn.Module]) -> bool:
    """Whether a parameter of one name has another shape in another block."""
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for block in blocks:
        for name, parameter in block.named_parameters():
            shapes.setdefault(name, set()).add(tuple(parameter.shape))
    return any(len(found) > 1 for found in shapes.values())


def _holders(model: nn.Module, paths: dict[int, str], chosen: Sequence[nn.Module]) -> list[nn.Module]:
    """The model, and each module on the way down to the layers as long as it holds all of them."""
    split = [paths[id(module)].split(".")[:-1] for module in chosen]
    holders = [model]
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        holders.append(holders[-1].get_submodule(parts[0]))
    return holders
