"""What the website has beyond docs/: tables of options from the settings classes, module lists, and pages of the root.

A page asks for a table with `<!-- options: TrainSettings -->` and for a wing's modules with `<!-- modules: audio -->`.
"""

from __future__ import annotations

import importlib
import posixpath
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
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
SETTINGS_MODULES = ("wordflock.settings", "wordflock.federation_settings")
MARKER = re.compile(r"<!-- (options|modules): ([\w-]+) -->")
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
    return option_tables(settings_class(name)) if kind == "options" else module_list(name)


def relink(markdown: str, page: str) -> str:
    """Links as the website has them, on the page at `page` below its root."""
    source = {target: source for source, target in ELSEWHERE.items()}.get(page, f"docs/{page}")

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1]))
        target = ELSEWHERE.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(target, posixpath.dirname(page) or '.')}{found[2] or ''})"

    return LINK.sub(link, markdown)


def settings_class(name: str) -> type:
    """A settings class by its name."""
    for module in map(importlib.import_module, SETTINGS_MODULES):
        if hasattr(module, name):
            found: type = getattr(module, name)
            return found
    raise LookupError(f"no settings class {name}")


def option_tables(settings: type) -> str:
    """A table for each group of options, in the groups' own order."""
    groups: dict[str, list[str]] = {}
    types = get_type_hints(settings)
    for f in fields(settings):
        row = f"| {names(f, types[f.name])} | {default(f)} | {explanation(f)} |"
        groups.setdefault(f.metadata["group"], []).append(row)
    head = "| option | default | what it does |\n|---|---|---|\n"
    return "\n\n".join(f"**{group}**\n\n{head}" + "\n".join(rows) for group, rows in groups.items())


def names(f: Field[Any], kind: Any) -> str:
    """How an option is written on the command line."""
    dashed = f.name.replace("_", "-")
    return f"`--{dashed}`, `--no-{dashed}`" if kind in (bool, bool | None) else f"`--{dashed}`"


def default(f: Field[Any]) -> str:
    """A default as the table shows it; nothing where the help text explains it."""
    if f.default in (None, "", MISSING):
        return ""
    return f"`{str(f.default).lower() if isinstance(f.default, bool) else f.default}`"


def explanation(f: Field[Any]) -> str:
    """The help text, with the values that are allowed."""
    about = f.metadata
    allowed = [f"One of {', '.join(f'`{choice}`' for choice in about['choices'])}."] if about["choices"] else []
    if about["minimum"] is not None:
        allowed.append(f"At least {about['minimum']:g}.")
    if about["maximum"] is not None:
        allowed.append(f"At most {about['maximum']:,}.")
    rare = ["Shown by `--help-all`."] if about["rare"] else []
    return " ".join([about["help"].replace("|", "\\|"), *allowed, *rare])


def module_list(wing: str) -> str:
    """The directives that make mkdocstrings print every module of a wing, or the modules that belong to none."""
    return "\n\n".join(f"::: {name}" for name in modules(ROOT / "wordflock" / ("" if wing == "root" else wing)))


def modules(folder: Path) -> Iterator[str]:
    """The modules in a folder; below it too, unless it is the package itself, whose folders are wings."""
    for path in sorted(folder.glob("*.py") if folder.name == "wordflock" else folder.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if not parts[-1].startswith("__"):
            yield ".".join(parts)
