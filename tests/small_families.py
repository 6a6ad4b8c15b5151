# SPDX-License-Identifier: MIT
"""Every family of models of the installed transformers, with random weights, small enough for a test."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the package transformers")

VOCABULARY = 99
LARGE = 40_000_000  # parameters
WIDTH, INNER, HEADS, DEPTH, IMAGE, PATCH = 32, 48, 4, 3, 32, 8

# What makes a model large, by the names that configurations give it.
SMALL: dict[str, Any] = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "embed_dim", "dim", "embedding_size", "decoder_hidden_size",
         "encoder_hidden_size", "projection_dim", "conv_dim_out", "word_embed_proj_dim", "lru_width",
         "attention_hidden_size", "encoder_dim", "decoder_dim", "hidden_dim", "projection_size", "input_dim",
         "fpn_feature_size", "mask_feature_size", "output_dim", "d_embed"), WIDTH),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "d_ff", "n_inner", "encoder_ffn_dim", "decoder_ffn_dim", "d_inner",
         "moe_intermediate_size", "shared_expert_intermediate_size", "dim_feedforward",
         "ffn_hidden_size", "mlp_dim", "shared_intermediate_size", "d_inner_dim", "inner_dim",
         "decoder_intermediate_size", "intermediate_size_mlp", "encoder_intermediate_size"), INNER),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "num_heads", "encoder_attention_heads", "decoder_attention_heads",
         "encoder_num_attention_heads", "decoder_num_attention_heads", "attention_heads"), HEADS),
    **dict.fromkeys(("num_key_value_heads", "encoder_num_key_value_heads", "decoder_num_key_value_heads"), 2),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "num_layers",
         "num_decoder_layers", "num_encoder_layers", "encoder_num_hidden_layers", "decoder_num_hidden_layers",
         "encoder_depth", "num_blocks_per_stage"), DEPTH),
    **dict.fromkeys(("head_dim", "d_kv", "d_head", "attention_head_size", "kv_channels", "v_head_dim"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group"), 1),
    "vocab_size": VOCABULARY, "text_vocab_size": VOCABULARY, "max_position_embeddings": 64, "n_positions": 64,
    "n_ctx": 64, "max_source_positions": 64, "max_target_positions": 64, "image_size": IMAGE,
    "patch_size": PATCH, "type_vocab_size": 2,
}  # fmt: skip
# What some families need beyond that; None leaves their own value.
_MLA = {"num_key_value_heads": 4, "head_dim": None}
_STAGES = {"hidden_sizes": [16, 24, 32], "depths": [2, 3, 2]}
_SWIN = {
    "embed_dim": 16,
    "num_heads": [2, 2, 4, 4],
    "depths": [2, 2, 3, 2],
    "patch_size": 2,
    "window_size": 2,
}
_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_expand": 2}
OPTIONS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("deepseek_v2", "deepseek_v3", "deepseek_v32", "minicpm3", "glm4_moe_lite", "longcat_flash", "axk1",
         "axk2", "mistral4", "esmc", "glm5_next_text", "bailing_hybrid", "kimi_linear", "mistral_large4_text",
         "moonshine"), _MLA),
    "convnext": _STAGES, "convnextv2": _STAGES,
    "swin": _SWIN, "swinv2": _SWIN, "donut-swin": _SWIN, "maskformer-swin": _SWIN,
    "hunyuan_v1_dense": _ROPE, "hunyuan_v1_moe": _ROPE, "ministral": _ROPE,
    "longformer": {"attention_window": 8}, "led": {"attention_window": 8},
    "codegen": {"rotary_dim": 4}, "gptj": {"rotary_dim": 4},
    "swin2sr": {"embed_dim": 16, "num_heads": [2, 2, 4], "depths": [2, 2, 3], "window_size": 4},
    "funnel": {"num_hidden_layers": None, "block_sizes": [2, 2, 2]},
    "prophetnet": {"num_hidden_layers": None},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "num_layers": 4},
    "reformer": {"axial_pos_shape": (8, 8), "axial_pos_embds_dim": (16, 16), "attention_head_size": 8},
    "layoutlmv3": {"coordinate_size": 5, "shape_size": 6},
    "esm": {"pad_token_id": 1}, "nemotron": _MLA | {"head_dim": 8},
    "granitemoehybrid": _MAMBA, "bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "mamba": {"state_size": 8},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2},
    "gemma3n_text": {
        "layer_types": ["full_attention"] * 3, "num_kv_shared_layers": 0, "intermediate_size": INNER,
        "activation_sparsity_pattern": [0.0] * 3, "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 8,
    },
    "jamba": {"mamba_d_state": 8, "attn_layer_period": 2, "attn_layer_offset": 1, "num_hidden_layers": 4},
}  # fmt: skip
TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "mask_token_id")


def small_config(config_class: Any, **options: Any) -> Any:
    """A configuration with every number that makes a model large set to a small one."""
    given = config_class()
    values = {name: small for name, small in SMALL.items() if _is_number(given, name)}
    for name in TOKEN_IDS:
        if isinstance(getattr(given, name, None), int) and getattr(given, name) >= VOCABULARY:
            values[name] = 1
    for name in getattr(config_class, "sub_configs", {}):
        inner = getattr(given, name, None)
        if inner is not None:
            values[name] = small_config(type(inner))
    settable = not isinstance(getattr(type(given), "layer_types", None), property)
    if settable and isinstance(getattr(given, "layer_types", None), list) and "num_hidden_layers" in values:
        values["layer_types"] = list(dict.fromkeys(given.layer_types)) * DEPTH
        values["layer_types"] = values["layer_types"][:DEPTH]
    mine = OPTIONS.get(config_class.model_type, {})
    return config_class(**{k: v for k, v in {**values, **mine, **options}.items() if v is not None})


def _is_number(given: Any, name: str) -> bool:
    if isinstance(getattr(type(given), name, None), property):
        return False
    try:
        value = getattr(given, name, None)
    except Exception:  # what varies from layer to layer has no one value
        return False
    return isinstance(value, int) and not isinstance(value, bool)


def families() -> list[str]:
    """The names of all families that have a model without a head."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    return sorted(MODEL_MAPPING_NAMES)


def build(name: str, generates: bool = False) -> Any:
    """A small model of a family, or None where it has none, does not become small or misses a package."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

    try:
        config_class = CONFIG_MAPPING[name]
        model_class = (MODEL_FOR_CAUSAL_LM_MAPPING if generates else MODEL_MAPPING)[config_class]
        model_class = model_class[0] if isinstance(model_class, tuple) else model_class
        config = small_config(config_class)
        with torch.device("meta"):
            empty = model_class._from_config(config)
        if sum(parameter.numel() for parameter in empty.parameters()) > LARGE:
            return None
        torch.manual_seed(0)
        return model_class._from_config(config).eval()
    except Exception:  # a configuration that these numbers do not fit raises whatever it likes
        return None


def inputs(model: Any) -> dict[str, Any] | None:
    """Two samples of what the model takes, the second sentence three tokens shorter."""
    main = getattr(model, "main_input_name", "input_ids")
    generator = torch.Generator().manual_seed(0)
    if main == "input_ids":
        ids = torch.randint(5, VOCABULARY - 5, (2, 12), generator=generator)
        mask = torch.ones_like(ids)
        mask[1, 9:] = 0
        given = {"input_ids": ids, "attention_mask": mask}
        if "decoder_input_ids" in inspect.signature(type(model).forward).parameters:
            given["decoder_input_ids"] = ids[:, :7].clone()
        return given
    mel = getattr(model.config, "num_mel_bins", None) or getattr(model.config, "feature_size", 80)
    shapes = {
        "pixel_values": (2, 3, IMAGE, IMAGE), "pixel_values_videos": (2, 4, 3, IMAGE, IMAGE),
        "input_features": (2, mel, 128), "input_values": (2, 2000),
    }  # fmt: skip
    known = isinstance(main, str) and main in shapes
    return {main: torch.randn(shapes[main], generator=generator)} if known else None
