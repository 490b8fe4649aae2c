"""`hwsigner completion`: what bash, zsh and fish complete, with their own completion systems."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from hwsigner._cli import COMMANDS
from scene import Outcome
from terminals import Terminal

Call = Callable[..., Outcome]
SHELLS = ("bash", "zsh", "fish")
# What is typed before Tab, and all that may follow.
CASES = {
    "stat": {"status"},
    "aws che": {"check"},
    "registrar al": {"allow"},
    "registrar allow --ro": {"--roots"},
    "help pkcs11-in": {"pkcs11-in-use"},
    "renew d": {"db"},
    "exec d": {"db"},
    "serve db w": {"web-one", "web-two"},
    "profile show w": {"web-one", "web-two"},
    "profile edi": {"edit"},
    "agent unlo": {"unlock"},
    "show --debug --profile w": {"web-one", "web-two"},
    "update --config-profile d": {"db"},
    "whoami --profile d": {"db"},
    "show --output j": {"json"},
    "keygen --algorithm p3": {"p384"},
    "credential-process --certificate keys/w": {"keys/web.pem"},
    "keygen keys/w": {"keys/web.pem"},
    "verify-attestation --roots ke": {"keys/"},
    "completion fi": {"fish"},
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder with profiles, one of them with a command as its name, and a folder of files."""
    config = tmp_path / ".config" / "hwsigner" / "config.toml"
    config.parent.mkdir(parents=True)
    config.touch(0o600)
    evil = f'[profile."$(touch {tmp_path}/ran)"]\n[profile."`touch {tmp_path}/ran`"]\n'
    config.write_text(f"{evil}[profile.web-one]\n[profile.web-two]\n[profile.db]\n")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "web.pem").touch()
    return tmp_path


@pytest.fixture
def environ(home: Path) -> dict[str, str]:
    """The variables of a shell. `hwsigner` is on its PATH, and would fail if it looked for a token or TPM."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    absent = {"TPM2_TCTI": "device:/absent", "P11_KIT_STRICT": "yes"}
    return {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8", "TERM": "xterm", **absent}


def scripted(shell: str, environ: Mapping[str, str]) -> str:
    done = subprocess.run(["hwsigner", "completion", shell], capture_output=True, text=True, env=dict(environ))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def script(shell: str, lines: str, environ: Mapping[str, str]) -> list[str]:
    """Run a script in a shell, in the home folder, and return the lines that it prints."""
    path = Path(environ["HOME"], f"test.{shell}")
    path.write_text(lines)
    flags = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [shell, *flags, path], cwd=environ["HOME"], env=dict(environ), capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.slow
def test_bash_completes_words(environ: dict[str, str], home: Path) -> None:
    function = 'completed() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_hwsigner; echo "${COMPREPLY[*]}"; }'
    calls = "\n".join(f"completed hwsigner {case}" for case in CASES)
    shown = script("bash", f"{scripted('bash', environ)}\n{function}\n{calls}\n", environ)
    # readline adds the slash of a folder.
    assert [{*line.split()} for line in shown] == [{word.rstrip("/") for word in words} for words in CASES.values()]
    assert not (home / "ran").exists()


@pytest.mark.slow
def test_fish_completes_words(environ: dict[str, str], home: Path) -> None:
    calls = "\n".join(f"echo (complete -C 'hwsigner {case}' | string replace -r '\\t.*' '')" for case in CASES)
    shown = script("fish", f"{scripted('fish', environ)}\n{calls}\n", environ)
    assert [{*line.split()} for line in shown] == list(CASES.values())
    assert not (home / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "install"),
    [
        ("bash", 'eval "$(cat _hwsigner)"'),
        ("zsh", 'autoload -U compinit; compinit -u -D; eval "$(cat _hwsigner)"'),
        ("zsh", 'eval "$(cat _hwsigner)"'),  # As on a Mac, whose zsh has no start file.
        ("zsh", "fpath=(~ $fpath); autoload -U compinit; compinit -u -D"),
    ],
)
def test_tab_key_completes_at_the_prompt(
    shell: str, install: str, environ: dict[str, str], home: Path, terminal: Terminal
) -> None:
    (home / "_hwsigner").write_text(scripted(shell, environ))
    start = {"bash": "bash --norc --noprofile -i", "zsh": "zsh -f -i"}[shell]
    process = terminal.start("sh", "-c", f"cd; exec {start} <>/dev/tty >&0 2>&0", **environ)
    terminal.type(f"{install}; echo re''ady\r".encode())
    terminal.shown_until("ready\r\n")
    for typed, words in CASES.items():
        if len(words) == 1:
            # Ctrl-A, then `echo`: the shell prints the line that Tab has completed.
            terminal.type(f"hwsigner {typed}\t\x01echo \r".encode())
            (word,) = words
            line = f"hwsigner {typed}".rpartition(" ")[0]
            # zsh drops the slash again at the end of the line.
            terminal.shown_until(f"{line} {word if shell == 'bash' else word.rstrip('/')}\r\n")
    terminal.type(b"exit\r")
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert not (home / "ran").exists()


@pytest.mark.slow
def test_profiles_are_completed_with_the_sed_of_a_mac(environ: dict[str, str], home: Path) -> None:
    sed = home / "bin" / "sed"
    sed.parent.mkdir()
    # To it, a backslash and a t are a t.
    sed.write_text(f'#!/bin/bash\nexec {shutil.which("sed")} "${{@//\\\\t/t}}"\n')
    sed.chmod(0o755)
    mac = {**environ, "PATH": f"{sed.parent}:{environ['PATH']}"}
    call = 'COMP_WORDS=(hwsigner profile show w); COMP_CWORD=3; _shtab_hwsigner; echo "${COMPREPLY[*]}"'
    assert script("bash", f"{scripted('bash', mac)}\n{call}\n", mac) == ["web-one web-two"]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_and_flag_is_in_the_script(shell: str, call: Call) -> None:
    text = call("completion", shell).out
    for name in COMMANDS:
        assert re.search(rf"\b{name.rpartition(' ')[2]}\b", text)
    for flag in ("trust-anchor-arn", "role-arn", "challenge", "touch-policy"):
        assert flag in text


@pytest.mark.slow
def test_broken_config_file_completes_nothing_and_says_nothing(environ: dict[str, str], home: Path) -> None:
    (home / ".config" / "hwsigner" / "config.toml").write_text("x")
    shown = script("fish", f"{scripted('fish', environ)}\necho (complete -C 'hwsigner renew w')\n", environ)
    assert shown == [""]


@pytest.mark.slow
def test_program_that_is_not_on_the_path_is_named_by_its_path(environ: dict[str, str], home: Path) -> None:
    program = Path(sys.executable).parent / "hwsigner"
    env = {**environ, "PATH": "/usr/bin:/bin"}
    text = subprocess.run([program, "completion", "bash"], capture_output=True, text=True, env=env).stdout
    assert f"{program} profile list" in text or shutil.which("hwsigner", path=env["PATH"])


def test_other_shell_is_an_error(call: Call) -> None:
    outcome = call("completion", "fsh")
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err == "hwsigner: there is no completion for 'fsh'. Did you mean fish?\n"


def test_missing_library_is_an_error_that_says_how_to_install_it(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    outcome = call("completion", "bash")
    assert (outcome.status, outcome.out) == (1, "")
    assert "pip install 'hwsigner[completion]==" in outcome.err
