# SPDX-License-Identifier: MIT
"""The documentation site: `make docs` builds it without a network."""

import inspect
import sys
from pathlib import Path

import matplotlib.axes

import geodesic_fast
import geodesic_fast.plot

sys.path.insert(0, str(Path(__file__).parent / "tools"))
geodesic_fast.plot.Axes = matplotlib.axes.Axes  # known to type checkers alone, since matplotlib is an extra

project = "geodesic_fast"
author = "the authors of geodesic_fast"
version = release = geodesic_fast.__version__
extensions = [
    "sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser", "sphinx_copybutton",
    "docstrings", "figures", "formulas", "generated", "run",
]  # fmt: skip
exclude_patterns = ["build", "tools"]
html_theme = "furo"
html_title = "geodesic_fast"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False  # the licence is MIT, the authors are in the history
html_favicon = "_static/icon.svg"
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
default_role = "py:obj"  # a name in backticks links to its place where it has one
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def _leave_out(app, what, name, member, skip, options):
    """Leave out what a NamedTuple says of its fields, which is only their number."""
    return True if (inspect.getdoc(member) or "").startswith("Alias for field number") else None


def setup(app):
    """Connect what belongs to the configuration itself."""
    app.connect("autodoc-skip-member", _leave_out)
