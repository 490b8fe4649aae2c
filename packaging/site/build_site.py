"""Build the site: `python packaging/site/build_site.py FOLDER`.

The pages are those of docs/, a few of the repository, and pages that are made from hwsigner's sources. They are put
together in a temporary folder, and Sphinx makes HTML from them. Each warning of Sphinx is an error, such as a link
without a target.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import api_pages
import command_pages
import error_pages
from markup import title_of

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# Files outside of docs/, and where they are in the site.
OTHERS = {
    "README.md": "project/readme.md",
    "CHANGELOG.md": "project/changelog.md",
    "SECURITY.md": "project/security.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "packaging/README.md": "project/packagers.md",
    **{
        f"packaging/kubernetes/{path.name}": f"how-to/kubernetes/{path.name}"
        for path in sorted((ROOT / "packaging" / "kubernetes").glob("*.yaml"))
    },
}
# What the first page lists of the pages that are made, below the one on errors.
_MADE = """\
- [Every error message](reference/messages.md): what is wrong, and what to do
- [Python API](reference/api.md): the classes and functions that a program may use
"""
# Marks a folder as a site, also one that was not finished.
_MARK = ".site"
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
_HEADING = re.compile(r"^(##+) (.+)$", re.MULTILINE)


def build(folder: Path) -> None:
    """Build the site into a folder. An earlier site in it is replaced."""
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARK).exists():
        sys.exit(f"{folder} is not empty and has no earlier site: name another folder, or remove it")
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "pages"
        assemble(source)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / _MARK).touch()
        sphinx = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "-c", str(HERE)]
        done = subprocess.run([*sphinx, "-d", f"{temporary}/doctrees", str(source), str(folder)])
    if done.returncode:
        sys.exit("The site has faults: see the warnings above. Each names a page as it is in docs/.")
    if found := foreign(folder):
        sys.exit("The site asks other hosts:\n" + "\n".join(found))
    (folder / ".buildinfo").unlink(missing_ok=True)
    (folder / "_sources").rmdir()  # Empty: conf.py has no sources copied.


def assemble(source: Path) -> None:
    """Put all pages into a folder."""
    shutil.copytree(ROOT / "docs", source)
    for original, place in OTHERS.items():
        (source / place).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / original, source / place)
    originals = {place: original for original, place in OTHERS.items()}
    for page in source.rglob("*.md"):
        place = page.relative_to(source).as_posix()
        page.write_text(with_places(page.read_text(), originals.get(place, f"docs/{place}"), place))
    command_pages.write_pages(source)  # first, as it looks for the commands in the pages
    api_pages.write_pages(source)
    error_pages.write_page(source)
    index = source / "index.md"
    index.write_text(
        re.sub(r"^- .*\(reference/errors\.md\).*\n", rf"\g<0>{_MADE}", index.read_text(), flags=re.MULTILINE)
    )
    for page in (index, source / "how-it-works" / "decisions.md"):
        page.write_text(with_tables_of_contents(page.read_text()))


def with_places(text: str, original: str, place: str) -> str:
    """Return a page with links that lead to files' places in the site. A link to a file without one becomes its text.

    A link whose text is the name of a page gets the page's title.

    Args:
        text: the page.
        original: its path in the repository.
        place: its path in the site.
    """

    def link(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        path = os.path.normpath(os.path.join(os.path.dirname(original), target))
        if path.startswith("docs/"):
            found = path.removeprefix("docs/")
        elif path in OTHERS:
            found = OTHERS[path]
        else:
            return words if (ROOT / path).exists() else match[0]
        if words.endswith(".md") and words.endswith(os.path.basename(target)) and (ROOT / path).is_file():
            words = title_of((ROOT / path).read_text())
        return f"[{words}]({os.path.relpath(found, os.path.dirname(place) or '.')}{anchor})"

    return _LINK.sub(link, text)


def with_tables_of_contents(page: str) -> str:
    """Return a page with tables of contents, made from the lists of pages in its sections.

    The table of a section in a section is called after both: How to: keys.
    """
    _, *parts = _HEADING.split(f"{page}")
    tables, outer = [], ""
    for level, title, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        outer = title if level == "##" else outer
        caption = title if level == "##" else f"{outer}: {title}"
        if pages := re.findall(r"^- \[([^\]]*)\]\(([^)\s]+\.md)\)", body, re.MULTILINE):
            listed = [f"{words.replace('`', '')} <{path}>" for words, path in pages]
            tables += ["```{toctree}", ":hidden:", f":caption: '{caption}'", "", *listed, "```", ""]
    return "\n".join([page, *tables])


def foreign(folder: Path) -> list[str]:
    """Return what the files of a site would load from other hosts. Links, which a reader follows, are not of these."""
    host = r"""((?:\w+:)?//[^"'`)>\s]*)"""
    attribute = rf"""<(?!a\b)[^<>]*[\s:](?:src|srcset|href|data|action|poster)=["']?(?:[^"'>]*,\s*)?{host}"""
    refresh = rf"""<meta[^<>]*\scontent=["']?\d+;\s*url={host}"""
    in_style = rf"""(?:url\(|@import)\s*["']?{host}"""
    call = r"""(?:fetch|import|importScripts|sendBeacon|open|Worker|WebSocket|EventSource)\s*\(?"""
    in_script = rf"""(?:{call}|\.(?:src|href)\s*=)\s*["'`]{host}"""
    patterns = {
        ".html": [attribute, refresh, in_style, in_script],
        ".css": [in_style],
        ".js": [in_script],
        ".svg": [attribute, in_style],
    }
    return [
        f"{path.relative_to(folder)}: {found}"
        for path in sorted(folder.rglob("*"))
        for pattern in patterns.get(path.suffix, [])
        for found in re.findall(pattern, path.read_text())
    ]


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve())
