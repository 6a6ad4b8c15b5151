# SPDX-License-Identifier: MIT
"""Formulas as MathML, which browsers draw themselves: no script, no network."""

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml


def inline(writer, node):
    """Write one formula within a line."""
    writer.body.append(str(tex2mathml(node.astext())))
    raise nodes.SkipNode


def block(writer, node):
    """Write one formula that stands alone."""
    formula = str(tex2mathml(node.astext(), as_block=True))
    writer.body.append(f'<div class="formula">{formula}</div>')
    raise nodes.SkipNode


def setup(app):
    """Offer it under the name that conf.py gives."""
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True}
