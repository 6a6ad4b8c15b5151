# SPDX-License-Identifier: MIT
"""Docstrings here are plain text with formulas; this tells Sphinx which of their signs are text."""

import re

SECTIONS = ("Args:", "Returns:", "Raises:", "Yields:", "Example:", "Examples:")


def escape(line):
    """Escape what would be markup outside of backticks: |x| and *batch and x_; `.name` is no link."""
    parts = re.split(r"(`+[^`]*`+)", line)
    for at, part in enumerate(parts):
        if at % 2:
            parts[at] = f"`{part}`" if part.startswith("`.") else part
        else:
            parts[at] = re.sub(r"([*|\\]|_(?!\w))", r"\\\1", part)
    return "".join(parts)


def mark(app, what, name, obj, options, lines):
    """Make formulas that stand alone literal blocks, and escape everything else but examples."""
    result, section, literal = [], "", False
    for line in lines:
        text = line.strip()
        if text in SECTIONS:
            section, literal = text, False
        elif text and not line.startswith(" "):
            literal = False
            if text.startswith("Source:"):
                section = ""
        formula = not section and line.startswith("    ")
        if formula and not literal:
            result += ["::", ""]
            literal = True
        plain = literal or section.startswith("Example") or text.startswith(">>>")
        result.append(line if plain or text in SECTIONS else escape(line))
    lines[:] = result


def setup(app):
    """Run before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", mark, priority=400)
    return {"parallel_read_safe": True}
