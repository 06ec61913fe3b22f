"""The documentation: links and anchors lead somewhere, commands parse, files exist, and tables are whole."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from cyclopts import CycloptsError

import wordflock
from wordflock.cli.commands import COMMANDS, app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ROOT_PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "benchmarks" / "RESULTS.md", *filter(Path.exists, ROOT_PAGES)])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
NAMED_FILE = re.compile(r"`((?:wordflock|tests|benchmarks|examples)/[\w/.-]+)`")
ANYTHING = {"$D": "--data x --keywords yes,no", "NAME": "name", "RUN": "run", "HOST": "host", "DATA": "data", "…": ""}


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """The hooks of the website."""
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as both GitHub and the website make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", [page for page in PAGES if page.is_relative_to(DOCS)], ids=name_of)
def test_links_out_of_docs_are_pages_of_the_website(page: Path, hooks: ModuleType) -> None:
    for link in LINK.findall(prose(page)):
        target = (page.parent / link.partition("#")[0]).resolve()
        if not re.match(r"https?://|#", link) and not target.is_relative_to(DOCS):
            assert name_of(target) in hooks.ELSEWHERE, link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_of_the_repository_that_are_named_exist(page: Path) -> None:
    for name in NAMED_FILE.findall(prose(page)):
        assert (ROOT / name).exists(), name


def commands_in(page: Path) -> Iterator[str]:
    """The wordflock commands on a page: in blocks of code, and between backticks where options are given."""
    text = page.read_text()
    for _, language, block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            shown = line.removeprefix("$ ") if language == "console" and line.startswith("$ ") else line
            if language in ("shell", "console") and (found := re.match(r"\s*(?:\S*/)?(wordflock [^#|>]*)", shown)):
                yield found[1]
    yield from re.findall(r"^    (wordflock [^#|>\n]*)", FENCE.sub("", text), re.MULTILINE)
    for inline in re.findall(r"`(wordflock [^`]*)`", prose(page)):
        if "--" in inline and not re.search(r"[…]|COMMAND", inline):
            yield inline


EVERY_COMMAND = [(page, command) for page in PAGES for command in commands_in(page)]


@pytest.mark.parametrize(("page", "command"), EVERY_COMMAND, ids=[f"{name_of(p)}: {c}" for p, c in EVERY_COMMAND])
def test_commands_parse(page: Path, command: str) -> None:
    """Options exist, choices are choices, numbers are numbers; whether an argument is left out is not looked at."""
    for placeholder, example in ANYTHING.items():
        command = command.replace(placeholder, example)
    words = [re.sub(r"^<.*>$", "x", word) for word in shlex.split(command)][1:]
    if words and words[0] == "--help":
        return
    try:
        app().parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        if type(error).__name__ != "MissingArgumentError":
            pytest.fail(f"{page.name}: {error}")


def test_options_between_backticks_exist() -> None:
    known = {name for words in COMMANDS for command in COMMANDS[words] for name in option_names(command)}
    known |= {"--help", "--help-all", "--version"}
    foreign = {"--platform", "--insecure", "--federation-config", "--run-config", "--compile", "--num_gpus"}
    for page in PAGES:
        if page.name in ("RESULTS.md", "CHANGELOG.md"):
            continue  # which say what was
        for code in re.findall(r"`([^`\n]+)`", prose(page)):
            if code.startswith("--"):
                assert code.split()[0].split("=")[0] in known | foreign, f"{page.name}: {code}"


def option_names(command: str) -> set[str]:
    """The options of a command."""
    found = app()
    for word in command.split():
        found = found[word]
    return {name for argument in found.assemble_argument_collection() for name in argument.names}


def test_the_command_reference_has_every_command_and_option(hooks: ModuleType) -> None:
    reference = hooks.command_reference()
    for heading, commands in COMMANDS.items():
        assert f"## {heading}" in reference
        for command in commands:
            section = reference.partition(f"### {command}\n")[2].partition("\n### ")[0]
            assert all(f"`{name}`" in section for name in option_names(command) if name.startswith("--"))


def test_the_lists_of_the_website_are_whole(hooks: ModuleType) -> None:
    from wordflock.data.layouts import LAYOUTS

    assert all(f"`{layout.name}`" in hooks.layout_table() for layout in LAYOUTS)
    assert len(list(hooks.public_names())) == len(wordflock.__all__) - 1  # a version has no module
    package = ROOT / "wordflock"
    wings = {path.name for path in package.iterdir() if path.is_dir() and list(path.glob("*.py"))}
    listed = set(re.findall(r"<!-- modules: (\w+) -->", (DOCS / "reference" / "modules.md").read_text()))
    assert wings - {"cli"} == listed - {"root"}


def test_links_between_repository_and_website(hooks: ModuleType) -> None:
    record = "[record](../../benchmarks/RESULTS.md#speed)"
    assert hooks.relink(record, "how-to/scale.md") == "[record](../project/measurements.md#speed)"
    assert hooks.relink("[a](../docs/accuracy.md)", "project/measurements.md") == "[a](../accuracy.md)"
    assert hooks.relink("[a](docs/index.md)", "project/contributing.md") == "[a](../index.md)"
    assert hooks.relink("[a](quickstart.md)", "index.md") == "[a](quickstart.md)"
    assert hooks.relink("[a](https://example.org/a.md)", "index.md") == "[a](https://example.org/a.md)"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
