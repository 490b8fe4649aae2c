"""The program itself: exit statuses, one line on stderr and no traceback, also with closed or full streams."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import pytest

import hwsigner._cli
from hwsigner import __version__, errors
from hwsigner._cli import COMMANDS
from hwsigner.errors import HwsignerError, HwsignerWarning, UnsafeKeyWarning
from judges import needs_proc
from scene import Outcome, Scene

Call = Callable[..., Outcome]
ROOT = Path(__file__).parents[2]


def start(*arguments: str, shell: str = '"$@"', unbuffered: bool = False) -> subprocess.CompletedProcess[str]:
    """Run the program in its own process, through a line of shell that may redirect its streams."""
    env = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "LANG": "C.UTF-8"}
    env |= {"PYTHONUNBUFFERED": "1"} if unbuffered else {}
    command = ["bash", "-c", shell, "bash", sys.executable, "-m", "hwsigner", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def without_reader(
    arguments: Sequence[str], folder: Path, environ: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Run the program with a profile `web` and a pipe as stdout that has no reader; return its status and stderr."""
    (folder / "hwsigner").mkdir()
    (folder / "hwsigner" / "config.toml").write_text('[profile.web]\nprivate-key = "handle:0x81000100"\n')
    reader, writer = os.pipe()
    os.close(reader)
    env = {**os.environ, "XDG_CONFIG_HOME": str(folder), **(environ or {})}
    command = [sys.executable, "-m", "hwsigner", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    return done.returncode, done.stderr


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], int]], None]:
    """A function that adds a command `test`, which runs a callable."""

    def add(action: Callable[[], int]) -> None:
        module = ModuleType("test_command")
        vars(module).update(HELP="", add_arguments=lambda _: None, run=lambda _: action())
        monkeypatch.setitem(COMMANDS, "test", "test_command")
        monkeypatch.setitem(sys.modules, "test_command", module)

    return add


def raising(error: BaseException) -> Callable[[], int]:
    def action() -> int:
        raise error

    return action


class TestExitStatuses:
    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (errors.HwsignerError, 1),
            (errors.UsageError, 2),
            (errors.ConfigError, 2),
            (errors.SigningKeyError, 3),
            (errors.PinError, 3),
            (errors.KeyMismatchError, 3),
            (errors.CertificateError, 4),
            (errors.ServiceError, 5),
            (errors.ServiceUnreachableError, 6),
        ],
    )
    def test_error_gives_the_status_of_its_class(
        self, error: type[HwsignerError], status: int, call: Call, command: Callable[[Callable[[], int]], None]
    ) -> None:
        command(raising(error("what was wrong", "What to do")))
        assert call("test") == Outcome(status, "", "hwsigner: what was wrong. What to do\n")

    @pytest.mark.parametrize("status", [0, 1, 7])
    def test_command_gives_its_own_status(
        self, status: int, call: Call, command: Callable[[Callable[[], int]], None]
    ) -> None:
        command(lambda: status)
        assert call("test") == Outcome(status, "", "")

    def test_interrupt_gives_status_130(self, call: Call, command: Callable[[Callable[[], int]], None]) -> None:
        command(raising(KeyboardInterrupt()))
        assert call("test") == Outcome(130, "", "")

    def test_deleted_working_folder_is_named(
        self,
        call: Call,
        command: Callable[[Callable[[], int]], None],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        command(lambda: len(os.path.abspath("web.key")))
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        assert call("test") == Outcome(1, "", "hwsigner: the working folder was deleted. Change to another folder\n")

    @pytest.mark.parametrize(
        "error", [ValueError("hunter2"), RecursionError("hunter2"), PermissionError(13, "hunter2")]
    )
    def test_bug_gives_status_1_and_one_line_without_its_message(
        self, error: Exception, call: Call, command: Callable[[Callable[[], int]], None]
    ) -> None:
        command(raising(error))
        outcome = call("test")
        assert (outcome.status, outcome.out) == (1, "")
        assert outcome.err.startswith(f"hwsigner: internal error: {type(error).__name__} at test_main.py:")
        assert outcome.err.count("\n") == 1
        assert "hunter2" not in outcome.err

    def test_library_that_is_too_old_is_named_with_what_to_install(self) -> None:
        """As with cryptography 43 of Debian 13, which has no ML-DSA."""
        old = "sys.modules['cryptography.hazmat.primitives.asymmetric.mldsa'] = None"
        code = f"import sys; {old}; from hwsigner._cli import main; sys.exit(main(['status']))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert done.stderr.startswith("hwsigner: the Python library cryptography is missing or too old: ")
        assert "mldsa" in done.stderr
        assert "hwsigner help install" in done.stderr

    def test_import_that_fails_by_a_bug_is_one(self, call: Call, command: Callable[[Callable[[], int]], None]) -> None:
        command(raising(ImportError("x", name="hwsigner.absent")))
        assert "internal error: ImportError" in call("test").err

    def test_control_characters_are_escaped(self, call: Call, command: Callable[[Callable[[], int]], None]) -> None:
        command(raising(HwsignerError("a\x1b[2J\nb\u202e", "c\r")))
        assert call("test").err == "hwsigner: a\\x1b[2J\\nb\\u202e. c\\r\n"


class TestWarnings:
    @pytest.fixture(autouse=True)
    def warning_command(self, command: Callable[[Callable[[], int]], None]) -> None:
        def action() -> int:
            for text in ("one", "two\n", "one"):
                warnings.warn(UnsafeKeyWarning(text), stacklevel=1)
            warnings.warn("of a library", stacklevel=1)
            return 0

        command(action)

    def test_every_warning_is_printed_in_one_line(self, call: Call) -> None:
        text = "hwsigner: warning: one\nhwsigner: warning: two\\n\nhwsigner: warning: one\n"
        assert call("test") == Outcome(0, "", text)

    def test_warning_filters_are_restored(self, call: Call) -> None:
        before = (warnings.filters[:], warnings.showwarning)
        call("test")
        assert before == (warnings.filters[:], warnings.showwarning)

    def test_warning_is_an_error_when_strict(self, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        from hwsigner._config.flags import IDENTITY

        monkeypatch.setattr(sys.modules["test_command"], "add_arguments", lambda parser: parser.add_flags(IDENTITY))
        assert call("test", "--strict") == Outcome(3, "", "hwsigner: one\n")
        assert call("test", "--strict=false").status == 0

    def test_every_class_of_warning_has_an_exit_status(self) -> None:
        kinds: list[type[HwsignerWarning]] = [HwsignerWarning, *HwsignerWarning.__subclasses__()]
        assert all(1 <= kind.exit_status <= 7 for kind in kinds)


class TestCommands:
    @pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("help",), ("help", "--help")])
    def test_help_lists_every_command(self, arguments: tuple[str, ...], call: Call) -> None:
        outcome = call(*arguments)
        assert (outcome.status, outcome.err) == (0, "")
        for name in COMMANDS:
            assert f"\n  {name} " in outcome.out

    @pytest.mark.parametrize("name", COMMANDS)
    @pytest.mark.parametrize("flag", ["--help", "-h"])
    def test_every_command_has_help(self, name: str, flag: str, call: Call) -> None:
        outcome = call(*name.split(), flag)
        assert (outcome.status, outcome.err) == (0, "")
        assert outcome.out.startswith(f"usage: hwsigner {name}")

    @pytest.mark.parametrize("name", ["", "aws", *COMMANDS])
    def test_help_fits_80_columns(self, name: str, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        outcome = call(*name.split(), "--help")
        assert [line for line in outcome.out.splitlines() if len(line) > 80] == []

    @pytest.mark.parametrize("arguments", [("aws",), ("aws", "--help"), ("help", "aws")])
    def test_help_about_a_group_lists_its_commands(self, arguments: tuple[str, ...], call: Call) -> None:
        outcome = call(*arguments)
        assert (outcome.status, outcome.err) == (0, "")
        assert outcome.out.startswith("usage: hwsigner aws COMMAND")
        assert "\n  aws principal-tags " in outcome.out
        assert "\n  credential-process " not in outcome.out

    def test_misspelt_command_of_a_group_is_corrected(self, call: Call) -> None:
        outcome = call("aws", "principal-tag", "leaf.pem")
        assert (outcome.status, outcome.out) == (2, "")
        assert outcome.err.startswith("hwsigner: unknown command 'aws principal-tag'")
        assert "Did you mean aws principal-tags?" in outcome.err

    def test_help_about_a_command_is_its_flags_and_its_page(self, call: Call) -> None:
        outcome = call("help", "agent")
        assert (outcome.status, outcome.err) == (0, "")
        assert outcome.out.startswith("usage: hwsigner agent")
        page = Path("docs/how-to/agent.md").read_text()
        assert "<!-- not run:" in page
        assert "<!--" not in outcome.out
        assert outcome.out.endswith(re.sub(" *<!-- .* -->\n", "", page))

    def test_help_about_another_page_is_the_page(self, call: Call) -> None:
        assert call("help", "pins") == Outcome(0, Path("docs/how-to/pins.md").read_text(), "")
        assert call("help", "list").out.startswith("usage: hwsigner list")
        assert call("help", "aws", "setup").out.endswith(Path("docs/reference/aws-setup.md").read_text())

    @pytest.mark.parametrize("command", ["whoami", "doctor", "read-certificate-data"])
    def test_argument_too_many_is_told_the_flag_for_a_profile(self, command: str, call: Call) -> None:
        outcome = call(command, "web")
        assert outcome.status == 2
        assert "unexpected argument. To name a profile, use --profile" in outcome.err
        assert ("--certificate" in outcome.err) == (command == "read-certificate-data")

    def test_output_that_the_locale_has_no_characters_for_is_escaped(self, tmp_path: Path) -> None:
        folder = tmp_path / "kürzel" / "hwsigner"
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text("[profile.web]\n")
        env = f'PYTHONIOENCODING=ascii XDG_CONFIG_HOME="{folder.parent}"'
        done = start("profile", "list", shell=f'{env} "$@"')
        assert (done.returncode, done.stderr) == (0, "")
        assert "k\\xfcrzel" in done.stdout

    def test_help_about_something_else_names_the_pages(self, call: Call) -> None:
        outcome = call("help", "../passwd")
        assert (outcome.status, outcome.out) == (2, "")
        assert "agent, architecture, " in outcome.err
        assert call("help", "agnet") == Outcome(2, "", "hwsigner: no help about 'agnet'. Did you mean agent?\n")

    @pytest.mark.parametrize("arguments", [("version",), ("--version",)])
    def test_version_is_printed(self, arguments: tuple[str, ...], call: Call) -> None:
        assert call(*arguments) == Outcome(0, f"{__version__}\n", "")

    @pytest.mark.parametrize(
        ("name", "meant"), [("credential_process", "credential-process"), ("versio", "version"), ("lst", "list")]
    )
    def test_misspelt_command_gets_a_suggestion(self, name: str, meant: str, call: Call) -> None:
        assert call(name) == Outcome(2, "", f"hwsigner: unknown command {name!r}. Did you mean {meant}?\n")

    def test_misspelt_command_of_a_group_that_is_a_command_is_corrected(self, call: Call) -> None:
        err = "hwsigner: unknown command 'registrar alow'. Did you mean registrar allow?\n"
        assert call("registrar", "alow") == Outcome(2, "", err)

    @pytest.mark.parametrize(
        ("flag", "hint"),
        [("--hlep", "Did you mean --help?"), ("--profile", "Write the command first: hwsigner COMMAND [flags]")],
    )
    def test_flag_before_the_command_gets_a_hint(self, flag: str, hint: str, call: Call) -> None:
        assert call(flag, "web") == Outcome(2, "", f"hwsigner: {flag} is not a command. {hint}\n")

    def test_version_flag_of_a_command_gets_the_command_that_prints_it(self, call: Call) -> None:
        outcome = call("credential-process", "--version")
        assert outcome == Outcome(2, "", "hwsigner: unknown flag --version. Run hwsigner version\n")

    @pytest.mark.parametrize(("name", "hint"), [("frob", "See hwsigner --help"), ("aws", "See hwsigner aws --help")])
    def test_hint_about_an_unknown_command_is_short(self, name: str, hint: str, call: Call) -> None:
        assert call(name, "zzz").err.endswith(f". {hint}\n")

    @pytest.mark.parametrize("name", ["", "--pkcs8-password=hunter2", "-v", "a\x1b[2J"])
    def test_unknown_command_is_an_error_that_hides_values(self, name: str, call: Call) -> None:
        outcome = call(name)
        assert (outcome.status, outcome.out) == (2, "")
        assert "command" in outcome.err
        assert outcome.err.rstrip("\n").isprintable()
        assert "hunter2" not in outcome.err

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_refuses_unknown_flags_without_their_values(self, name: str, call: Call) -> None:
        for arguments in (("--no-such-flag", "hunter2"), ("--no-such-flag=hunter2",)):
            outcome = call(*name.split(), *arguments)
            assert (outcome.status, outcome.out) == (2, "")
            assert "--no-such-flag" in outcome.err
            assert "hunter2" not in outcome.err
            assert outcome.err.count("\n") == 1


class TestProcess:
    def test_package_runs_as_a_module(self) -> None:
        done = start("version")
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")
        done = start("nothing")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)

    @pytest.mark.parametrize("unbuffered", [False, True])
    @pytest.mark.parametrize("argument", ["version", "--help"])
    def test_full_stdout_is_an_error(self, argument: str, unbuffered: bool) -> None:
        done = start(argument, shell='"$@" >/dev/full', unbuffered=unbuffered)
        text = "hwsigner: can't write to stdout: No space left on device. Check where the output goes\n"
        assert (done.returncode, done.stderr) == (1, text)

    @pytest.mark.slow
    @pytest.mark.parametrize("buffering", [{}, {"PYTHONUNBUFFERED": "1"}])
    @pytest.mark.parametrize(
        "line",
        [
            "--help",
            "version --help",
            "help pins",
            "completion bash",
            "aws",
            "version",
            "profile show web",
            "doctor",
            "credential-process FLAGS",
            "csr KEY --subject=CN=web",
        ],
    )
    def test_command_ends_quietly_as_by_sigpipe_when_its_reader_has_gone(
        self, line: str, buffering: dict[str, str], scene: Scene, tmp_path: Path
    ) -> None:
        given = {"FLAGS": scene.flags(), "KEY": [str(scene.key)]}
        arguments = [argument for word in line.split() for argument in given.get(word, [word])]
        assert without_reader(arguments, tmp_path, buffering) == (141, b"")

    def test_closed_stdout_is_an_error(self) -> None:
        done = start("version", shell='"$@" >&-')
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "stdout is closed" in done.stderr

    @pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2>&- </dev/null"])
    def test_status_is_kept_when_stderr_is_closed_or_full(self, redirection: str) -> None:
        done = start("nothing", shell=f'"$@" {redirection}')
        assert (done.returncode, done.stdout, done.stderr) == (2, "", "")

    def test_ctrl_c_prints_nothing(self) -> None:
        code = "import os, signal, hwsigner._cli as c; c._run = lambda _: os.kill(os.getpid(), signal.SIGINT); {}"
        code = code.format("raise SystemExit(c.main([]))")
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, b"", b"")

    @needs_proc
    def test_no_command_can_be_dumped_or_read_by_other_programs(self) -> None:
        # A change of user would do it by itself: it is undone (PR_SET_DUMPABLE is 4).
        other_user = "os.setgroups([]); os.setgid(65534); os.setuid(65534); ctypes.CDLL(None).prctl(4, 1, 0, 0, 0); "
        code = (
            "import ctypes, os, resource, sys, hwsigner._cli as cli; cli.main = lambda: 7; "
            f"{other_user if os.geteuid() == 0 else ''}print(os.stat('/proc/self/mem').st_uid != 0); "
            "print(cli.entry_point(), resource.getrlimit(resource.RLIMIT_CORE), os.stat('/proc/self/mem').st_uid); "
            "reader, writer = os.pipe(); os.write(writer, b'read'); print(open(f'/dev/fd/{reader}').read(4))"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        # The files in /proc of a process that is not dumpable belong to root, and its user can't read them, but for fd.
        assert (done.stdout, done.stderr) == ("True\n7 (0, 0) 0\nread\n", "")


def test_installed_program_runs_main_without_garbage_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    import atexit
    import gc
    import tomllib

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"hwsigner": "hwsigner._cli:entry_point"}
    monkeypatch.setattr("hwsigner._system.memory.forbid_dumps", lambda: None)  # It could not be undone in this process.
    monkeypatch.setattr("hwsigner._cli.main", lambda: 7 if not gc.isenabled() else 8)
    try:
        assert hwsigner._cli.entry_point() == 7
    finally:
        gc.enable()
        atexit.unregister(hwsigner._cli._leave)
