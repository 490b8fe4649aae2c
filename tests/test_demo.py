from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pages import ROOT, block

PROGRAM = "import sys; from softhsm import demo, demo_stage; {}; sys.exit(demo.main())"


@pytest.fixture
def changed() -> str:
    """Python code that changes the demo's modules before it runs."""
    return "pass"


@pytest.fixture
def demo(hardware: None, short_folder: Path, changed: str) -> Iterator[subprocess.Popen[str]]:
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "TMPDIR": str(short_folder)}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(changed)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.terminate()


def assert_nothing_is_left(folder: Path) -> None:
    assert list(folder.iterdir()) == []
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert [command for command in commands if os.fsencode(folder) in command] == []


def test_demo_shows_three_identities_and_four_refusals(demo: subprocess.Popen[str], short_folder: Path) -> None:
    out, errors = demo.communicate(timeout=120)
    assert demo.returncode == 0, errors
    arns = re.findall(r"arn:aws:sts::\d{12}:assumed-role/\S+", out)
    assert len(set(arns)) == 3
    assert '"aws:PrincipalTag/x509Subject/OU": "devops"' in out
    [chip] = re.findall(r"([0-9a-f]{64}) may have CN=bamboo-server,OU=devops", out)
    unknown, changed, untrusted, other_unit = [line for line in out.splitlines() if ": refused: " in line]
    assert "hwsigner enroll on another server" in unknown
    assert "the registrar's policy does not give this chip" in unknown
    assert chip not in unknown
    assert "SignatureDoesNotMatch" in changed
    assert "Untrusted signing certificate" in untrusted
    assert other_unit.endswith("requires StringEquals aws:PrincipalTag/x509Subject/OU 'devops', but it is 'ops'")
    assert_nothing_is_left(short_folder)
    assert_readme_quotes(out)


def assert_readme_quotes(out: str) -> None:
    """Check README's transcript of the demo against its output. A `…` stands for anything."""
    transcript = block("README.md", "text", "## Try it", "## Install")
    pattern = ".*".join(map(re.escape, re.split(r"\s*…\s*", transcript.rstrip())))
    assert re.fullmatch(pattern, out.rstrip(), re.DOTALL), transcript


@pytest.mark.parametrize(
    ("number", "step"),
    [
        *((number, "hwsigner emulator") for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)),
        (signal.SIGINT, "hwsigner registrar"),
    ],
)
def test_demo_leaves_nothing_when_interrupted(
    demo: subprocess.Popen[str], short_folder: Path, number: signal.Signals, step: str
) -> None:
    assert demo.stdout
    while step not in demo.stdout.readline():
        assert demo.poll() is None
    demo.send_signal(number)
    _, errors = demo.communicate(timeout=60)
    assert demo.returncode == 130, errors
    assert "Traceback" not in errors
    assert_nothing_is_left(short_folder)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("demo_stage.AWS = '/nowhere/aws'", "/nowhere/aws is not installed"),
        ("demo_stage._SECONDS = 0.01", "did not exit within 0.01 seconds"),
        ("demo_stage.HWSIGNER = '/nowhere/hwsigner'", "/nowhere/hwsigner is not installed"),
    ],
)
def test_demo_prints_one_line_when_a_program_is_missing_or_too_slow(
    demo: subprocess.Popen[str], short_folder: Path, changed: str, message: str
) -> None:
    _, errors = demo.communicate(timeout=60)
    assert demo.returncode == 1, (changed, errors)
    assert errors.startswith("demo: ")
    assert message in errors
    assert errors.count("\n") == 1
    assert_nothing_is_left(short_folder)


def test_demo_prints_one_line_when_its_reader_goes_away(demo: subprocess.Popen[str], short_folder: Path) -> None:
    assert demo.stdout
    assert demo.stderr
    demo.stdout.readline()
    demo.stdout.close()
    errors = demo.stderr.read()
    assert (demo.wait(timeout=60), errors) == (1, "demo: [Errno 32] Broken pipe\n")
    assert_nothing_is_left(short_folder)


def test_demo_installs_no_service_of_the_machine() -> None:
    done = subprocess.run(["make", "--dry-run", "--always-make", "demo"], cwd=ROOT, capture_output=True, text=True)
    [packages] = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith(".ci/packages ")]
    assert {"softhsm2", "swtpm", "swtpm-tools", "openssl", "awscli"} <= set(packages)
    assert not {"pcscd", "tpm2-tools", "tpm2-abrmd", "vsmartcard-vpcd", "dbus-daemon"} & set(packages)
