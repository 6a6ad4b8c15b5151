# SPDX-License-Identifier: MIT
"""Which modules of a network are its layers: names, glob patterns, or the one stack of equal blocks."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from geodesic_fast import _validation_models as _validation

# What wrappers (DistributedDataParallel, torch.compile, FSDP, activation checkpointing) put into names.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})

Layers = str | nn.Module | Sequence[str | nn.Module] | None


@dataclass(frozen=True)
class Found:
    """The layers, by name, and the modules that hold all of them, outermost first."""

    layers: list[tuple[str, nn.Module]]
    holders: list[nn.Module]


def find_layers(model: nn.Module, layers: Layers) -> Found:
    """Resolve `layers` to named modules of `model`, in the order in which the model lists them.

    A pattern is matched part by part: `"blocks.*"` means blocks.0, blocks.1, ... and not blocks.0.attn.
    `None` means the one stack of equal blocks that the model holds.
    """
    _validation.check_module(model)
    paths = {id(module): path for path, module in model.named_modules()}
    if layers is None:
        chosen = _only_stack(model)
    else:
        wanted = [layers] if isinstance(layers, str | nn.Module) else list(layers)
        chosen = _chosen(model, wanted)
    return Found([(_plain(paths[id(module)]), module) for module in chosen], _holders(model, paths, chosen))


def _chosen(model: nn.Module, wanted: Sequence[str | nn.Module]) -> list[nn.Module]:
    raw = [(path, module) for path, module in model.named_modules() if path]
    plain: dict[str, nn.Module] = {}
    for path, module in raw:
        if name := _plain(path):
            plain.setdefault(name, module)  # of a wrapper and what it wraps, the wrapper
    keep: set[int] = set()
    for item in wanted:
        found = _matches(item, list(plain.items())) or _matches(item, raw)
        _validation.check_layers_found(item, found, list(plain))
        keep.update(map(id, found))
    chosen = [module for _, module in raw if id(module) in keep]
    _validation.check_layers_named(chosen)
    return chosen


def _plain(path: str) -> str:
    return ".".join(part for part in path.split(".") if part not in _WRAPPERS)


def _matches(item: str | nn.Module, named: Iterable[tuple[str, nn.Module]]) -> list[nn.Module]:
    if isinstance(item, nn.Module):
        return [module for _, module in named if module is item]
    _validation.check_layer_pattern(item)
    return [module for name, module in named if _name_matches(name, item)]


def _name_matches(name: str, pattern: str) -> bool:
    parts, patterns = name.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))


def _only_stack(model: nn.Module) -> list[nn.Module]:
    """The layers of the one list of equal blocks that lies inside no other such list."""
    stacks: list[tuple[str, nn.Module]] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}." if outer else "") for outer, _ in stacks)
        if not inside and isinstance(module, nn.ModuleList | nn.Sequential) and _is_stack(module):
            stacks.append((path, module))
    _validation.check_one_stack([_plain(path) for path, _ in stacks])
    return list(stacks[0][1].children())


def _is_stack(module: nn.Module) -> bool:
    children = list(module.children())
    same = len({type(child) for child in children}) == 1
    return len(children) >= 2 and same and any(True for _ in children[0].children())


def _holders(model: nn.Module, paths: dict[int, str], chosen: Sequence[nn.Module]) -> list[nn.Module]:
    """The model, and each module on the way down to the layers as long as it holds all of them."""
    split = [paths[id(module)].split(".")[:-1] for module in chosen]
    holders = [model]
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        holders.append(holders[-1].get_submodule(parts[0]))
    return holders
