# SPDX-License-Identifier: MIT
"""Tracks measured now and then while a training loop runs: what the callbacks of every framework share."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from geodesic_fast import TrackGeometry
from geodesic_fast import _validation_models as _validation
from geodesic_fast.recording import watch
from geodesic_fast.recording.layers import Layers

PREFIX = "geodesic"


class TrainingWatch:
    """Watches every `every_n_steps`-th step for `batches` passes, and gives means over tracks and processes.

    It reads the passes that training makes anyway: no pass of its own, no random number, no change of mode.
    """

    def __init__(self, layers: Layers, every_n_steps: int, batches: int, options: dict[str, Any]):
        _validation.check_count("every_n_steps", every_n_steps)
        _validation.check_count("batches", batches)
        self._layers, self._every, self._batches, self._options = layers, every_n_steps, batches, options
        self._watch: watch | None = None
        self._stay = False
        self._device = torch.device("cpu")
        self._collected: list[list[Tensor]] = []
        self._absent: list[str] | None = None  # layers that a pass of this measurement lacked
        self._first_step = True
        self._measuring = False

    def start(self, model: nn.Module, compiled: bool) -> None:
        """Find the layers. Hooks stay in a compiled model, which would not see them come back."""
        # A pass without all layers is no reason to end a training run: it is reported, not raised.
        self._watch = watch(model, self._layers, **{"copy": True, **self._options, "missing": "skip"})
        self._stay = compiled or any(_is_compiled(module) for module in model.modules())
        self._device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self._first_step, self._collected, self._measuring, self._absent = True, [], False, None
        if self._stay:
            self._watch.hooks.attach()
            self._watch.hooks.sleep()

    def before_batch(self, step: int) -> None:
        """Wake the hooks if this batch is to be measured."""
        assert self._watch is not None
        if self._first_step or step % self._every == 0:
            self._measuring = True
        self.before_next_pass()

    def before_next_pass(self) -> None:
        """Wake the hooks for one more pass if the measurement that began is not complete."""
        assert self._watch is not None
        if self._measuring:
            self._first_step = False
            self._watch.forget()
            self._watch.hooks.attach()

    def after_batch(self) -> dict[str, float] | None:
        """Take what the batch gave; return the means once `batches` of them are measured."""
        if not self._measuring:
            return None
        assert self._watch is not None
        self._watch.hooks.finish()
        self._rest()
        absent = self._watch.hooks.not_run()
        if not self._watch.measured or (absent and self._options.get("missing", "raise") == "raise"):
            self._absent = absent
        groups = self._watch.groups if self._watch.measured else []
        self._collected.append([_sums(group.geometry) for group in groups])
        if len(self._collected[0]) != len(self._collected[-1]):
            self._absent = absent
        if len(self._collected) < self._batches:
            return None
        means = self._means() if self._all_are_whole() else None
        self._measuring, self._collected, self._absent = False, [], None
        return means

    def _all_are_whole(self) -> bool:
        """Whether every pass of every process was whole; all ask, so that none waits for another."""
        assert self._watch is not None
        if self._absent is not None:
            warnings.warn(str(_validation.layers_not_seen(self._absent)), RuntimeWarning, stacklevel=3)
        broken = torch.tensor(self._absent is not None, dtype=torch.int32, device=self._device)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(broken, op=dist.ReduceOp.MAX)
        return not bool(broken)

    def stop(self) -> None:
        """Take the hooks away for good."""
        if self._watch is not None:
            self._watch.hooks.detach()
        self._watch = None

    def _rest(self) -> None:
        assert self._watch is not None
        if self._stay:
            self._watch.hooks.sleep()
        else:
            self._watch.hooks.detach()

    def _means(self) -> dict[str, float]:
        """The means by name, over the batches collected and, where there are several, over all processes."""
        assert self._watch is not None
        groups = self._watch.groups
        sums = torch.stack([torch.stack(batch) for batch in self._collected]).sum(0)  # (groups, 2, fields)
        sums = sums.to(self._device)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        means = (sums[:, 0] / sums[:, 1]).tolist()
        named: dict[str, float] = {}
        for group, values in zip(groups, means, strict=True):
            prefix = PREFIX if len(groups) == 1 else f"{PREFIX}/{group.names[0].removeprefix('input of ')}"
            named |= {f"{prefix}/{field}": v for field, v in zip(TrackGeometry._fields, values, strict=True)}
        return named


def _sums(geometry: TrackGeometry) -> Tensor:
    """Sum and count of each field over the tracks, (2, fields)."""
    values = torch.stack([field.reshape(-1).double() for field in geometry])  # (fields, tracks)
    return torch.stack([values.sum(1), torch.ones_like(values).sum(1)])


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
