# SPDX-License-Identifier: MIT
"""The residual stream of a Hugging Face model on the tokens of a text."""

from __future__ import annotations

import sys
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
    reader, part = _reader(model)
    tokens = min(options.tokens, _positions(reader, options.tokens), tokenizer.model_max_length)
    pieces = cut(tokenizer, words, tokens)[: options.limit]
    special = _special_ids(tokenizer)
    left_out = special if options.without_special else None
    batches = list(_batches(pieces, options.batch))

    def feed() -> Iterator[tuple[int, dict]]:
        for batch in batches:
            yield len(batch["input_ids"]), batch

    title = f"{name}{' with random weights' if options.random_weights else ''}"
    about = part + _about(pieces, special, tokens, text, options)
    source = Source(
        title, about, len(pieces), "piece", lambda: watched(source, reader, options, feed, left_out)
    )
    return source


def _reader(model: Any) -> tuple[Any, str]:
    """The part of a model that reads text alone, and its name."""
    if getattr(model.config, "is_encoder_decoder", False):
        return model.get_encoder(), "encoder, "
    for part in ("text_model", "language_model"):
        if isinstance(getattr(model, part, None), torch.nn.Module):
            return getattr(model, part), f"{part}, "
    return model, ""


def _positions(model: Any, most: int) -> int:
    """How many tokens the model's table of positions has room for."""
    table = getattr(model.config, "max_position_embeddings", None) or 0
    room = [most, table if table > 0 else most]  # XLNet, which has no table, says -1
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and isinstance(padding, int):
            room.append(module.num_embeddings - padding - 1)  # RoBERTa and others count from there
    return min(room)


def _special_ids(tokenizer: Any) -> list[int]:
    """Ids that stand for no words; an unknown word is one."""
    return sorted(set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})


def _about(pieces: list, special: list[int], tokens: int, text: Path, options: Options) -> str:
    ids = torch.tensor([token for piece, _ in pieces for token in piece[options.skip_tokens :]])
    found = int(torch.isin(ids, torch.tensor(special)).sum())
    count = len(ids) - (found if options.without_special else 0)
    said = ""
    if found and options.without_special:
        said = f", without {found} special ones"
    elif found:
        said = f", {found} of them special (--without-special leaves them out)"
    skipped = f", the first {options.skip_tokens} of each left out" if options.skip_tokens else ""
    return f"{count} tokens of {text.name} in pieces of {tokens}{said}{skipped}"


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
    be_quiet(transformers)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        if not options.random_weights:
            return transformers.AutoModel.from_pretrained(name), tokenizer
        torch.manual_seed(options.seed)
        config = transformers.AutoConfig.from_pretrained(name)
        return transformers.AutoModel.from_config(config), tokenizer
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise missing(name, error) from error


def be_quiet(transformers: Any) -> None:
    """Let the library say errors alone, and draw bars on a terminal alone."""
    transformers.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()


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
