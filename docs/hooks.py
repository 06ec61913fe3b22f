"""What the website has beyond docs/: the options of every command, module lists, and pages of the root.

A page asks for what it needs with a marker: `<!-- commands: all -->`, `<!-- layouts: all -->`, `<!-- api: all -->` or,
for the modules of a wing, `<!-- modules: audio -->`.
"""

from __future__ import annotations

import inspect
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cyclopts import App, Argument
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
PUBLIC = "::: {}\n    options:\n      skip_local_inventory: true"  # links between pages go to the page of all modules
MARKER = re.compile(r"<!-- (commands|layouts|api|modules): ([\w-]+) -->")
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
    match kind:
        case "commands":
            return command_reference()
        case "layouts":
            return layout_table()
        case "api":
            return "\n\n".join(PUBLIC.format(name) for name in public_names())
        case _:
            return "\n\n".join(f"::: {module}" for module in modules(name))


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
    from wordflock.cli.commands import COMMANDS

    sections = []
    for heading, commands in COMMANDS.items():
        sections += [f"## {heading}", *map(command_section, commands)]
    return "\n\n".join(sections)


def command_section(words: str) -> str:
    """A command: what it does, how it is called, and a table for each group of its options."""
    groups: dict[str, list[str]] = {}
    command = command_of(words)
    arguments = sorted(
        command.assemble_argument_collection(), key=lambda argument: group_order(argument.parameter.group[0].name)
    )
    for argument in arguments:
        groups.setdefault(argument.parameter.group[0].name, []).append(option_row(argument))
    places = [argument.names[0] for argument in arguments if not argument.names[0].startswith("-")]
    usage = " ".join(["wordflock", words, *places, "[OPTIONS]"])
    head = "| option | default | what it does |\n|---|---|---|\n"
    tables = [f"**{name}**\n\n{head}" + "\n".join(rows) for name, rows in groups.items()]
    return "\n\n".join([f"### {words}", command.help, f"```text\n{usage}\n```", *tables])


def command_of(words: str) -> App:
    """A command by its words."""
    from wordflock.cli.commands import app

    command = app()
    for word in words.split():
        command = command[word]
    return command


def group_order(name: str) -> int:
    """The place of a group of options; what a command has of its own comes first."""
    return GROUPS.index(name) if name in GROUPS else -1


def option_row(argument: Argument) -> str:
    """A row of a table of options. An option that only --help-all shows is marked with a star."""
    names = ", ".join(f"`{name}`" for name in argument.names) + ("" if argument.show else " \\*")
    value = argument.field_info.default
    known = value is not inspect.Parameter.empty and not any(value is nothing for nothing in (None, "", False))
    help = plain(" ".join((argument.parameter.help or "").split()))
    choices = argument.get_choices()
    allowed = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
    return f"| {names} | {f'`{value}`' if known else ''} | {help}{allowed} |"


def plain(text: str) -> str:
    """Text as it is, in a cell of a table, except for what stands between backticks."""
    parts = text.split("`")
    return "`".join(part if place % 2 else re.sub(r"([|<_*])", r"\\\1", part) for place, part in enumerate(parts))


def layout_table() -> str:
    """The layouts of data sets, in the order in which they are tried."""
    from wordflock.data.layouts import LAYOUTS

    rows = [f"| `{layout.name}` | {layout.title} |" for layout in LAYOUTS]
    return "\n".join(["| `--layout` | what it is |", "|---|---|", *rows])


def public_names() -> Iterator[str]:
    """Where the names that `import wordflock` offers are defined."""
    import wordflock

    for name in wordflock.__all__:
        value = getattr(wordflock, name)
        if hasattr(value, "__module__"):
            yield f"{value.__module__}.{name}"


def modules(wing: str) -> Iterator[str]:
    """The modules of a wing; those of "root" belong to none."""
    package = ROOT / "wordflock"
    for path in sorted(package.glob("*.py") if wing == "root" else (package / wing).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if not parts[-1].startswith("__"):
            yield ".".join(parts)
