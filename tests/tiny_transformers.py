# SPDX-License-Identifier: MIT
"""Real transformers with random weights, small enough for a test; tests skip where the package is missing."""

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the package transformers")

VOCABULARY = 97


def gpt2(**options):
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=64,
        n_embd=32,
        n_layer=4,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        **options,
    )
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(config).eval()


def llama():
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).eval()


def bert():
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
    )
    torch.manual_seed(0)
    return transformers.BertModel(config).eval()


def t5():
    config = transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=4,
        num_heads=2,
        decoder_start_token_id=0,
    )
    torch.manual_seed(0)
    return transformers.T5ForConditionalGeneration(config).eval()


def vit():
    config = transformers.ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    torch.manual_seed(0)
    return transformers.ViTModel(config).eval()


def padded_batch(tokens: int = 7) -> dict[str, torch.Tensor]:
    """Two sentences, the second of them two tokens shorter."""
    ids = torch.randint(1, VOCABULARY, (2, tokens), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask}
