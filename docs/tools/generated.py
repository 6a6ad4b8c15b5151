# SPDX-License-Identifier: MIT
"""Pages written from the code and from the figures, before Sphinx reads the others."""

import importlib
import inspect
import json
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
HEAD = ".. This page is written by docs/tools/generated.py\n\n"
PARTS = {  # title, what it is, its modules; everything public of the package itself is found in __all__
    "scores": ("Scores and distances", "Each takes tracks and returns numbers.", ["geodesic_fast"]),
    "recording": ("Tracks out of networks", "Hooks, and measuring layer by layer.", ["geodesic_fast.recording"]),
    "plot": ("Pictures", "Each takes and returns a matplotlib ``ax``.", ["geodesic_fast.plot"]),
    "integrations": (
        "Other packages", "Imported only when asked for.",
        ["geodesic_fast.integrations.torchmetrics", "geodesic_fast.integrations.lightning",
         "geodesic_fast.integrations.hugging_face", "geodesic_fast.integrations.hugging_face_trainer"],
    ),
}  # fmt: skip


def public_names(module_name):
    """Return the public functions and classes of a module: of the package, all in __all__ but references."""
    module = importlib.import_module(module_name)
    if module_name == "geodesic_fast":
        recording = set(public_names("geodesic_fast.recording"))
        return [name for name in module.__all__ if name != "plot" and name not in recording]
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
            kind = "autoclass" if inspect.isclass(value) else "autofunction"
            lines += [f".. {kind}:: {module}.{name}"] + ["   :members:"] * (kind == "autoclass") + [""]
    return HEAD + "\n".join(lines)


def table(rows):
    """Return rows of a result as a table, without the columns that are empty in all of them."""
    columns = [c for c in dict.fromkeys(key for row in rows for key in row) if any(row.get(c) is not None for row in rows)]
    lines = [".. list-table::", "   :header-rows: 1", "   :class: figures", ""]
    for cells in [columns, *([_cell(row.get(c)) for c in columns] for row in rows)]:
        lines += [f"   {'-' if at else '* -'} {cell}".replace("   -", "     -") for at, cell in enumerate(cells)]
    return [*lines, ""]


def _cell(value):
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def benchmarks_page():
    """Return the page of all figures, each with its machine and commit."""
    lines = ["Figures", "=======", "", "Every file of ``benchmarks/results``, as it is.", ""]
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        found = json.loads(path.read_text())
        if "machine" not in found:
            continue
        lines += [path.stem, "-" * len(path.stem), "", ", ".join(f"{k} {v}" for k, v in found["machine"].items()), ""]
        lines += table(found["rows"])
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
