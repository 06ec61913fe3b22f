"""What the website has beyond docs/: the options of every command, module lists, and pages of the root.

A page asks for all commands with `<!-- commands: all -->` and for a wing's modules with `<!-- modules: audio -->`.
"""

from __future__ import annotations

import inspect
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cyclopts import Argument, ArgumentCollection
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Pages of the website whose source lies outside docs/.
ELSEWHERE = {
    "benchmarks/RESULTS.md": "project/measurements.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "SECURITY.md": "project/security.md",
}
GROUPS = ("Data", "Features", "Training", "Federation", "Privacy", "Output")
MARKER = re.compile(r"<!-- (commands|modules): ([\w-]+) -->")
LINK = re.compile(r"\]\(([^)\s:#]+\.md)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/."""
    from mkdocs.structure.files import File

    for source, page in ELSEWHERE.items():
        if (ROOT / source).exists():
            files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill the markers in, and turn links between files of the repository into links between pages."""
    return relink(MARKER.sub(lambda found: expand(found[1], found[2]), markdown), page.file.src_uri)


def expand(kind: str, name: str) -> str:
    """What a marker stands for."""
    return command_reference() if kind == "commands" else module_list(name)


def relink(markdown: str, page: str) -> str:
    """Links as the website has them, on the page at `page` below its root."""
    source = {target: source for source, target in ELSEWHERE.items()}.get(page, f"docs/{page}")

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1]))
        target = ELSEWHERE.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(target, posixpath.dirname(page) or '.')}{found[2] or ''})"

    return LINK.sub(link, markdown)


def command_reference() -> str:
    """Every command of the command line, under the headings of its help."""
    from wordflock.cli.commands import COMMANDS, function_of

    sections = []
    for heading, commands in COMMANDS.items():
        sections += [
            f"## {heading}",
            *(command_section(words, function_of(where)) for words, where in commands.items()),
        ]
    return "\n\n".join(sections)


def command_section(words: str, run: Callable[..., None]) -> str:
    """A command: what it does, how it is called, and a table for each group of its options."""
    groups: dict[str, list[str]] = {}
    arguments = sorted(arguments_of(words), key=lambda argument: group_order(argument.parameter.group[0].name))
    for argument in arguments:
        groups.setdefault(argument.parameter.group[0].name, []).append(option_row(argument))
    places = [argument.names[0] for argument in arguments if not argument.names[0].startswith("-")]
    usage = " ".join(["wordflock", words, *places, "[OPTIONS]"])
    head = "| option | default | what it does |\n|---|---|---|\n"
    tables = [f"**{name}**\n\n{head}" + "\n".join(rows) for name, rows in groups.items()]
    return "\n\n".join([f"### {words}", inspect.getdoc(run) or "", f"```text\n{usage}\n```", *tables])


def arguments_of(words: str) -> ArgumentCollection:
    """What a command takes."""
    from wordflock.cli.commands import app

    command = app()
    for word in words.split():
        command = command[word]
    return command.assemble_argument_collection()


def group_order(name: str) -> int:
    """The place of a group of options; what a command has of its own comes first."""
    return GROUPS.index(name) if name in GROUPS else -1


def option_row(argument: Argument) -> str:
    """A row of a table of options. An option that only --help-all shows is marked with a star."""
    names = ", ".join(f"`{name}`" for name in argument.names) + ("" if argument.show else " \\*")
    value = argument.field_info.default
    known = value is not inspect.Parameter.empty and not any(value is nothing for nothing in (None, "", False))
    help = " ".join((argument.parameter.help or "").split()).replace("|", "\\|").replace("<", "&lt;")
    choices = argument.get_choices()
    allowed = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
    return f"| {names} | {f'`{value}`' if known else ''} | {help}{allowed} |"


def module_list(wing: str) -> str:
    """The directives that make mkdocstrings print every module of a wing, or the modules that belong to none."""
    return "\n\n".join(f"::: {name}" for name in modules(ROOT / "wordflock" / ("" if wing == "root" else wing)))


def modules(folder: Path) -> Iterator[str]:
    """The modules in a folder; below it too, unless it is the package itself, whose folders are wings."""
    for path in sorted(folder.glob("*.py") if folder.name == "wordflock" else folder.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if not parts[-1].startswith("__"):
            yield ".".join(parts)
