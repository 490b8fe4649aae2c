"""The pace of a profile's renewal timer. If a certificate lives for hours or minutes, a drop-in makes it look often."""

from __future__ import annotations

import os
import subprocess
import warnings
from contextlib import suppress

from hwsigner._config.profiles import file_of_new
from hwsigner._identity.certificate import Certificate
from hwsigner._system import launchd
from hwsigner._system.systemd import is_booted
from hwsigner.errors import CertificateError, HwsignerError, HwsignerWarning

DROP_IN = "50-hwsigner.conf"
# A certificate that lives less, in seconds, needs a look every few seconds, and a look takes 0.2 s of processor time.
_SHORTEST_LIFE = 600.0
_STEP_SHARE = 1 / 40
_UNIT_STEP = 900.0  # Of `hwsigner-renew@.timer`, in seconds.
_SYSTEMD_WAIT = 30  # Seconds.
# A monotonic timer recurs by OnUnitInactiveSec; OnActiveSec is the first look after a boot. Chance adds up to half.
_TEXT = """\
# Written by hwsigner enroll and renew, which change or remove this file with the life of the certificate.
[Timer]
OnCalendar=
OnActiveSec={half}s
OnUnitInactiveSec={half}s
RandomizedDelaySec={half}s
AccuracySec=1s
"""


def life_of(leaf: Certificate) -> float:
    """Return the seconds that a certificate lives."""
    return (leaf.x509.not_valid_after_utc - leaf.x509.not_valid_before_utc).total_seconds()


def check_life(leaf: Certificate) -> None:
    """Check that a new certificate lives long enough to be renewed in time."""
    life = life_of(leaf)
    if life < _SHORTEST_LIFE - 1:  # The last second may count as a part of the life.
        problem = f"the certificate from the issuer lives {life:.0f} s: only a look every few seconds could renew it"
        hint = f"The issuer's settings must allow {_SHORTEST_LIFE:.0f} s or more. Nothing was installed"
        raise CertificateError(problem, hint)


def step_of_timer(life: float) -> float | None:
    """Return how often to look, in seconds, whether a certificate is due; None if each quarter of an hour will do.

    Chance takes away up to half of it.
    """
    step = life * _STEP_SHARE
    return step if step < _UNIT_STEP else None


def set_pace(name: str, config: str, leaf: Certificate) -> str:
    """Have the timer of a profile look often enough for its certificate. Nothing is written unless that changes.

    `config`, the profile's config.toml, decides whether the timer is one of the system. Returns how often the timer
    looks; empty if its unit says that.
    """
    step, system = step_of_timer(life_of(leaf)), config == file_of_new(os.environ, system=True)
    path = os.path.join(unit_folder(system=system), f"hwsigner-renew@{name}.timer.d", DROP_IN)
    if step is None and not os.path.exists(path):
        return ""
    every = f"every {step:.0f} s" if step else "every quarter of an hour"
    if step and launchd.is_here():
        return f"run hwsigner launchd install renew {name} --every {step:.0f}"
    if step and not is_booted():
        return f"systemd does not run here: run hwsigner renew --if-due {name} {every}"
    try:
        if _replace(path, _TEXT.format(half=max(1, int(step / 2))) if step else ""):
            _reload(every, system=system)
    except OSError as error:
        problem = f"the timer can't be set to look {every}: {path}: {error.strerror}"
        hint = f"Check who may write its folder, then run hwsigner enroll {name}, or the certificate may expire"
        warnings.warn(HwsignerWarning(problem, hint), stacklevel=3)
        return ""
    return f"{path}: a look {every}, once the timer is enabled" if step else ""


def unit_folder(*, system: bool) -> str:
    """Return the folder of an administrator's units, or of this user's."""
    if system:
        return "/etc/systemd/system"
    return os.path.join(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"), "systemd", "user")


def is_timer_enabled(name: str, *, system: bool) -> bool:
    """Return whether systemd or launchd starts a profile's timer at a boot, or at this user's login. Nothing is run."""
    if launchd.is_here():
        return not system and os.path.exists(launchd.file_of(f"hwsigner.renew.{name}"))
    folders = [unit_folder(system=system)] + ([] if system else ["/etc/systemd/user"])
    return any(os.path.lexists(f"{folder}/timers.target.wants/hwsigner-renew@{name}.timer") for folder in folders)


def end_timer(name: str, *, system: bool) -> None:
    """Have systemd start a profile's timer no more, and end it. Its drop-in goes too.

    Raises HwsignerError if the timer stays enabled.
    """
    unit, folder = f"hwsigner-renew@{name}.timer", unit_folder(system=system)
    reason = _systemctl("disable", "--now", unit, system=system) if is_booted() else ""
    try:
        if not is_booted():
            os.unlink(f"{folder}/timers.target.wants/{unit}")
        _replace(f"{folder}/{unit}.d/{DROP_IN}", "")
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
    if reason or is_timer_enabled(name, system=system):
        everyone = "" if reason else "--global "  # An administrator can enable a user's unit for all users.
        hint = f"Run systemctl {'' if system else everyone or '--user '}disable {unit}, then this again"
        raise HwsignerError(f"the timer {unit} is still enabled{reason and ': '}{reason}", hint)


def _replace(path: str, text: str) -> bool:
    """Write a drop-in, or remove it if there is no text. Return whether that changes something."""
    with suppress(FileNotFoundError), open(path, "rb") as old:
        if old.read() == text.encode():
            return False
    if not text:
        with suppress(FileNotFoundError):
            os.unlink(path)
        return True
    new = f"{path}.new"
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    with suppress(FileNotFoundError):
        os.unlink(new)  # Left by a killed process.
    with open(new, "x", encoding="utf-8") as file:  # It follows no link.
        os.fchmod(file.fileno(), 0o644)
        file.write(text)
    os.replace(new, path)
    return True


def _reload(every: str, *, system: bool) -> None:
    """Have systemd read the units again. A timer that runs goes on with the new pace."""
    if reason := _systemctl("daemon-reload", system=system):
        problem = f"systemd did not read its units again, so the timer does not look {every} yet: {reason}"
        hint = f"Run systemctl {'' if system else '--user '}daemon-reload"
        warnings.warn(HwsignerWarning(problem, hint), stacklevel=4)


def _systemctl(*arguments: str, system: bool) -> str:
    """Run systemctl, and return why it failed; empty if it did not."""
    command = ["systemctl", *([] if system else ["--user"]), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SYSTEMD_WAIT)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return " ".join(done.stderr.split())[:200] or f"status {done.returncode}" if done.returncode else ""
