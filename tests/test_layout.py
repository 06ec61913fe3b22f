"""The wings of the house: a module imports only what stands above it, and no file or function grows without end."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "wordflock"
# From the top down; modules of one line may import each other.
WINGS = (
    (
        "quiet",
        "errors",
        "addresses",
        "http_server",
        "lifetime",
        "files",
        "hub",
        "arrays",
        "randomness",
        "progress",
        "options",
        "head.kinds",
        "settings",
        "federation_settings",
    ),
    ("audio",),
    ("data",),
    ("encoder",),
    ("head",),
    ("privacy",),
    ("prepare", "partition", "predictions", "neighbours", "runs", "figures"),
    ("report",),
    (
        "trackers",
        "run",
        "describe",
        "check",
        "check_labels",
        "check_page",
        "centralized",
        "revise",
        "sweep",
    ),
    ("federation",),
    ("devices",),
    ("spotting",),
    ("recording",),
    ("api",),
    ("cli",),
)
HEIGHT = {name: height for height, wing in enumerate(WINGS) for name in wing}
FACE = {"__init__", "__main__"}  # the public face imports from every wing, inside functions
LONGEST_FILE, LONGEST_FUNCTION = 350, 80
MODULES = sorted(PACKAGE.rglob("*.py"))


def wing_of(module: Path) -> str:
    return wing_named(".".join(module.relative_to(PACKAGE).parts).removesuffix(".py"))


def wing_named(name: str) -> str:
    """The wing of a module or of what is in it: "head" of "head.training". The table of heads is read by settings too,
    so it stands with them."""
    first, second, *_ = [*name.split("."), "", ""]
    return f"{first}.{second}" if f"{first}.{second}" in HEIGHT else first


def imported_wings(tree: ast.AST) -> set[str]:
    """The wings that a module imports from, at its top or inside a function."""
    names = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {wing_named(name.removeprefix("wordflock.")) for name in names if name.startswith("wordflock.")}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(module: Path) -> None:
    wing = wing_of(module)
    if wing in FACE:
        return
    above = {other for other in imported_wings(ast.parse(module.read_text())) if other in HEIGHT}
    assert not {other for other in above if HEIGHT[other] > HEIGHT[wing]}


def test_every_module_has_a_wing() -> None:
    assert {wing_of(module) for module in MODULES} - FACE <= set(HEIGHT)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_read_in_one_sitting(module: Path) -> None:
    source = module.read_text()
    assert len(source.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, node.name
