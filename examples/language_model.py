# SPDX-License-Identifier: MIT
"""The residual stream of a Hugging Face language model, real tokens alone."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from geodesic_fast.integrations.hugging_face import hidden_state_geometry
from geodesic_fast.recording import watch

model = GPT2LMHeadModel(GPT2Config(n_layer=6, n_embd=128, n_head=4, vocab_size=1000)).eval()
batch = {"input_ids": torch.randint(0, 1000, (2, 12)), "attention_mask": torch.ones(2, 12, dtype=torch.long)}
batch["attention_mask"][1, 8:] = 0

with torch.no_grad(), watch(model) as w:
    model(**batch)
print(w.geometry.lss.shape)  # 20 real tokens: the mask of the call is found

with torch.no_grad():
    output = model(**batch, output_hidden_states=True)
geometry = hidden_state_geometry(output, attention_mask=batch["attention_mask"], final_norm="exclude")
print(geometry.lss.shape)
