# SPDX-License-Identifier: MIT
"""A Lightning callback that logs how straight the tracks of the training batches are."""

from __future__ import annotations

from typing import Any

from geodesic_fast.integrations._packages import need
from geodesic_fast.integrations._training import TrainingWatch
from geodesic_fast.recording.layers import Layers


def _callback_class() -> Any:
    try:
        return need("lightning.pytorch", "the Lightning callback", "lightning").Callback
    except ImportError as missing:
        try:
            return need("pytorch_lightning", "the Lightning callback", "lightning").Callback
        except ImportError:
            raise missing from missing.__cause__


Callback: Any = _callback_class()


class GeodesicCallback(Callback):
    """Log `geodesic/lss` and the other fields of `track_geometry`, as means over tracks, during training.

    Every `every_n_steps` optimizer steps, and at the first, the next `batches` training batches are
    measured in their own forward pass: no pass, no random number and no change of mode is added, and
    training goes on bit by bit as without it. Of each batch the first pass in training mode with gradients is
    taken. The values are of the network in training mode, dropout included. Under several processes they are
    means over the tracks of all of them.

    Args:
        layers: as for `watch`, within the LightningModule: `"net.blocks.*"`. `None`: its one stack of equal
            blocks.
        every_n_steps: optimizer steps (`trainer.global_step`) from one measurement to the next, however many
            batches `accumulate_grad_batches` puts into a step.
        batches: training batches in one measurement.
        options: the other arguments of `watch`, as mask, tokens, without_ids, zero_step, flatten, state, or
            `when="always"` for a network whose layers train in evaluation mode; copy is True unless said.
            With `profile=True` the means of each step are logged too, as `geodesic/<layer>/state_cosine`.

    Returns:
        A callback for `Trainer(callbacks=[...])`. Values go to every logger of the trainer at the step at
        which they are ready, whatever its `log_every_n_steps`, and to `trainer.callback_metrics`. A network
        that changes its width has one set per group of layers, `geodesic/<first layer>/lss`.

    Raises:
        ValueError: as `watch`, when training begins. A batch in which not every layer runs, or whose mask
            cannot be read, is reported by a warning and not logged.

    A model that torch.compile compiles keeps the hooks, asleep, while it trains: each is a break in its
    graph.

    Nothing is differentiated. Lower lss is straighter; the other directions are those of `track_geometry`.

    Example:
        >>> from geodesic_fast.integrations.lightning import GeodesicCallback
        >>> callback = GeodesicCallback("net.blocks.*", every_n_steps=50)
    """

    def __init__(self, layers: Layers = None, *, every_n_steps: int = 100, batches: int = 1, **options: Any):
        super().__init__()
        self._training = TrainingWatch(layers, every_n_steps, batches, options)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Find the layers."""
        self._training.start(pl_module, compiled=getattr(pl_module, "_compiler_ctx", None) is not None)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Measure this batch if its turn has come."""
        self._training.before_batch(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what is ready."""
        values = self._training.after_batch()
        if values is None:
            return
        pl_module.log_dict(values, logger=False, on_step=True, on_epoch=False)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Take the hooks away."""
        self._training.stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Take the hooks away."""
        self._training.stop()
