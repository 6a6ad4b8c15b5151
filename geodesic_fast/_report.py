# SPDX-License-Identifier: MIT
"""What the subcommands write: a page, tables, JSON, and files that are whole."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

STYLE = """
:root { color-scheme: light dark; --ink: #1f2430; --soft: #5b6472; --line: #d5d9e0; --page: #ffffff;
        --tint: #f3f6fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ec; --soft: #a3abb8; --line: #3a404b; --page: #14171c; --tint: #1c2128; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 3rem 1.25rem 4rem; max-width: 62rem;
       background: var(--page); color: var(--ink);
       font: 17px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .7rem; }
p { max-width: 44rem; } .soft, figcaption, footer { color: var(--soft); font-size: .88rem; }
.finding { background: var(--tint); border-left: 4px solid var(--soft); padding: .9rem 1.2rem;
           margin: 1.6rem 0; }
.finding p { max-width: none; margin: .35rem 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums;
        font-size: .92rem; width: 100%; }
th, td { padding: .45rem .7rem; text-align: right; white-space: nowrap;
         border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; } th:first-child, td:first-child { text-align: left; }
figure { margin: 1.2rem 0 2rem; } img { max-width: 100%; height: auto; display: block; }
dt { font-weight: 600; } dd { margin: 0 0 .6rem; max-width: 44rem; }
"""


def page(title: str, body: str) -> str:
    """Return an HTML page for light and dark screens."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], meanings: Mapping[str, str] | None = None
) -> str:
    """Return an HTML table; `meanings` explain a row by its first word."""
    heads = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "\n".join(
        f"<tr{_title(meanings, row[0])}>" + "".join(f"<td>{escape(word)}</td>" for word in row) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>\n{lines}\n</tbody></table></div>'


def _title(meanings: Mapping[str, str] | None, word: str) -> str:
    return f' title="{escape(meanings[word])}"' if meanings else ""


def figure(caption: str, light: bytes, dark: bytes) -> str:
    """Return a picture that is inside the page, as PNG for light and for dark screens, with its caption."""
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{_embedded(dark)}">'
        f'<img alt="{escape(caption)}" src="{_embedded(light)}"></picture>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _embedded(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def columns(rows: Sequence[Sequence[str]], left: int = 0) -> list[str]:
    """Lay rows out in columns for a terminal, the first `left` of them flush left."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return [
        "  ".join(
            word.ljust(width) if k < left else word.rjust(width)
            for k, (word, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def as_json(found: Any) -> str:
    """Return the JSON; NaN becomes null and infinity the string "inf"."""
    return json.dumps(_plain(found), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is either there in full or as it was before."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
