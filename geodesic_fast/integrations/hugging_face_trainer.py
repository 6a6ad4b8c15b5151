# SPDX-License-Identifier: MIT
"""A callback for the Hugging Face Trainer that logs how straight the tracks of the training batches are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from geodesic_fast.integrations._packages import need
from geodesic_fast.integrations._training import TrainingWatch
from geodesic_fast.recording.layers import Layers

TrainerCallback: Any = need("transformers", "the Trainer callback", "transformers").TrainerCallback


class GeodesicCallback(TrainerCallback):
    """Log `geodesic/lss` and the other fields of `track_geometry`, as means over real tokens, during
    training.

    Every `every_n_steps` optimizer steps, and at the first, the next `batches` training steps are measured in
    their own forward pass: no pass, no random number and no change of mode is added, and training goes on
    bit by bit as without it. Of each the first pass in training mode with gradients is taken: not that of a
    reference model, of an evaluation or of generated samples. The values are of the network in training mode,
    dropout included. Padding, as the batch's attention_mask has it, does not count. Under several processes
    they are means over the tokens of all of them.

    Args:
        trainer: the Trainer, whose `log` sends the values to TensorBoard, W&B and the others in `report_to`.
        layers: as for `watch`: `"transformer.h.*"`. `None`: the one stack of blocks of the model.
        every_n_steps: optimizer steps from one measurement to the next.
        batches: batches in one measurement; with gradient accumulation a step has several.
        options: the other arguments of `watch`, as mask, tokens, without_ids, zero_step, flatten, state, or
            `when="always"` for a network whose layers train in evaluation mode; copy is True unless said.
            With `profile=True` the means of each step are logged too, as `geodesic/<layer>/state_cosine`.

    Returns:
        A callback for `trainer.add_callback(...)`. Values are logged at the end of the step in which they are
        ready and stand in `trainer.state.log_history`.

    Raises:
        ValueError: as `watch`, when training begins. A step in which not every layer runs, or whose mask
            cannot be read, is reported by a warning and not logged.

    The hooks are in the model during a measured `trainer.training_step` alone, which this callback wraps, and
    leave also when it ends by an exception or by Ctrl-C. A model that torch.compile compiles keeps them,
    asleep, while it trains: each is a break in its graph.

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
        self._wraps = False  # the Trainer's training_step

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Find the layers."""
        self._ready = None
        self._training.start(model, compiled=bool(getattr(args, "torch_compile", False)))
        if not self._wraps:
            self._trainer.training_step = self._measured(self._trainer.training_step)
            self._wraps = True

    def _measured(self, training_step: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(training_step)
        def step(*args: Any, **kwargs: Any) -> Any:
            self._training.before_batch(self._trainer.state.global_step)
            try:
                loss = training_step(*args, **kwargs)
            except BaseException:
                self._training.stop()
                raise
            self._ready = self._training.after_batch() or self._ready
            return loss

        return step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log what is ready."""
        values, self._ready = self._ready, None
        if values is not None:
            self._trainer.log(values)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the hooks away."""
        self._training.stop()
