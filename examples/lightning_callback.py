# SPDX-License-Identifier: MIT
"""Log the line-shape score while a Lightning Trainer trains."""

import lightning
import torch
from spirals import ResNet, spirals
from torch.utils.data import DataLoader, TensorDataset

from geodesic_fast.integrations.lightning import GeodesicCallback


class Module(lightning.LightningModule):
    """The residual network on the spirals."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ResNet()

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
        """Return the loss of one batch."""
        logits, _ = self.net(batch[0])
        return torch.nn.functional.cross_entropy(logits, batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


trainer = lightning.Trainer(
    max_epochs=1,
    callbacks=[GeodesicCallback("net.blocks.*", every_n_steps=5)],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    accelerator="cpu",
)
trainer.fit(Module(), DataLoader(TensorDataset(*spirals()), batch_size=64))
print(trainer.callback_metrics["geodesic/lss"])
