"""Following a page to the letter: its commands in one shell on a terminal, and the outputs that it shows."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pages import Block, blocks

# The shell says so after each block: whether a command failed.
_END = re.compile(r"<<end of the block, failed=(\d*)>>")
_SECONDS = 60
# What differs in each run, and what stands for it in both texts.
_CHANGES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"\x1b\[[0-9;]*m", ""),
    (r"\b20\d\d-\d\d-\d\d(T[\d:.]+Z)?", "DATE"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "UUID"),
    (r"\b[0-9a-f]{38,64}\b", "HEX"),
    (r"\b(AROA|ASIA)[A-Z0-9]{12,16}", r"\1KEY"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
    (r"(?m)^subject=.*$", lambda found: found[0].replace(" = ", "=")),  # OpenSSL 3.0 writes blanks.
    (r"\s+", " "),
)


@dataclass(frozen=True)
class Step:
    """A shell block, and the output that the page shows below it, if any."""

    commands: Block
    output: str | None


def steps(page: str) -> list[Step]:
    """Return the shell blocks of a page in order, each with the `text` block that comes next."""
    shown = [each for each in blocks(page) if each.language in ("sh", "text") and not each.mark.startswith("not run")]
    following = [*shown[1:], None]
    return [
        Step(each, after.text if after and after.language == "text" else None)
        for each, after in zip(shown, following, strict=True)
        if each.language == "sh"
    ]


def follow(page: str, home: Path, environment: Mapping[str, str], answers: Mapping[str, str] | None = None) -> None:
    """Do what a page says, in a home folder that the page calls /home/jo, and compare the outputs with it.

    A block must succeed, unless the comment before it is `fails`: then one of its commands must fail.

    Args:
        answers: what is typed at a prompt that ends so, as a pattern.
    """
    shell = Shell(home, environment, answers or {})
    try:
        for step in steps(page):
            output, has_failed = shell.run(step.commands.text)
            seen = output.replace(str(home), "/home/jo")
            expected_failure = step.commands.mark == "fails"
            assert has_failed == expected_failure, f"{step.commands}: failed={has_failed}\n{step.commands.text}{seen}"
            assert step.output is None or is_shown(step.output, seen), (
                f"{step.commands} prints something else than the page shows:\n{seen}\nThe page:\n{step.output}"
            )
    finally:
        shell.end()


def is_shown(page: str, seen: str) -> bool:
    """Return whether an output is what a page shows, where `…` stands for anything, and line breaks are blanks."""
    parts = [re.escape(without_changes(part)) for part in page.split("…")]
    return re.fullmatch(r"\s*" + ".*?".join(parts) + r"\s*", without_changes(seen)) is not None


def without_changes(text: str) -> str:
    """Return a text without what differs in each run."""
    for pattern, instead in _CHANGES:
        text = re.sub(pattern, instead, text)
    return text.strip()


class Shell:
    """bash on a terminal of 100 columns, whose prompts are answered."""

    def __init__(self, home: Path, environment: Mapping[str, str], answers: Mapping[str, str]) -> None:
        self._answers = answers
        self._terminal, inside = pty.openpty()
        termios.tcsetwinsize(inside, (50, 100))
        scripts, self._scripts = os.pipe()
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        # A bare Debian has no pager, so the page must do without one.
        env = {"PATH": path, "LANG": "C.UTF-8", "TERM": "dumb", "AWS_PAGER": "absent", "HOME": str(home), **environment}
        # Each line of the pipe is a script's path.
        loop = f"""
            trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
            set -E
            while read -r script <&{scripts}; do
                failed=
                trap 'failed=1' ERR
                . "$script"
                trap - ERR
                printf '<<end of the block, failed=%s>>' "$failed"
            done"""
        self._script = home.parent / f"{home.name}.sh"
        self._process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", "bash", "-c", loop],
            cwd=home,
            env=env,
            stdin=inside,
            stdout=inside,
            stderr=inside,
            pass_fds=[scripts],
        )
        os.close(inside)
        os.close(scripts)

    def run(self, commands: str) -> tuple[str, bool]:
        """Run a block, and return what the terminal shows and whether a command failed."""
        self._script.write_text(commands)
        os.write(self._scripts, f"{self._script}\n".encode())
        shown, answered = "", 0
        while not (end := _END.search(shown)):
            assert select.select([self._terminal], [], [], _SECONDS)[0], f"{commands}\n{shown}"
            shown += os.read(self._terminal, 4096).decode(errors="replace").replace("\r\n", "\n")
            for prompt, answer in self._answers.items():
                if re.search(f"{prompt}$", shown[answered:]):
                    os.write(self._terminal, f"{answer}\n".encode())
                    answered = len(shown)
        return shown[: end.start()], bool(end[1])

    def end(self) -> None:
        """End the shell and what it has started in the background."""
        os.close(self._scripts)
        try:
            self._process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
        os.close(self._terminal)
