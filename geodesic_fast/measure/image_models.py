# SPDX-License-Identifier: MIT
"""The layers of an image model of torchvision, timm or Hugging Face on a folder of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geodesic_fast._command_line import UserError
from geodesic_fast.integrations._packages import need
from geodesic_fast.measure.language_models import be_quiet, missing
from geodesic_fast.measure.source import Options, Source, watched

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
Transform = Callable[[Any], Tensor]  # a PIL image to (channels, height, width)


class _Positional(nn.Module):
    """Calls a model whose argument has another name than ours."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.module = model  # a name that layer patterns skip

    def forward(self, pixel_values: Tensor) -> Any:
        return self.module(pixel_values)


def open_source(name: str, folder: Path, options: Options) -> Source:
    """Load the model with the preparation of images it was trained with."""
    images = list_images(folder)[: options.limit]
    library, _, model_name = name.rpartition(":")
    try:
        pillow: Any = need("PIL.Image", "a folder of images", "images")
        torch.manual_seed(options.seed)
        if library == "torchvision":
            loaded, prepare = _torchvision(model_name, options)
            model: nn.Module = _Positional(loaded)
        elif library == "timm":
            loaded, prepare = _timm(model_name, options)
            model = _Positional(loaded)
        else:
            model, prepare = _hugging_face(name, options)
    except ImportError as error:
        raise UserError(str(error)) from error

    def feed() -> Iterator[tuple[int, dict]]:
        for begin in range(0, len(images), options.batch):
            batch = [_read(pillow, path, prepare) for path in images[begin : begin + options.batch]]
            yield len(batch), {"pixel_values": torch.stack(batch)}

    title = f"{name}{' with random weights' if options.random_weights else ''}"
    about = f"{len(images)} images of {folder.name}"
    if options.skip_tokens:
        about += f", without the first {options.skip_tokens} tokens of each"
    source = Source(title, about, len(images), "image", lambda: watched(source, model, options, feed))
    return source


def list_images(folder: Path) -> list[Path]:
    """Return the image files in a folder and its subfolders, by name."""
    if not folder.is_dir():
        raise UserError(f"--images must be a folder, got {folder}: check the path.")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise UserError(
            f"--images must be a folder with images ({', '.join(sorted(SUFFIXES))}), got none in {folder}."
        )
    return found


def _read(pillow: Any, path: Path, prepare: Transform) -> Tensor:
    try:
        with pillow.open(path) as image:
            return prepare(image.convert("RGB"))
    except OSError as error:
        raise UserError(f"{path} must be a readable image, got {error}: remove or repair it.") from error


def _torchvision(name: str, options: Options) -> tuple[nn.Module, Transform]:
    models: Any = _import("torchvision.models", "a torchvision model")
    try:
        weights = models.get_model_weights(name).DEFAULT
    except (ValueError, AttributeError) as error:
        raise UserError(f"torchvision has no model {name!r}, got {error}: see its list of models.") from error
    try:
        model = models.get_model(name, weights=None if options.random_weights else weights)
    except OSError as error:
        raise _not_there(f"torchvision:{name}", error) from error
    return model, weights.transforms()


def _timm(name: str, options: Options) -> tuple[nn.Module, Transform]:
    timm: Any = _import("timm", "a timm model")
    if not timm.is_model(name):
        raise UserError(f"timm has no model {name!r}: see timm.list_models().")
    try:
        model = timm.create_model(name, pretrained=not options.random_weights)
    except (OSError, RuntimeError) as error:
        raise _not_there(f"timm:{name}", error) from error
    return model, timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)


def _hugging_face(name: str, options: Options) -> tuple[nn.Module, Transform]:
    transformers: Any = need("transformers", "a Hugging Face model", "transformers")
    be_quiet(transformers)
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name)
        if options.random_weights:
            config = transformers.AutoConfig.from_pretrained(name)
            model = transformers.AutoModel.from_config(config)
        else:
            model = transformers.AutoModel.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise missing(name, error) from error
    for part in ("vision_model", "vision_tower"):  # of a model that reads text as well
        model = getattr(model, part, model)
    return model, lambda image: processor(image, return_tensors="pt")["pixel_values"][0]


def _import(package: str, purpose: str) -> Any:
    try:
        return need(package, purpose, "images")
    except (RuntimeError, OSError) as error:  # compiled for another torch than the one here
        name = package.split(".")[0]
        raise UserError(
            f"{purpose} needs a torchvision that fits this torch, got {str(error).splitlines()[0]!r} from "
            f"{name}: "
            "install the torchvision of the same release and kind (CPU or CUDA) as torch."
        ) from error


def _not_there(name: str, error: Exception) -> UserError:
    return UserError(
        f"{name} needs its weights on this disk or a download, got {str(error).splitlines()[0]!r}: connect "
        "to the "
        "network once, or pass --random-weights."
    )
