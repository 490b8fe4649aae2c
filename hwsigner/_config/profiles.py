"""Profiles: tables of `config.toml` with flags under a name.

The user's file is `$XDG_CONFIG_HOME/hwsigner/config.toml` (`~/.config` by default, on macOS also `~/Library/Application
Support`), the system's `/etc/hwsigner/config.toml`. A user's `[profile.NAME]` replaces all of the system's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from hwsigner._system.environment import config_folders
from hwsigner._system.files import check_not_replaceable_by_others, edit_file, open_trusted
from hwsigner.errors import ConfigError, NoProfileError, UsageError, check_text, suggestion

SYSTEM_FILE = "/etc/hwsigner/config.toml"  # Not a Path: importing pathlib takes longer than reading the file.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_SEARCHED = 1 << 20  # Bytes of another user's file.
_BLOCK = re.compile(r"^(?=[ \t]*\[)", re.MULTILINE)


class Profile:
    """A named set of flags.

    Its values are as TOML has them, and may be secret. `exposed` says whether others can read the file.
    """

    def __init__(self, name: str, file: str, values: Mapping[str, Any], *, exposed: bool) -> None:
        self.name = name
        self.file = file
        self.values = values
        self.exposed = exposed

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if isinstance(other, Profile) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    @property
    def digest(self) -> str:
        """What is the same in two processes if they read the same values."""
        import hashlib

        return hashlib.sha256(_sorted_json(self.values).encode()).hexdigest()

    def __repr__(self) -> str:
        return f"Profile({self.name!r}, {self.file!r})"


def renewal_file(name: str, config: str) -> str:
    """Return the file that has the failures of a profile's renewals, and that a renewal locks."""
    return os.path.join(os.path.dirname(config), f".{name}.hwsigner-enroll")


def user_file(environ: Mapping[str, str]) -> str:
    """Return the path of the user's file, which may be missing. As XDG says, a relative XDG_CONFIG_HOME is ignored."""
    chosen = environ.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(chosen):
        return os.path.join(chosen, "hwsigner", "config.toml")
    files = _user_files(environ)
    return files[0] if len(files) == 1 else next(filter(os.path.exists, files), files[0])


def unread_files(environ: Mapping[str, str]) -> list[str]:
    """Return what would be the user's file if `user_file` were not there."""
    if os.path.isabs(environ.get("XDG_CONFIG_HOME", "")):
        return []
    return list(filter(os.path.exists, _user_files(environ)))[1:]


def _user_files(environ: Mapping[str, str]) -> list[str]:
    return [os.path.join(folder, "hwsigner", "config.toml") for folder in config_folders(environ)]


def profiles(environ: Mapping[str, str], *, system: bool = False) -> dict[str, Profile]:
    """Return all profiles by name. The system's file is skipped if this user may not read it: it may be for an agent.

    If `system`, the profiles are those of the system's file alone, which this user must be able to read.
    """
    if system:
        return profiles_of(SYSTEM_FILE)
    of_system = {} if is_system_file_hidden() else profiles_of(SYSTEM_FILE)
    return {**of_system, **profiles_of(user_file(environ))}


def profile(name: str, environ: Mapping[str, str], *, system: bool = False) -> Profile:
    """Return one profile; of the system's file alone, if `system`.

    If there is none with that name, this is a NoProfileError.
    """
    check_text(name, "the profile's name")
    found = profiles(environ, system=system)
    if name not in found:
        from hwsigner._system.support import has_system_agent

        has_agent = has_system_agent()
        if system:
            known = ", ".join(sorted(found)) or "none"
            hint = suggestion(name, found, f"Profiles there: {known}. Add one with hwsigner profile add --system")
            raise NoProfileError(f"there is no profile {name!r} in {SYSTEM_FILE}", hint)
        known = ", ".join(sorted(found)) or "none"
        variable = " (of HWSIGNER_PROFILE)" if environ.get("HWSIGNER_PROFILE") == name else ""
        other = f", and you can't read {SYSTEM_FILE}" if is_system_file_hidden() else f" or {SYSTEM_FILE}"
        hint = f"Profiles there: {known}. Add one with hwsigner profile add"
        share = f"--system --allow-users {_user()}"
        if has_agent and is_system_file_hidden():
            edit = f"hwsigner profile edit {name} {share}"
            hint = f"If root has it, have root run {edit}, and start the system's agent (hwsigner help agent)"
        elif has_agent and os.geteuid():
            hint = f"{hint}; if root has it, have root share it: hwsigner profile add {name} {share}"
        elif not os.geteuid() and (file := _file_of_sudo_user(name, environ)):
            add = ", or add it with hwsigner profile add --system" if has_agent else ""
            hint = f"{file} has it: run this without sudo{add}"
        raise NoProfileError(
            f"there is no profile {name!r}{variable} in {user_file(environ)}{other}", suggestion(name, found, hint)
        )
    return found[name]


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _file_of_sudo_user(name: str, environ: Mapping[str, str]) -> str:
    """Return the config.toml of the user who ran sudo, if it has a profile of this name; else an empty text."""
    import pwd

    try:
        file = user_file({"HOME": pwd.getpwnam(environ.get("SUDO_USER", "")).pw_dir})
        if os.path.isfile(file):
            with open(file, "rb") as stream:
                return file if f"[profile.{name}]".encode() in stream.read(_SEARCHED) else ""
    except (KeyError, OSError):
        pass
    return ""


def is_system_file_hidden() -> bool:
    """Return whether there is a system's file that this user may not read. The system's agent may have its profiles.

    If its folder is closed to this user, there may be one.
    """
    try:
        os.stat(SYSTEM_FILE)
    except OSError as error:
        return isinstance(error, PermissionError)
    return not os.access(SYSTEM_FILE, os.R_OK)


def check_name(name: str) -> None:
    """Check the name of a profile to be written."""
    if not _NAME.fullmatch(name):
        hint = "Use at most 64 letters, digits and ._@-"
        raise UsageError(f"{name[:100]!r} is not a valid profile name", hint)


def change_profile(name: str, values: Mapping[str, Any], environ: Mapping[str, str], *, system: bool = False) -> str:
    """Set some values of a profile, which is made if there is none; return its file's path.

    Its other values and comments do not change. A new value of None removes one. If `system`, the profile is in the
    system's file, whatever the user's has.
    """
    existing = profiles(environ, system=system).get(name)
    if existing is None:
        return add_profile(name, _merged({}, values), environ, system=system)

    def edit(text: bytes) -> bytes:
        before = _tables(text, existing.file).get(name)
        if before is None:
            raise ConfigError(f"{existing.file} has no profile {name!r} any more", "Run the command again")
        wanted = _merged(before, values)
        # tomlkit can't change some tables in their place: a value that becomes one of another type, or the reverse.
        edited = _with_values(text.decode(), name, values, wanted) or _with_profile(text.decode(), name, wanted)
        if edited is None:
            raise _unchangeable(existing.file, name)
        return edited.encode()

    if _merged(existing.values, values) != existing.values:
        import tomlkit  # noqa: F401  # Before others wait for the lock: it takes long.

        edit_file(existing.file, edit)
    return existing.file


def _merged(before: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**before, **values}.items() if value is not None}


def add_profile(
    name: str, values: Mapping[str, Any], environ: Mapping[str, str], *, replace: bool = False, system: bool = False
) -> str:
    """Write a profile into the user's file, or the system's, and return its path. The rest of it does not change.

    A new file gets mode 0600, in a folder of mode 0700; the system's folder 0755. `hwsigner._config.sharing` lets the
    system's agent read the file. A second writer waits for the first, and a writer that is killed leaves the file
    unchanged. A different profile with that name is a ConfigError, unless `replace`.
    """
    file = file_of_new(environ, system=system)

    def edit(text: bytes) -> bytes:
        existing = _tables(text, file).get(name)
        if existing == values:
            return text
        if existing is not None and not replace:
            raise ConfigError(f"{file} already has a different profile {name!r}", "Replace it with --replace")
        edited = _with_profile(text.decode(), name, values)
        if edited is None:
            raise _unchangeable(file, name)
        return edited.encode()

    written = profiles_of(file).get(name)
    if written is None or written.values != values:
        if system and not os.path.isdir(folder := os.path.dirname(file)):
            os.makedirs(folder)
            os.chmod(folder, 0o755)  # noqa: S103  whatever the umask is
        import tomlkit  # noqa: F401  # As in `change_profile`.

        edit_file(file, edit)
    return file


def file_of_new(environ: Mapping[str, str], *, system: bool) -> str:
    """Return the path of the file for a new profile."""
    return SYSTEM_FILE if system else user_file(environ)


def remove_profile(name: str, environ: Mapping[str, str], *, system: bool = False) -> str | None:
    """Take a profile out of its file, and return the file's path; None if there is no such profile.

    The rest of the file does not change. Comments above and below the profile stay. If `system`, the file is the
    system's, whatever the user's has.
    """
    existing = profiles(environ, system=system).get(name)
    if existing is None:
        return None

    def edit(text: bytes) -> bytes:
        edited = _without_profile(text.decode(), name)
        if edited is None:
            raise ConfigError(f"{existing.file} can't be changed without changing other lines", "Edit it by hand")
        return edited.encode()

    edit_file(existing.file, edit)
    return existing.file


def _without_profile(text: str, name: str) -> str | None:
    """Return a file's text without a profile; None if that would change anything else."""
    blocks = [_tail(block) if _is_of_profile(block, name) else block for block in _BLOCK.split(text)]
    return _only_with("".join(blocks), text, name, None)


def _with_profile(text: str, name: str, values: Mapping[str, Any]) -> str | None:
    """Return a file's text with a profile appended or replaced; None if that would change anything else."""
    import tomlkit

    table = tomlkit.dumps({"profile": {name: values}})
    blocks = _BLOCK.split(text)
    own = [index for index, block in enumerate(blocks) if _is_of_profile(block, name)]
    for index in own:
        blocks[index] = (table if index == own[0] else "") + _tail(blocks[index])
    if not own:
        blocks += ["\n" if text and not text.endswith("\n") else "", "\n" if text else "", table]
    return _only_with("".join(blocks), text, name, values)


def _with_values(text: str, name: str, values: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """Return a file's text with values of a profile replaced, or removed if None. Its comments stay.

    Returns None if that would not make the wanted profile, or change anything else.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    blocks = _BLOCK.split(text)
    index = next((index for index, block in enumerate(blocks) if _is_of_profile(block, name)), None)
    if index is None:
        return None
    tail = _tail(blocks[index])
    try:
        block = tomlkit.parse(blocks[index].removesuffix(tail))
        table: Any = block["profile"]
        for key, value in values.items():
            if value is not None:
                table[name][key] = value
            elif key in table[name]:
                table[name].remove(key)
        blocks[index] = tomlkit.dumps(block) + tail
    except TOMLKitError:
        return None
    return _only_with("".join(blocks), text, name, wanted)


def _only_with(edited: str, text: str, name: str, wanted: Mapping[str, Any] | None) -> str | None:
    """Return a file's edited text; None unless a profile is as wanted and all else as it was in the text before."""
    import tomllib

    before = tomllib.loads(text)
    others = {other: values for other, values in before.get("profile", {}).items() if other != name}
    before["profile"] = others if wanted is None else {**others, name: wanted}
    try:
        document = tomllib.loads(edited)
    except tomllib.TOMLDecodeError:
        return None
    # As text, because nan does not equal itself.
    found, expected = map(_sorted_json, ({"profile": {}, **document}, before))
    return edited if found == expected else None


def _sorted_json(document: Mapping[str, Any]) -> str:
    import json

    return json.dumps(document, sort_keys=True, default=repr)


def _unchangeable(file: str, name: str) -> ConfigError:
    return ConfigError(f"{file} can't be changed without changing other lines", f"Write [profile.{name}] by hand")


def _is_of_profile(block: str, name: str) -> bool:
    """Return whether a block starts with the header of a profile's table, or of a table within it."""
    import tomllib

    try:
        return name in tomllib.loads(block.partition("\n")[0].strip()).get("profile", {})
    except tomllib.TOMLDecodeError:
        return False


def _tail(block: str) -> str:
    """Return the blank lines and comments at the end of a block, which belong to the next one."""
    # Not splitlines(), which has line ends that TOML does not have.
    lines = re.findall(r"[^\n]*\n|[^\n]+", block)
    tail = takewhile(lambda line: line.strip()[:1] in ("", "#"), reversed(lines))
    return "".join(reversed(list(tail)))


def read_file(file: str, *, may_be_hidden: bool = False) -> tuple[bytes, bool] | None:
    """Return the content of a config.toml, and whether others can read it.

    Returns None if there is no such file, or it may be hidden and this user may not read it.
    """
    try:
        with open_trusted(file, ConfigError) as stream:
            check_not_replaceable_by_others(file, ConfigError)
            status = os.fstat(stream.fileno())
            return stream.read(), bool(status.st_mode & 0o044) and _is_exposed(status)
    except (FileNotFoundError, NotADirectoryError):  # The home of some system users is /dev/null.
        return None
    except OSError as error:
        if may_be_hidden and isinstance(error, PermissionError):
            return None
        hint = "It must be a file that you may read"
        if file != SYSTEM_FILE and isinstance(error, PermissionError):
            hint = f"If root made it, have root run chown -R {_user()} {os.path.dirname(file)}"
        if file == SYSTEM_FILE and isinstance(error, PermissionError):
            hint = f"If it is for the system's agent, run chown root:hwsigner {file} && chmod 640 {file} as root"
        raise ConfigError(f"can't read {file}: {error.strerror}", hint) from error


def _is_exposed(status: os.stat_result) -> bool:
    """Return whether others than this user, root and, for a file of root's, the system's agent can read a file.

    The file's mode lets its group or others read it.
    """
    from hwsigner._system import users

    return bool(status.st_mode & 0o004) or (status.st_uid, status.st_gid) != (0, users.agent_group())


def profiles_of(file: str) -> dict[str, Profile]:
    """Return the profiles of one file by name; none if it is not there."""
    data, exposed = read_file(file) or (b"", False)
    return {name: Profile(name, file, values, exposed=exposed) for name, values in _tables(data, file).items()}


def _tables(data: bytes, file: str) -> dict[str, dict[str, Any]]:
    """Return the tables of the profiles in the content of a config.toml."""
    if not data:
        return {}
    from hwsigner._system.toml import parse_toml

    document = parse_toml(data, file)
    tables = document.get("profile", {})
    unknown = sorted(document.keys() - {"profile", "monitoring"})
    if unknown or not isinstance(tables, dict):
        problem = f"{file} has {', '.join(unknown) or 'a profile'} outside of [profile.NAME]"
        raise ConfigError(problem, "Write [profile.NAME] above the keys of each profile")
    for name, values in tables.items():
        if not isinstance(values, dict):
            raise ConfigError(f"{file} has profile.{name}, which is not a table", "Write [profile.NAME] and its keys")
    return tables
