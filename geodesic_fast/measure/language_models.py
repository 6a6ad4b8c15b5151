# SPDX-License-Identifier: MIT
"""The residual stream of a Hugging Face model on the tokens of a text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from geodesic_fast._command_line import UserError
from geodesic_fast.integrations._packages import need
from geodesic_fast.measure.source import Options, Source, watched


def open_source(name: str, text: Path, options: Options) -> Source:
    """Load the model and its tokenizer, and cut the text into pieces of equal length."""
    try:
        transformers: Any = need("transformers", "a Hugging Face model", "transformers")
    except ImportError as error:
        raise UserError(str(error)) from error
    words = read_text(text)
    model, tokenizer = _load(transformers, name, options)
    encoder = bool(getattr(model.config, "is_encoder_decoder", False))
    model = model.get_encoder() if encoder else model
    positions = getattr(model.config, "max_position_embeddings", None) or options.tokens
    tokens = min(options.tokens, positions, tokenizer.model_max_length)
    pieces = cut(tokenizer, words, tokens)[: options.limit]
    total = sum(len(ids) for ids, _ in pieces)
    about = f"{'encoder, ' if encoder else ''}{total} tokens of {text.name} in pieces of {tokens}"
    batches = list(_batches(pieces, options.batch))

    def feed() -> Iterator[tuple[int, dict]]:
        for batch in batches:
            yield len(batch["input_ids"]), batch

    title = f"{name}{' with random weights' if options.random_weights else ''}"
    source = Source(title, about, len(pieces), "piece", lambda: watched(source, model, options, feed))
    return source


def read_text(path: Path) -> str:
    """Return the text of a file."""
    try:
        words = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--text must be a readable text file in UTF-8, got {error}: check the path."
        ) from error
    if not words.strip():
        raise UserError(f"--text must hold words, got the empty file {path}.")
    return words


def _load(transformers: Any, name: str, options: Options) -> tuple[Any, Any]:
    transformers.logging.set_verbosity_error()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        if not options.random_weights:
            return transformers.AutoModel.from_pretrained(name), tokenizer
        torch.manual_seed(options.seed)
        config = transformers.AutoConfig.from_pretrained(name)
        return transformers.AutoModel.from_config(config), tokenizer
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise missing(name, error) from error


def missing(name: str, error: Exception) -> UserError:
    """Say that a model is neither on this disk nor to be had from the hub."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return UserError(
        f"{name} must be a Hugging Face model on this disk or one that can be downloaded, got {first!r}: "
        "pass a local "
        "folder with config.json, weights and tokenizer, or connect to the network once."
    )


def cut(tokenizer: Any, words: str, tokens: int) -> list[tuple[list[int], list[int]]]:
    """Return the pieces as (token ids, attention mask), all of one length but the last."""
    encoded = tokenizer(words, truncation=True, max_length=tokens, return_overflowing_tokens=True)
    ids = encoded["input_ids"]
    if ids and not isinstance(ids[0], list):  # a tokenizer in Python gives one piece and the rest
        rest = encoded.get("overflowing_tokens", [])
        ids = [ids, *(rest[at : at + tokens] for at in range(0, len(rest), tokens))]
    return [(piece, [1] * len(piece)) for piece in ids if len(piece) > 0]


def _batches(pieces: list[tuple[list[int], list[int]]], size: int) -> Iterator[dict]:
    """Pieces of one length together: no padding."""
    held: list[tuple[list[int], list[int]]] = []
    for piece in pieces:
        if held and (len(held) == size or len(held[0][0]) != len(piece[0])):
            yield _batch(held)
            held = []
        held.append(piece)
    if held:
        yield _batch(held)


def _batch(pieces: list[tuple[list[int], list[int]]]) -> dict:
    ids, mask = zip(*pieces, strict=True)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}  # (batch, tokens)
