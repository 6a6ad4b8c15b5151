# SPDX-License-Identifier: MIT
"""A callback for the Hugging Face Trainer that logs how straight the tracks of the training batches are."""

from __future__ import annotations

from typing import Any

from geodesic_fast.integrations._packages import need
from geodesic_fast.integrations._training import TrainingWatch
from geodesic_fast.recording.layers import Layers

TrainerCallback: Any = need("transformers", "the Trainer callback", "transformers").TrainerCallback


class GeodesicCallback(TrainerCallback):
    """Log `geodesic/lss` and the other fields of `track_geometry`, as means over real tokens, during
    training.

    Every `every_n_steps` optimizer steps, and at the first, the next `batches` forward passes of training are
    measured as they happen: no pass, no random number and no change of mode is added, and training goes on
    bit by bit as without it. The values are of the network in training mode, dropout included. Padding, as
    the batch's attention_mask has it, does not count. Under several processes they are means over the
    tokens of all of them.

    Args:
        trainer: the Trainer, whose `log` sends the values to TensorBoard, W&B and the others in `report_to`.
        layers: as for `watch`: `"transformer.h.*"`. `None`: the one stack of blocks of the model.
        every_n_steps: optimizer steps from one measurement to the next.
        batches: forward passes in one measurement; with gradient accumulation a step has several.
        options: the other arguments of `watch`: mask, zero_step, inputs, flatten, repeats, missing, copy
            (here True unless said).

    Returns:
        A callback for `trainer.add_callback(...)`. Values are logged at the end of the step in which they are
        ready and stand in `trainer.state.log_history`.

    Raises:
        ValueError: as `watch`. A step in which not every layer runs is reported by a warning and not logged.

    A model that torch.compile compiles keeps the hooks, asleep, while it trains: each is a break in its
    graph.

    Nothing is differentiated. Lower lss is straighter; the other directions are those of `track_geometry`.

    Example:
        A Trainer needs a model and data: see examples/hugging_face_trainer.py.
    """

    def __init__(
        self,
        trainer: Any,
        layers: Layers = None,
        *,
        every_n_steps: int = 100,
        batches: int = 1,
        **options: Any,
    ):
        self._trainer = trainer
        self._training = TrainingWatch(layers, every_n_steps, batches, options)
        self._ready: dict[str, float] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Find the layers."""
        self._training.start(model, compiled=bool(getattr(args, "torch_compile", False)))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure this step if its turn has come."""
        self._training.before_batch(state.global_step)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take one of the passes of a step with gradient accumulation, and go on to the next."""
        self._ready = self._training.after_batch() or self._ready
        self._training.before_next_pass()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log what is ready."""
        values = self._training.after_batch() or self._ready
        self._ready = None
        if values is not None:
            self._trainer.log(values)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the hooks away."""
        self._training.stop()
