# SPDX-License-Identifier: MIT
"""Log the line-shape score while the Hugging Face Trainer trains."""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from geodesic_fast.integrations.hugging_face_trainer import GeodesicCallback

ids = torch.randint(0, 1000, (64, 16))
dataset = [{"input_ids": row, "labels": row} for row in ids]
model = GPT2LMHeadModel(GPT2Config(n_layer=4, n_embd=64, n_head=4, vocab_size=1000))
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder,
        max_steps=6,
        per_device_train_batch_size=8,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=dataset)
    trainer.add_callback(GeodesicCallback(trainer, every_n_steps=3))
    trainer.train()
print([round(line["geodesic/lss"], 3) for line in trainer.state.log_history if "geodesic/lss" in line])
