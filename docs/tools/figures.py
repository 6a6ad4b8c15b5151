# SPDX-License-Identifier: MIT
"""The directive `figures`: a table of one file of benchmarks/results, made while the site is built."""

import json
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

RESULTS = Path(__file__).parent.parent.parent / "benchmarks" / "results"


def cell(value):
    """Return a value as a person reads it: three digits that count."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def read(name, columns=(), rows=None):
    """Return titles and cells of a file of results, and where they were measured.

    columns: pairs (title, key), in the order of the table; without them all that are not empty everywhere.
    """
    found = json.loads((RESULTS / f"{name}.json").read_text())
    lines = found["rows"][:rows]
    keys = dict.fromkeys(key for row in lines for key in row if row[key] is not None)
    columns = list(columns) or [(key, key) for key in keys]
    unknown = [key for _, key in columns if key not in keys]
    if unknown:
        raise ValueError(f"{name}.json has no {unknown}: {list(keys)}")
    return (
        [title for title, _ in columns],
        [[cell(row.get(key)) for _, key in columns] for row in lines],
        found["machine"],
    )


def said_of(machine):
    """Say in one line where figures are from."""
    named = {"threads": "threads", "torch": "torch", "commit": "commit"}
    return ", ".join(
        [machine["device"], *(f"{name} {machine[key]}" for key, name in named.items() if key in machine)]
    )


def inline(text):
    """Return text whose names in backticks are code."""
    parts = text.split("`")
    return nodes.paragraph(
        "", "", *(nodes.literal(p, p) if at % 2 else nodes.Text(p) for at, p in enumerate(parts))
    )


def table(titles, rows):
    """Return a table that can be scrolled where it is too wide."""
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in titles), cols=len(titles))
    for kind, lines in ((nodes.thead, [titles]), (nodes.tbody, rows)):
        group += kind("", *(nodes.row("", *(nodes.entry("", inline(c)) for c in line)) for line in lines))
    return nodes.table("", group, classes=["figures"])


class Figures(SphinxDirective):
    """`figures` NAME; each line of its content is `title = key`, without any all keys are shown."""

    required_arguments = 1
    has_content = True
    option_spec = {"rows": directives.nonnegative_int}  # noqa: RUF012 (docutils' own way)

    def run(self):
        """Return the table and where it is from."""
        self.env.note_dependency(str(RESULTS / f"{self.arguments[0]}.json"))
        columns = [tuple(part.strip() for part in line.split(" = ")) for line in self.content if line.strip()]
        titles, rows, machine = read(self.arguments[0], columns, self.options.get("rows"))
        source = nodes.paragraph(
            "", f"{said_of(machine)}. benchmarks/results/{self.arguments[0]}.json", classes=["source"]
        )
        return [table(titles, rows), source]


def setup(app):
    """Add the directive."""
    app.add_directive("figures", Figures)
    return {"parallel_read_safe": True}
