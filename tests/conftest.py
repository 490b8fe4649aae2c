"""What applies to every test: an empty environment, the markers hardware, root and needs, no skips in CI."""

from __future__ import annotations

import functools
import gc
import os
import resource
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from typing import Any

import hypothesis
import pytest

import certs
import judges
from emulators import (
    allow_hardware,
    any_auth_values,
    hardware,
    short_folder,
    softhsm,
    softhsm_folder,
    softhsm_module,
    swtpm,
)
from hwsigner.emulator import Emulator, World
from pin_files import forgotten_pins, write_pin_file
from pkcs11_shim import loaded_shim, shim, shim_library
from shared_hardware import shared_hardware_is_as_found, shared_hardware_is_noted
from terminals import terminal
from yubikeys import module_yubikey, new_yubikey, pcsc, pcsc_folder, yubikey

__all__ = [
    "any_auth_values",
    "forgotten_pins",
    "hardware",
    "loaded_shim",
    "module_yubikey",
    "new_yubikey",
    "pcsc",
    "pcsc_folder",
    "shared_hardware_is_as_found",
    "shared_hardware_is_noted",
    "shim",
    "shim_library",
    "short_folder",
    "softhsm",
    "softhsm_folder",
    "softhsm_module",
    "swtpm",
    "terminal",
    "write_pin_file",
    "yubikey",
]

IS_ROOT = os.geteuid() == 0
# How many tests a run left out, by what the system lacks for them.
LEFT_OUT = pytest.StashKey[dict[str, int]]()

_KEPT = ("PATH", "HOME", "TMPDIR", "TERM", "CI")
_KEPT_PREFIXES = ("PYTEST_", "COV_", "COVERAGE_")

# Before any test module is imported: remove the developer's proxies, CA bundles and AWS settings, and
# PYTHONDONTWRITEBYTECODE, with which every child process would compile all modules again.
for _name in list(os.environ):
    if _name not in _KEPT and not _name.startswith(_KEPT_PREFIXES):
        del os.environ[_name]
os.environ["LANG"] = "C.UTF-8"
# Debian's users have 002, but hwsigner does not trust files that a group can write.
os.umask(0o022)

# A background job of a shell ignores SIGINT and SIGQUIT, and one under nohup ignores SIGHUP. Programs that tests start
# would ignore them too.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _handler)

# Some tests run a thousand clients at once.
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
if _soft != resource.RLIM_INFINITY and _soft < _hard:
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_hard, 8192), _hard))

hypothesis.settings.register_profile("hwsigner", deadline=None, print_blob=True)
# Fewer examples, and always the same ones: `make check` fails because of a change, never by chance.
hypothesis.settings.register_profile("check", deadline=None, max_examples=20, derandomize=True)
hypothesis.settings.load_profile("hwsigner")


@pytest.fixture(scope="session", autouse=True)
def empty_home() -> Generator[None]:
    """Give the tests an empty home folder, and a runtime folder whose sockets have short paths, as macOS needs them."""
    with (
        tempfile.TemporaryDirectory(prefix="hwsigner-home-") as home,
        tempfile.TemporaryDirectory(prefix="r-") as runtime,
        pytest.MonkeyPatch.context() as patch,
    ):
        folders = {"HOME": home, "XDG_RUNTIME_DIR": runtime, "XDG_STATE_HOME": os.path.join(home, "XDG_STATE_HOME")}
        os.mkdir(folders["XDG_STATE_HOME"], 0o700)
        for name, folder in folders.items():
            patch.setenv(name, folder)
        yield


@pytest.fixture(autouse=True)
def no_agent_is_left() -> Iterator[None]:
    """Fail a test that leaves an agent in the runtime folder of all tests: it would answer the next ones."""
    yield
    assert not os.path.lexists(os.path.join(os.environ["XDG_RUNTIME_DIR"], "hwsigner", "agent.sock"))


@pytest.fixture(scope="session", autouse=True)
def shared_models() -> Iterator[None]:
    """Let all sessions of botocore share what they read of its models: half the work of making a client."""
    import botocore.session

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.session.create_loader))
        yield


@pytest.fixture(scope="session")
def ca() -> certs.Authority:
    """The CA that tests share."""
    return certs.make_ca()


@pytest.fixture(scope="session")
def shared_emulator(ca: certs.Authority) -> Iterator[Emulator]:
    """One emulator for all tests of this process."""
    with Emulator(World.simple(ca.certificate)) as emulator:
        yield emulator


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--at-least", type=int, default=0, metavar="NUMBER", help="fail if fewer tests pass")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
    """Mark the tests that use emulated hardware, which `make check` deselects. Leave out what can't run here."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "hardware" in fixtures:
            item.add_marker("hardware")
        for name in judges.FIXTURES.keys() & fixtures:
            item.add_marker(pytest.mark.needs(judges.FIXTURES[name]))
    yield
    left_out = {item: lacking for item in items if (lacking := _lacking(item))}
    config.stash[LEFT_OUT] = dict(Counter(left_out.values()))
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def _lacking(item: pytest.Item) -> str | None:
    """Return what a test needs and this run does not have."""
    if item.get_closest_marker("root") and not IS_ROOT:
        return "root"
    return next((mark.args[0] for mark in item.iter_markers("needs") if mark.args[0] in judges.lacking()), None)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that reports, if this is one of its workers. Otherwise, look how many tests passed."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left out"] = session.config.stash.get(LEFT_OUT, {})
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    passed, expected = len(reporter.stats.get("passed", [])) if reporter else 0, session.config.getoption("--at-least")
    if passed < expected:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print(f"\nonly {passed} tests passed, and not at least {expected}", file=sys.stderr)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker left out. All of them collect the same tests."""
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left out", {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many tests this run left out."""
    for name, number in sorted(config.stash.get(LEFT_OUT, {}).items()):
        terminalreporter.write_line(f"not judged here: {number} tests that need {name}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    allow_hardware(item.get_closest_marker("hardware") is not None)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # What exists now stays, and is not looked at after each test.


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """Let a test fail that leaves something open in a reference cycle. Otherwise, a later test would fail for it.

    The younger generations cost 0.3 ms. What has become older is found at the end of the file. A test that has failed
    leaves what its frames have, which is no second failure.
    """
    yield
    has_failed = hasattr(sys, "last_value")
    for name in ("last_exc", "last_type", "last_value", "last_traceback"):  # pytest keeps these frames for a debugger.
        vars(sys).pop(name, None)
    left: list[str] = []
    is_last = nextitem is None or nextitem.path != item.path
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", lambda one: left.append(f"{one.exc_value!r} in {one.object!r}"))
        gc.collect(2 if is_last or has_failed else 1)
    if is_last:
        gc.freeze()
    if left and not has_failed:
        pytest.fail(f"{'a test of this file' if is_last else 'this test'} has left: {'; '.join(left)}", pytrace=False)


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure in CI, where nothing may be missing."""
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"nothing may be skipped in CI: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report
