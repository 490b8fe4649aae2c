"""The reference of the commands, made from the parser: a page for each.

If docs/reference/ has a page with the command's name, such as aws-setup.md, its text is in the page too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from hwsigner._cli import COMMANDS, command_parser
from hwsigner._cli.flag_groups import EXAMPLES, flag_groups, help_of, usage_of
from hwsigner._cli.help import sections
from hwsigner._cli.pages import page_of
from hwsigner._cli.parser import Parser
from hwsigner._config.flags import Flag
from markup import definitions, fenced, plain, title_of

_MENTIONING_PAGES = 5
_FOLDERS = ("start", "how-to", "reference", "how-it-works")


def file_of(command: str) -> str:
    """Return the name of a command's page."""
    return f"{page_of(command)}.md"


def write_pages(source: Path) -> None:
    """Write the pages into the site's sources, and links to them into the page of all commands."""
    folder = source / "reference"
    related = {name: _mentioning(name, source) for name in COMMANDS}
    exits = statuses((folder / "errors.md").read_text())
    for name in COMMANDS:
        path = folder / file_of(name)
        by_hand = path.read_text().partition("\n")[2].strip() if path.exists() else ""
        path.write_text(page(name, by_hand, related[name], exits))
    overview = folder / "commands.md"
    files = [file_of(name) for listed in sections(COMMANDS).values() for name in listed]
    contents = ["```{toctree}", ":hidden:", "", *files, "```", ""]
    overview.write_text("\n".join([_with_links(overview.read_text()), *contents]))


def statuses(errors: str) -> str:
    """Return the table of exit statuses, the first table of the page about errors."""
    return errors[errors.index("| Status |") :].partition("\n\n")[0]


def page(name: str, by_hand: str, related: list[str], exits: str) -> str:
    """Return a command's page.

    Args:
        name: the command.
        by_hand: the text about it, in Markdown.
        related: links to other pages about it.
        exits: the table of exit statuses, in Markdown.
    """
    command, parser = command_parser(name)
    usage = usage_of(parser.prog, parser.usage, parser.flags, parser.positionals)
    parts = [f"# hwsigner {name}", plain(f"{command.HELP[:1].upper()}{command.HELP[1:]}."), fenced(usage)]
    parts += ["Example:", fenced(EXAMPLES[name], "sh"), by_hand, *_arguments(parser), *_flags(parser)]
    if parser.epilog:
        parts += ["## Notes", fenced(parser.epilog)]
    parts += ["## Exit status", exits, "[Errors and exit statuses](errors.md) says more about each."]
    if related:
        parts += ["## See also", "\n".join(f"- {link}" for link in related)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _arguments(parser: Parser) -> Iterator[str]:
    terms = {str(action.metavar or action.dest): plain(str(action.help)) for action in parser.positionals}
    if terms:
        yield from ("## Arguments", definitions(terms))


def _flags(parser: Parser) -> Iterator[str]:
    yield "## All flags" if parser.flags else ""
    for title, flags in flag_groups(parser.flags).items():
        yield f"### {title}"
        yield definitions({_shown(flag): plain(help_of(flag)) for flag in flags})


def _shown(flag: Flag) -> str:
    return f"--{flag.name} {flag.metavar}".rstrip()


def _mentioning(name: str, source: Path) -> list[str]:
    """Return links to the pages for which a command matters most: those that name it most often."""
    found = []
    for path in sorted(source.glob("*/*.md")):
        text = path.read_text()
        count = len(re.findall(rf"hwsigner {name}\b(?!-)", text))
        own = path.parent.name == "reference" and path.name in ("commands.md", file_of(name))
        if count and path.parent.name in _FOLDERS and not own:
            found.append((-count, f"[{title_of(text)}](../{path.relative_to(source)})"))
    return [link for _, link in sorted(found)[:_MENTIONING_PAGES]]


def _with_links(table: str) -> str:
    """Return the table of all commands with a link on each command's name."""

    def row(match: re.Match[str]) -> str:
        return re.sub(r"`([^`]+)`", lambda code: _link(code[1]), match[0])

    return re.sub(r"^\| `[^|]*\|", row, table, flags=re.MULTILINE)


def _link(code: str) -> str:
    words = code.split()
    names = [name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS]
    return f"[`{code}`]({file_of(names[0])})" if names else f"`{code}`"
