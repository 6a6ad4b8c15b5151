# SPDX-License-Identifier: MIT
"""Tracks measured now and then while a training loop runs: what the callbacks of every framework share."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from geodesic_fast import StepGeometry, TrackGeometry
from geodesic_fast.recording import MeasuredGroup, mistakes, watch
from geodesic_fast.recording.layers import Layers

PREFIX = "geodesic"


class TrainingWatch:
    """Watches every `every_n_steps`-th step for `batches` passes, and gives means over tracks and processes.

    It reads the passes that training makes anyway: no pass of its own, no random number, no change of mode.
    Of a batch it takes the first pass in training mode with gradients, and the hooks leave when that ends:
    what a reference model, a generated sample or another callback runs afterwards is not measured.
    """

    def __init__(self, layers: Layers, every_n_steps: int, batches: int, options: dict[str, Any]):
        mistakes.check_count("every_n_steps", every_n_steps)
        mistakes.check_count("batches", batches)
        self._layers, self._every, self._batches, self._options = layers, every_n_steps, batches, options
        self._watch: watch | None = None
        self._device = torch.device("cpu")
        self._names: list[str] = []  # of the numbers of the last pass
        self._collected: list[Tensor | None] = []  # per pass (2, numbers), or None of one not whole
        self._begun: int | None = None  # the last step that was measured
        self._measuring = False

    def start(self, model: nn.Module, compiled: bool) -> None:
        """Find the layers. Hooks stay in a compiled model, which would not see them come back."""
        self.stop()
        # A pass without all layers is no reason to end a training run: it is reported, not raised.
        options = {"copy": True, "when": "training", **self._options, "missing": "skip", "passes": "first"}
        self._watch = watch(model, self._layers, **options)
        hooks = self._watch.hooks
        hooks.once, hooks.raises = True, False
        hooks.stays = compiled or any(_is_compiled(module) for module in model.modules())
        self._device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self._begun, self._collected, self._measuring = None, [], False
        if hooks.stays:
            hooks.attach()
            hooks.sleep()

    def before_batch(self, step: int) -> None:
        """Wake the hooks if this batch is to be measured; `step` counts the optimizer steps before it."""
        if self._watch is None:
            return
        if self._begun is None or step // self._every > self._begun // self._every:
            self._measuring = True
        if self._measuring:
            self._begun = step
            self._watch.forget()
            self._watch.hooks.attach()

    def after_batch(self) -> dict[str, float] | None:
        """Take what the batch gave; return the means once `batches` of them are measured."""
        if self._watch is None or not self._measuring:
            return None
        self._watch.hooks.finish()
        self._watch.hooks.rest()
        self._collected.append(self._sums_of_pass(self._watch))
        if len(self._collected) < self._batches:
            return None
        collected, self._collected, self._measuring = self._collected, [], False
        return self._means(collected)

    def stop(self) -> None:
        """Take the hooks away for good."""
        if self._watch is not None:
            self._watch.hooks.detach()
        self._watch, self._measuring = None, False

    def _sums_of_pass(self, measured: watch) -> Tensor | None:
        """Sum and count of each number over the tracks, (2, numbers), of a pass that was whole."""
        if measured.refused is not None:
            return None  # the watch has said why
        absent = measured.hooks.not_run()
        if not measured.measured or (absent and self._options.get("missing", "raise") == "raise"):
            warnings.warn(mistakes.layers_not_seen(absent), RuntimeWarning, stacklevel=3)
            return None
        named: dict[str, tuple[Tensor, Tensor]] = {}
        for group in measured.groups:
            name = group.names[0].removeprefix("input of ")
            named |= _sums(PREFIX if len(measured.groups) == 1 else f"{PREFIX}/{name}", group)
        self._names = list(named)
        return torch.stack([torch.stack(pair).to(self._device) for pair in named.values()], 1)

    def _means(self, collected: list[Tensor | None]) -> dict[str, float] | None:
        """The means by name, over the passes and processes, or None where one of them was not whole."""
        whole = [sums for sums in collected if sums is not None]
        sizes = {sums.shape[1] for sums in whole} if len(whole) == len(collected) else {0}
        # Every process asks, so that none waits for another; the largest count and the least must agree.
        counts = torch.tensor([max(sizes), -min(sizes)], device=self._device)
        _reduce(counts, dist.ReduceOp.MAX)
        if int(counts[0]) != -int(counts[1]) or not int(counts[0]):
            return None
        sums = torch.stack(whole).sum(0)  # (2, numbers)
        _reduce(sums, dist.ReduceOp.SUM)
        return dict(zip(self._names, (sums[0] / sums[1]).tolist(), strict=True))


def _reduce(values: Tensor, how: Any) -> None:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values, op=how)


def _sums(prefix: str, group: MeasuredGroup) -> dict[str, tuple[Tensor, Tensor]]:
    """Sum over the tracks and count of each field, and of each number of each step, by name."""
    named = {}
    for field, values in zip(TrackGeometry._fields, group.geometry, strict=True):
        values = values.reshape(-1).double()
        named[f"{prefix}/{field}"] = values.sum(), torch.ones_like(values).sum()
    if group.profile is not None:
        for field, sums, counts in zip(StepGeometry._fields, *group.profile.sums(), strict=True):
            for layer, total, count in zip(group.names[1:], sums, counts.double(), strict=False):
                named[f"{PREFIX}/{layer}/{field}"] = total, count
    return named


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
