"""The folders in which one process leaves something for the next."""

from __future__ import annotations

import pytest

from hwsigner.system import state


@pytest.mark.parametrize(
    ("environment", "place"),
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
    environment: dict[str, str], place: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(state, "_home_of_account", lambda: "/account")
    for name, value in ({"HOME": "/h"} | environment).items():
        monkeypatch.setenv(name, value)
    folders = list(state.state_folders("refused-pins"))
    assert folders == ([] if place is None else [f"{place}/hwsigner/refused-pins"])
