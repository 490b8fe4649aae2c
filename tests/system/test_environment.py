"""The folders that the environment gives: in which one process leaves something for the next."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hwsigner._system import environment, users
from judges import needs_linux


@needs_linux
def test_runtime_folder_is_the_login_s_when_no_variable_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users, "_LOGINS", str(tmp_path))
    assert list(environment.runtime_folders()) == [f"{os.environ['XDG_RUNTIME_DIR']}/hwsigner"]
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert list(environment.runtime_folders()) == []
    (tmp_path / str(os.getuid())).mkdir()
    assert list(environment.runtime_folders()) == [f"{tmp_path}/{os.getuid()}/hwsigner"]


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"XDG_STATE_HOME": "/x", "STATE_DIRECTORY": "/s"}, "/x"),
        ({"STATE_DIRECTORY": "/s:/t"}, "/s"),
        ({"XDG_STATE_HOME": "x"}, "/h/.local/state"),
        ({}, "/h/.local/state"),
        ({"HOME": ""}, "/account/.local/state"),
        ({"HOME": "h"}, None),
        ({"HOME": "/"}, None),
        ({"HOME": "//"}, None),
    ],
)
def test_state_folder_is_chosen_by_the_environment(
    variables: dict[str, str], place: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(environment, "_home_of_account", lambda: "/account")
    for name, value in ({"HOME": "/h"} | variables).items():
        monkeypatch.setenv(name, value)
    folders = list(environment.state_folders("refused-pins"))
    assert folders == ([] if place is None else [f"{place}/hwsigner/refused-pins"])
