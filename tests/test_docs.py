# SPDX-License-Identifier: MIT
"""The documentation site: no warnings, every name, every link has its end, nothing comes from outside."""

import ast
import re
import subprocess
import sys
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import pytest

import geodesic_fast
import geodesic_fast.recording

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "geodesic_fast"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for package in ("sphinx", "furo", "myst_parser", "sphinx_copybutton", "matplotlib", "sklearn"):
        pytest.importorskip(package, reason=f"needs the package {package}")
    for package in ("lightning", "torchmetrics", "transformers", "accelerate"):
        pytest.importorskip(package, reason=f"the interface is documented as it is imported: needs {package}")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(folder / "read"),
         str(ROOT / "docs"), str(folder / "html")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "html"


class Page(HTMLParser):
    """What a page points to, what it loads, and which places it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.places |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in ("script", "img", "source", "iframe") or given.get("rel") in (
            "stylesheet",
            "icon",
            "preload",
        ):
            self.loaded += [given[name] for name in ("src", "href") if name in given]


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_link_and_anchor_has_its_end(pages):
    broken = []
    for path, page in pages.items():
        for link in page.links:
            target, place = urllib.parse.urldefrag(link)
            if urllib.parse.urlparse(target).scheme:
                continue
            file = (path.parent / urllib.parse.unquote(target)).resolve() if target else path
            if not file.is_file() or (
                place and file.suffix == ".html" and urllib.parse.unquote(place) not in pages[file].places
            ):
                broken.append(f"{path.name}: {link}")
    assert len(pages) > 20
    assert not broken


def test_nothing_is_loaded_from_outside(site, pages):
    for path, page in pages.items():
        for loaded in page.loaded:
            if not loaded.startswith("data:"):
                assert not urllib.parse.urlparse(loaded).netloc, loaded
                assert (path.parent / loaded.split("?")[0]).is_file(), loaded
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text()), style


def definitions(module: str) -> list[str]:
    """Return the public functions and classes that a file defines, without importing it."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


def public_names():
    names = {f"geodesic_fast.{name}" for name in geodesic_fast.__all__ if name not in ("plot", "reference")}
    names |= {f"geodesic_fast.reference.{name}" for name in geodesic_fast.reference.__all__}
    inner = set(geodesic_fast.recording.__all__) - set(geodesic_fast.__all__)
    names |= {f"geodesic_fast.recording.{name}" for name in inner}
    modules = [
        "plot",
        *(f"integrations/{path.stem}" for path in (PACKAGE / "integrations").glob("[a-z]*.py")),
    ]
    for module in modules:
        names |= {f"geodesic_fast.{module.replace('/', '.')}.{name}" for name in definitions(module)}
    return sorted(names)


def test_every_public_name_is_in_the_reference(site):
    from sphinx.util.inventory import InventoryFile

    with (site / "objects.inv").open("rb") as file:
        found = InventoryFile.load(file, "", lambda base, uri: uri)
    documented = {name for kind, entries in found.items() if kind.startswith("py:") for name in entries}
    assert len(public_names()) > 50
    assert set(public_names()) <= documented


def test_what_a_page_says_of_its_own_numbers_is_what_came_out(site):
    text = re.sub("<[^>]*>", "", (site / "numbers.html").read_text())

    def last(row):
        return [float(line.split()[-1]) for line in text.splitlines() if re.match(rf"{row} +[\d.]+ ", line)]

    assert last("residual")[0] > 0.8 > 0.2 > last("residual, normalised")[0]
    assert last("plain")[0] < 0.2
    assert [float(line.split()[-3]) for line in text.splitlines() if line.startswith("plain network  ")][
        1
    ] == 1


def test_search_knows_the_names(site):
    index = (site / "searchindex.js").read_text()
    assert all(name in index for name in ("lss", "geodesic_gap", "wasserstein_curve"))


def test_every_figure_is_in_a_table(site):
    text = (site / "generated" / "figures.html").read_text()
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        assert f"benchmarks/results/{path.name}" in text


def test_the_speeds_in_the_readme_are_those_of_the_results():
    from runpy import run_path

    pytest.importorskip("sphinx", reason="needs the package sphinx")
    read = run_path(str(ROOT / "docs" / "tools" / "figures.py"))["read"]
    told = re.findall(r"\| ([\d.]+) \|\n", (ROOT / "README.md").read_text().split("<!-- speed -->")[1])

    def value(name, key, row=0):
        return read(name, [(key, key)])[1][row][0]

    expected = [
        value("bench_lss-cpu", "eager/lss"), value("bench_lss-cpu", "fwd+bwd eager/lss"),
        value("bench_line_deviation-cpu", "eager/ours"), value("bench_nearest_track-cpu", "blocks/ours"),
        value("bench_ots_large-cpu", "lapjvs/ots"),
    ]  # fmt: skip
    assert told == expected
