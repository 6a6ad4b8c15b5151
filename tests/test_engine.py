# SPDX-License-Identifier: MIT
"""The border to the compiled engine: one file crosses it, and the stub says what is on the other side."""

import ast
import re
from pathlib import Path

import pytest

import geodesic_fast
from geodesic_fast.engine.load import engine

PACKAGE = Path(geodesic_fast.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))


def imports(tree):
    """Return all that a file imports, and the modules that it names in a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))


def test_one_file_imports_the_engine():
    crossing = [path for path in SOURCES if "geodesic_fast._C" in imports(ast.parse(path.read_text()))]
    assert crossing == [PACKAGE / "engine" / "load.py"]


def test_one_file_knows_private_names_of_torch():
    private = re.compile(r"\btorch\.(\w+\.)*_[a-z]\w*|\b_C\._\w+|\._opoverload|\._is_\w+\(")
    knowing = [path for path in SOURCES if private.search(path.read_text())]
    assert [path.name for path in knowing if path.name != "torch_internals.py"] == []


STUB = ast.parse((PACKAGE / "_C.pyi").read_text()).body
FUNCTIONS = {node.name: node for node in STUB if isinstance(node, ast.FunctionDef)}
CLASSES = {node.name: node for node in STUB if isinstance(node, ast.ClassDef)}
VALUES = {node.target.id for node in STUB if isinstance(node, ast.AnnAssign)}


@pytest.mark.engine
def test_the_stub_names_what_the_engine_offers():
    offered = {name for name in vars(engine) if not name.startswith("__")}
    assert offered == FUNCTIONS.keys() | CLASSES.keys() | VALUES


@pytest.mark.engine
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_stub_knows_how_many_arguments_a_function_takes(name):
    signature = getattr(engine, name).__doc__.splitlines()[0]
    assert len(FUNCTIONS[name].args.posonlyargs) == len(re.findall(r"\barg\d+: ", signature))


@pytest.mark.engine
@pytest.mark.parametrize("name", CLASSES)
def test_the_stub_knows_how_an_object_is_made(name):
    start = next(node for node in CLASSES[name].body if isinstance(node, ast.FunctionDef))
    signature = getattr(engine, name).__init__.__doc__.splitlines()[0]
    names = re.findall(r"[(,] ?(\w+): ", re.sub(r"\[[^\]]*\]", "", signature))
    assert [arg.arg for arg in start.args.args] == names
