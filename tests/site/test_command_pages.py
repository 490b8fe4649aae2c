"""The pages of commands and of the API are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import api_pages
import build_site
import command_pages
import error_pages
from hwsigner._cli import COMMANDS, command_parser
from markup import plain
from pages import ROOT
from test_public_api import MODULES


@pytest.mark.parametrize("name", COMMANDS)
def test_page_of_a_command_has_its_flags_and_arguments(name: str) -> None:
    page = command_pages.page(name, "", [], "")
    parser = command_parser(name)[1]
    for flag in parser.flags:
        assert re.search(rf"^`--{flag.name}\b.*`\n: \S", page, re.MULTILINE)
    for action in parser.positionals:
        assert f"`{action.metavar or action.dest}`\n: " in page


def test_page_of_a_command_says_what_each_exit_status_means() -> None:
    exits = command_pages.statuses((ROOT / "docs" / "reference" / "errors.md").read_text())
    rows = re.findall(r"^\| (\d+) \| .+ \|$", command_pages.page("list", "", [], exits), re.MULTILINE)
    assert rows == ["0", *map(str, sorted(error_pages._STATUSES)), "141"]


@pytest.mark.slow
def test_page_of_a_command_leads_to_the_guide_of_the_same_name(tmp_path: Path) -> None:
    build_site.assemble(tmp_path / "site")
    for name in ("agent", "doctor", "emulator", "registrar", "serve"):
        page = (tmp_path / "site" / "reference" / f"{name}.md").read_text()
        assert f"](../how-to/{name}.md)" in page.partition("## See also")[2]


def test_table_of_commands_has_every_command() -> None:
    table = command_pages._with_links((ROOT / "docs" / "reference" / "commands.md").read_text())
    assert [name for name in COMMANDS if f"]({command_pages.file_of(name)})" not in table] == []


def test_text_of_every_command_is_shown_as_it_is() -> None:
    assert plain("a*b_c <d> --flag-x") == r"a\*b\_c \<d\> `--flag-x`"


def test_api_has_every_public_module() -> None:
    assert set(api_pages.public_modules()) == MODULES
