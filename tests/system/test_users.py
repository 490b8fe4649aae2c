"""Users by name and number."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hwsigner._system.users import find_uid, known_uid, reading_group
from judges import needs_namespaces

# PROC_USER_INIT_INO in <linux/proc_ns.h>.
FIRST_NAMESPACE = 0xEFFFFFFD


@pytest.mark.parametrize(("user", "uid"), [("root", 0), ("0", 0), ("4711", 4711), ("0012", 12)])
def test_user_is_found_by_name_or_number(user: str, uid: int) -> None:
    assert find_uid(user) == uid


@pytest.mark.parametrize("user", ["", "no-such-user", "²", "٣", "-1", " 0", "a\0b", "\ud800", "9" * 5000])
def test_unknown_user_is_none(user: str) -> None:
    assert find_uid(user) is None


def test_no_group_helps_when_the_file_can_be_read_or_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file", tmp_path / "none", tmp_path / "file" / "none"):
        assert reading_group(str(path)) is None


@needs_namespaces
def test_user_65534_is_known_in_the_first_user_namespace_alone() -> None:
    is_first = Path("/proc/self/ns/user").stat().st_ino == FIRST_NAMESPACE
    assert [known_uid(uid) for uid in (0, 4711, 65534)] == [0, 4711, 65534 if is_first else -1]
    code = "from hwsigner._system.users import known_uid; print([known_uid(uid) for uid in (0, 4711, 65534)])"
    inside = ["unshare", "--user", "--map-root-user", sys.executable, "-P", "-c", code]
    assert subprocess.check_output(inside, text=True) == "[0, 4711, -1]\n"
