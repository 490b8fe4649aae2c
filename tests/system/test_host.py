from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from hwsigner._system import host, support


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in place of the one with the kernel's name."""
    path = tmp_path / "osrelease"
    monkeypatch.setattr(support, "_OSRELEASE", str(path))
    return path


# From reports of users of WSL, and from Debian.
@pytest.mark.parametrize("release", ["6.6.87.1-microsoft-standard-WSL2", "4.4.0-19041-Microsoft"])
def test_linux_in_windows_is_known_by_its_kernel(release: str, kernel: Path) -> None:
    kernel.write_text(f"{release}\n")
    assert support.is_wsl()
    assert host.name().endswith(" in WSL")


@pytest.mark.parametrize("release", ["6.12.43+deb13-amd64", "6.17.1-300.fc43.x86_64", ""])
def test_other_linux_is_not_in_windows(release: str, kernel: Path) -> None:
    kernel.write_text(f"{release}\n")
    assert not support.is_wsl()
    assert "WSL" not in host.name()


def test_system_without_that_file_is_not_in_windows(kernel: Path) -> None:
    assert not kernel.exists()
    assert not support.is_wsl()


def test_name_of_a_mac_has_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert host.name() == "macOS 15.1 arm64"


def test_name_of_a_linux_is_that_of_its_distribution(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "debian", "VERSION_ID": "13"})
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert host.name() == "debian 13 x86_64"


def test_import_on_windows_is_an_error_that_names_wsl() -> None:
    command = [sys.executable, "-c", "import os; os.name = 'nt'; import hwsigner._cli"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: hwsigner does not run on Windows: install it in WSL")
