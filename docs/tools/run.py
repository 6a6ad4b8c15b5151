# SPDX-License-Identifier: MIT
"""The directive `run`: shows its code, runs it during the build, and shows what it printed and drew."""

import contextlib
import io
import runpy
import tempfile
from pathlib import Path

import matplotlib as mpl
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

mpl.use("Agg")
LOOKS = {"light": "default", "dark": "dark_background"}


def run(code, style):
    """Run code as a program; return what it printed and its last figure as SVG, or None."""
    import matplotlib.pyplot as plt
    import torch

    plt.close("all")
    torch.manual_seed(0)
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, plt.style.context(LOOKS[style]):
        (Path(folder) / "shown.py").write_text(code)
        with contextlib.redirect_stdout(said), mpl.rc_context({"savefig.transparent": True}):
            runpy.run_path(str(Path(folder) / "shown.py"), run_name="__main__")
            drawn = io.StringIO()
            if plt.get_fignums():
                plt.gcf().savefig(drawn, format="svg", bbox_inches="tight")
    return said.getvalue(), drawn.getvalue() or None


class Run(SphinxDirective):
    """Code, then its output and its picture in the light and in the dark theme."""

    has_content = True
    optional_arguments = 1  # what the picture shows, for those who do not see it
    final_argument_whitespace = True

    def run(self):
        """Return the code and what came of it."""
        code = "\n".join(self.content) + "\n"
        shown = [nodes.literal_block(code, code, language="python")]
        drawn = None
        for style in LOOKS:
            if style != "light" and not drawn:
                break  # what draws nothing looks the same
            said, drawn = run(code, style)
            if style == "light" and said:
                shown.append(nodes.literal_block(said, said, language="text", classes=["output"]))
            if drawn:
                folder = Path(self.env.app.outdir) / "_images"
                folder.mkdir(parents=True, exist_ok=True)
                name = f"{self.env.docname.replace('/', '-')}-{self.lineno}-{style}.svg"
                (folder / name).write_text(drawn)
                up = "../" * self.env.docname.count("/")
                picture = f'<img class="only-{style}" src="{up}_images/{name}" alt="{self.arguments[0]}">'
                shown.append(nodes.raw("", picture, format="html"))
        return shown


def setup(app):
    """Add the directive."""
    app.add_directive("run", Run)
    return {"parallel_read_safe": True}
