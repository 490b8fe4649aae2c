"""Draws the three first runs as terminals: `python tests/recordings.py` runs them and writes their pictures.

The commands run in a shell on a terminal, with emulated hardware and an emulated AWS.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from pages import ROOT
from transcripts import Shell, steps

FOLDER = ROOT / "docs" / "start"
ANSWERS = {r"Type yes to [a-z ]+: ": "yes", r"management key for [^\n]*: ": "", r"user PIN for [^\n]*: ": "123456"}
_COLUMNS, _LINE, _TEXT = 96, 19, 8.43
_STYLE = """
text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#1f2328;white-space:pre}
.c{font-weight:600;fill:#0a5c2b}
.page{fill:#f6f8fa;stroke:#8c959f}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}
.c{fill:#7ee2a0}
.page{fill:#161b22;stroke:#6e7681}
}
"""
_TPM_SERVER = (
    """
    export XDG_CONFIG_HOME=$PWD/config XDG_STATE_HOME=$PWD/state XDG_RUNTIME_DIR=$PWD AWS_CONFIG_FILE=$PWD/aws-config
    chmod 700 .
    eval "$(python -m softhsm tpm tutorial/chip)"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -keyout ca.key -out ca.pem -days 3650 \
        -subj "/CN=Example CA" -addext keyUsage=critical,keyCertSign,cRLSign 2> /dev/null
    hwsigner emulator --empty > emulator.env 2> emulator.log &
    until grep -qs ^secret-access-key= emulator.env; do sleep 0.1; done
    value() { sed -n "s/^$1=//p" emulator.env; }
    export AWS_ENDPOINT_URL=$(value endpoint) AWS_DEFAULT_REGION=us-east-1
    export AWS_ACCESS_KEY_ID=$(value access-key-id) AWS_SECRET_ACCESS_KEY=$(value secret-access-key)
    hwsigner aws setup --ca ca.pem --role web --match CN=web,OU=shop --yes
    unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
    printf '[profile web]\\nregion = us-east-1\\n' > aws-config
    echo "credential_process = $(command -v hwsigner-credentials) --profile web" >> aws-config""",
    "hwsigner keygen tpm2:path=web.tss2\n",
    "hwsigner csr web.tss2 --subject CN=web,OU=shop --out web.csr\n",
    "openssl x509 -req -in web.csr -CA ca.pem -CAkey ca.key -copy_extensions copy -days 90 -out web.pem\n",
    "hwsigner install-certificate web.pem web.tss2 --profile web\n",
    "aws sts get-caller-identity --profile web\n",
)


@dataclass(frozen=True)
class Recording:
    """A first run.

    Attributes:
        name: the picture's, without first-run-.
        title: what it shows.
        blocks: the commands.
        shown: what the blocks that are shown begin with; the others prepare them.
    """

    name: str
    title: str
    blocks: tuple[str, ...]
    shown: tuple[str, ...]

    @property
    def path(self) -> Path:
        return FOLDER / f"first-run-{self.name}.svg"


def recordings() -> list[Recording]:
    """Return the three first runs. Two are the blocks of their tutorials, whose third needs systemd."""
    yubikey, job = (
        tuple(step.commands.text for step in steps(f"docs/start/{name}.md")) for name in ("yubikey", "build-agent")
    )
    of_job = ("hwsigner keygen handle", "hwsigner csr handle", "cat > job.sh")
    of_yubikey = ("hwsigner keygen", "hwsigner csr", "cat > aws-config")
    return [
        Recording("tpm", "A server's first run with a TPM", _TPM_SERVER, ("hwsigner", "openssl", "aws")),
        Recording("yubikey", "An administrator's first run with a YubiKey", yubikey, of_yubikey),
        Recording("job", "A build job's first run", job, of_job),
    ]


def record(recording: Recording, home: Path) -> list[str]:
    """Run a first run in a home folder, and return the lines of the terminal. Those of commands begin with `$ `."""
    lines: list[str] = []
    shell = Shell(home, {}, ANSWERS)
    left = list(recording.shown)
    try:
        for block in recording.blocks:
            output, has_failed = shell.run(textwrap.dedent(block))
            assert not has_failed, f"{block}\n{output}"
            if is_shown := block.startswith(recording.shown):
                left = [start for start in left if not block.startswith(start)]
                lines += _typed(block)
                lines += [line.rstrip() for line in output.replace(str(home), "/home/jo").splitlines()]
            if is_shown and not left:
                shell.run("if type yubikey > /dev/null 2>&1; then yubikey quit; fi")  # It runs a pcscd.
                return lines
    finally:
        for folder in home.glob("**/swtpm.pid"):
            subprocess.run([sys.executable, "-m", "softhsm", "stop", str(folder.parents[1])], cwd=ROOT, check=True)
        shell.end()
    raise AssertionError(f"{recording.name}: no block begins with {left}")


def _typed(block: str) -> Iterator[str]:
    """Yield the lines of commands with the shell's prompts."""
    end, is_continued = "", False
    for line in block.splitlines():
        yield f"{'> ' if end or is_continued else '$ '}{line}"
        if end:
            end = "" if line == end else end
        elif here := re.search(r"<<'?(\w+)", line):
            end = here[1]
        is_continued = not end and line.endswith("\\")


def _wrapped(line: str) -> list[str]:
    return [line[start : start + _COLUMNS] for start in range(0, len(line), _COLUMNS)] or [""]


def draw(title: str, lines: list[str]) -> str:
    """Return a picture of a terminal. A line that is too long for it continues below, in the same `text`."""
    rows, texts = 0, []
    for line in lines:
        parts = _wrapped(line)
        spans = [f'<tspan x="16" y="{30 + (rows + i) * _LINE}">{escape(part)}</tspan>' for i, part in enumerate(parts)]
        style = ' class="c"' if line.startswith(("$ ", "> ")) else ""
        texts.append(f"<text{style}>{''.join(spans)}</text>")
        rows += len(parts)
    width, height = round(_COLUMNS * _TEXT) + 32, rows * _LINE + 28
    head = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-labelledby="t d"'
    commands = "; ".join(line[2:].rstrip(" \\") for line in lines if line.startswith("$ "))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {head}>',
            f'<title id="t">{escape(title)}</title>',
            f'<desc id="d">A terminal with these commands and what they print: {escape(commands)}</desc>',
            f"<style>{_STYLE}</style>",
            f'<rect class="page" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8"/>',
            *texts,
            "</svg>\n",
        ]
    )


def main() -> None:
    """Record the first runs, or those that are named, and write their pictures."""
    for recording in recordings():
        if len(sys.argv) > 1 and recording.name not in sys.argv[1:]:
            continue
        with tempfile.TemporaryDirectory(dir="/tmp", prefix="hw", ignore_cleanup_errors=True) as folder:
            (home := Path(folder) / "jo").mkdir()
            recording.path.write_text(draw(recording.title, record(recording, home)))
        print(recording.path.relative_to(ROOT), flush=True)


if __name__ == "__main__":
    main()
