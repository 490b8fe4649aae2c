"""The site's sources, and the check that it loads nothing from other hosts. `make site` builds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from build_site import build, foreign, with_places, with_tables_of_contents


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.html", '<link rel="stylesheet" href="https://cdn.example.com/a.css">'),
        ("a.html", '<link href="//fonts.example.com" rel="preconnect"/>'),
        ("a.html", "<script async src='https://example.com/a.js'></script>"),
        ("a.html", '<img alt="a" src="http://example.com/a.png">'),
        ("a.html", '<style>p { background: url("https://example.com/a.png") }</style>'),
        ("a.css", "@import 'https://example.com/a.css';"),
        ("a.css", "@font-face { src: url(//example.com/a.woff2) }"),
        ("a.js", 'fetch("https://example.com/count")'),
        ("a.js", "new Worker('https://example.com/a.js')"),
        ("a.js", 'image.src = "https://example.com/a.png";'),
        ("a.html", "<script>fetch('https://example.com/count')</script>"),
        ("a.html", '<img srcset="a.png 1x, https://example.com/b.png 2x">'),
        ("a.html", '<svg><image xlink:href="https://example.com/a.png"/></svg>'),
        ("a.html", '<meta http-equiv="refresh" content="0; url=https://example.com">'),
        ("a.svg", '<svg><image href="https://example.com/a.png"/></svg>'),
    ],
)
def test_file_that_would_be_loaded_from_another_host_is_found(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert len(foreign(tmp_path)) == 1


@pytest.mark.parametrize(
    "content",
    ['<a href="https://example.com">a</a>', '<img src="a.png"/>', '<link href="data:,">', "https://a.example"],
)
def test_link_and_own_file_are_not_foreign(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(content)
    assert foreign(tmp_path) == []


def test_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter").touch()
    with pytest.raises(SystemExit, match="is not empty and has no earlier site"):
        build(tmp_path)
    assert (tmp_path / "letter").exists()


@pytest.mark.parametrize(
    ("original", "place", "link", "expected"),
    [
        ("docs/how-to/a.md", "how-to/a.md", "[b](b.md#c)", "[b](b.md#c)"),
        ("docs/how-to/a.md", "how-to/a.md", "[s](../../SECURITY.md)", "[s](../project/security.md)"),
        ("SECURITY.md", "project/security.md", "[k](docs/how-to/keys.md#a)", "[k](../how-to/keys.md#a)"),
        ("docs/how-to/a.md", "how-to/a.md", "[`uri.py`](../../hwsigner/_uri.py)", "`uri.py`"),
        (
            "docs/how-to/kubernetes.md",
            "how-to/kubernetes.md",
            "[c](../../packaging/kubernetes/client.yaml)",
            "[c](kubernetes/client.yaml)",
        ),
        ("docs/how-to/a.md", "how-to/a.md", "[w](https://example.com/a)", "[w](https://example.com/a)"),
        ("docs/how-to/a.md", "how-to/a.md", "[agent.md](agent.md)", "[The agent](agent.md)"),
        (
            "CHANGELOG.md",
            "project/changelog.md",
            "[docs/how-to/keys.md](docs/how-to/keys.md)",
            "[Keys](../how-to/keys.md)",
        ),
        (
            "docs/how-to/recipes.md",
            "how-to/recipes.md",
            "[provider.tf](recipes/terraform/provider.tf)",
            "[provider.tf](recipes/terraform/provider.tf)",
        ),
        ("docs/how-to/a.md", "how-to/a.md", "[gone](../../gone.py)", "[gone](../../gone.py)"),
    ],
)
def test_link_leads_to_the_place_in_the_site(original: str, place: str, link: str, expected: str) -> None:
    assert with_places(f"a {link}.", original, place) == f"a {expected}."


def test_tables_of_contents_are_the_lists_of_the_sections() -> None:
    page = "# A\n\n## How to\n\n### Keys\n\n- [The `key`](how-to/keys.md): all\n\n## End\n\nNothing.\n"
    made = with_tables_of_contents(page).removeprefix(page).strip()
    assert made == "```{toctree}\n:hidden:\n:caption: 'How to: Keys'\n\nThe key <how-to/keys.md>\n```"
