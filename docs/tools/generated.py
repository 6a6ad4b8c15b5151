# SPDX-License-Identifier: MIT
"""Pages written from the code and from the figures, before Sphinx reads the others."""

import importlib
import inspect
from pathlib import Path

import geodesic_fast

ROOT = Path(__file__).parent.parent.parent
HEAD = ".. This page is written by docs/tools/generated.py\n\n"
ROOMS = ("geodesic_fast", "geodesic_fast.recording")  # what the package itself offers has its name
PARTS = {  # title, what it is, its modules; everything public of the package itself is found in __all__
    "scores": ("Scores and distances", "Each takes tracks and returns numbers.", ["geodesic_fast"]),
    "recording": ("Tracks out of networks", "Hooks; layer by layer.", ["geodesic_fast.recording"]),
    "definitions": (
        "Definitions", "What each number is, in plain torch; the kernels are held against it.",
        ["geodesic_fast.reference"],
    ),
    "plot": ("Pictures", "Each takes and returns a matplotlib ``ax``.", ["geodesic_fast.plot"]),
    "integrations": (
        "Other packages", "Imported only when asked for.",
        ["geodesic_fast.integrations.torchmetrics", "geodesic_fast.integrations.lightning",
         "geodesic_fast.integrations.hugging_face", "geodesic_fast.integrations.hugging_face_trainer"],
    ),
}  # fmt: skip


def public_names(module_name):
    """Return the public functions and classes of a module: of the package, all in __all__ but modules."""
    module = importlib.import_module(module_name)
    if module_name == "geodesic_fast":
        recording = set(public_names("geodesic_fast.recording"))
        return [name for name in module.__all__ if name not in {"plot", "reference", *recording}]
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module_name
        and (inspect.isclass(value) or inspect.isfunction(value))
    ]  # fmt: skip
    return sorted(names)


def api_page(title, text, modules):
    """Return the page of one part of the interface."""
    lines = [title, "=" * len(title), "", text, ""]
    for module in modules:
        if len(modules) > 1:
            lines += [module, "-" * len(module), ""]
        lines += [f".. py:currentmodule:: {module}", ""]
        for name in public_names(module):
            value = getattr(importlib.import_module(module), name)
            home = "geodesic_fast" if hasattr(geodesic_fast, name) and module in ROOMS else module
            kind = "autoclass" if inspect.isclass(value) else "autofunction"
            lines += [f".. {kind}:: {home}.{name}"] + ["   :members:"] * (kind == "autoclass") + [""]
    return HEAD + "\n".join(lines)


def benchmarks_page():
    """Return the page of all figures, each with its machine and commit."""
    lines = ["All figures", "===========", "", "Every file of ``benchmarks/results``, as it is.", ""]
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        lines += [path.stem, "-" * len(path.stem), "", f".. figures:: {path.stem}", ""]
    return HEAD + "\n".join(lines)


def write(app):
    """Write the pages that changed."""
    folder = Path(app.srcdir) / "generated"
    folder.mkdir(exist_ok=True)
    pages = {name: api_page(*part) for name, part in PARTS.items()} | {"figures": benchmarks_page()}
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def setup(app):
    """Write before reading."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
