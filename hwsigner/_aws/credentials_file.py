"""The text of the AWS SDKs' shared credentials file. One section gets new credentials; every other byte stays.

It is parsed as botocore does, which is strictest. Other SDKs must see the new credentials too: they trim a section's
name, merge sections of the same name, read an indented line as a header or setting (JavaScript), ignore an indented
setting (Go), refuse a file with an indented line right below a header (Java, Rust), and accept no `:`. So every section
of the name is changed, and new lines are indented only if botocore would otherwise read the next line, which is
indented, as a part of their value, and Java can't read the file anyway.
"""

from __future__ import annotations

import codecs
import configparser
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from hwsigner._aws.credentials import Credentials
from hwsigner.errors import HwsignerError, ServiceError, UsageError

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_HEADER = re.compile(r"\[(?P<name>.+)\]")
_OPTION = re.compile(r"(?P<name>.*?)\s*[=:]\s*(?P<value>.*)")
# Characters that every SDK reads as a part of the value.
_VALUE = re.compile(r"""[^\s#;"'\\]+""")
# For some SDKs, these end a section's name or start a comment.
_NOT_IN_NAMES = frozenset("[]#;")
# A setting that may follow ours, so that botocore adds an indented next line to its value and not to a credential.
_LAST = "hwsigner_expiration"
_NAMES = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
_REST_OF_TOKEN = re.compile(r"[\w+/-]{16,}={1,2}")
Settings = dict[tuple[str, str], list[str]]  # The lines of each value, by section and name.


class _Line(NamedTuple):
    """A line of the file, with its ending, and what is between the brackets if it is a section's header.

    `option` is the setting that it sets, at least for some SDKs, in lower case. `owner` is the setting whose value it
    continues, for botocore: a header may do so as well. `is_blank` also stands for a comment.
    """

    text: str
    header: str = ""
    option: str = ""
    owner: str = ""
    is_blank: bool = False

    @property
    def end(self) -> str:
        return self.text[len(self.text.rstrip("\r\n")) :]

    def with_value(self, value: str) -> str:
        """Return the line with another value. Spacing that every SDK understands is kept."""
        kept = re.match(rf"{self.option}[ \t]*=[ \t]*", self.text)
        return f"{kept[0] if kept else f'{self.option} = '}{value}{self.end}"


def check_section(name: str) -> str:
    """Return the name of a section, checked.

    One that would break the file, or that some SDK would not find, is a UsageError.
    """
    if not name.isprintable() or name != name.strip() or not name or _NOT_IN_NAMES.intersection(name):
        problem = f"--profile is {name[:100]!r}, which can't be the name of a section"
        raise UsageError(problem, "Use a name without [, ], #, ; and control characters, and without blanks around it")
    if name == "DEFAULT":
        problem = "--profile is 'DEFAULT', whose settings the AWS CLI applies to all other sections"
        raise UsageError(problem, "Use default, in lower case")
    return name


def with_credentials(data: bytes, section: str, credentials: Credentials) -> bytes:
    """Return the content of a credentials file with new credentials in one section.

    Each section of that name gets `aws_access_key_id`, `aws_secret_access_key` and `aws_session_token`, in place of the
    old values or else at its end. An `aws_security_token`, which botocore prefers, gets the session token too. If no
    section has exactly that name, one is appended. If SDKs disagree on whose settings the indented lines are, nothing
    is changed, and a HwsignerError says so.
    """
    if b"\0" in data:
        raise HwsignerError("the credentials file is not text", "Check AWS_SHARED_CREDENTIALS_FILE")
    values = _values(credentials)
    mark = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
    text = data[len(mark) :].decode("utf-8", "surrogateescape")
    # If no place keeps the file readable for Java, the credentials go where the other SDKs find them.
    for keeps in (_keeps_all, _keeps_others):
        for place in ("", "end", "top", "first", "last", "old"):
            edited = _edited(text, section, values, place)
            if keeps(text, edited, section, values):
                return mark + edited.encode("utf-8", "surrogateescape")
    problem = f"[{section}] of the credentials file can't get new credentials without changing other settings"
    raise HwsignerError(problem, "Remove the spaces at the start of the file's lines")


def _edited(text: str, section: str, values: Mapping[str, str], place: str) -> str:
    """Return the text with the values in place of the old ones, or in one place: see `_renewed_as_block`."""
    lines = list(_read(text))
    newline = lines[0].end if lines and lines[0].end else "\n"
    sections = list(_sections(lines))
    texts: list[str] = []
    is_missing = True
    for index, found in enumerate(sections):
        header = found[0]
        if header.owner or header.header.strip() != section:  # With an owner, it is a header for other SDKs only.
            texts += (line.text for line in found)
        else:
            following = sections[index + 1][0].text if index + 1 < len(sections) else ""
            if place:
                texts += _renewed_as_block(found, values, newline, following, place)
            else:
                texts += _renewed_in_place(found, values, newline)
            is_missing = is_missing and header.header != section
    if is_missing:
        texts += _appended("".join(texts), section, values, newline)
    return "".join(texts)


def _keeps_others(old: str, new: str, section: str, values: Mapping[str, str]) -> bool:
    """Return whether botocore and JavaScript read the new text like the old one, except for the new credentials."""
    before, after = (_others(_read_as_javascript(text), section, values) for text in (old, new))
    return before == after and _finds(_read_as_botocore, old, new, section, values)


def _keeps_all(old: str, new: str, section: str, values: Mapping[str, str]) -> bool:
    """Return whether this is so for the SDKs of Java and Rust too."""
    return _keeps_others(old, new, section, values) and _finds(_read_as_java, old, new, section, values)


def _finds(read: Callable[[str], Settings | None], old: str, new: str, section: str, values: Mapping[str, str]) -> bool:
    """Return whether a reader finds the credentials, and what it found in the old text, if it can read the new one.

    That must be so if it could read the old one.
    """
    before, after = read(old), read(new)
    if after is None:
        return before is None
    wanted = _others(before or {}, section, values) | {(section, name): [values[name]] for name in _NAMES}
    found = {**after, **_others(after, section, values)}
    return all(found.get(setting) == value for setting, value in wanted.items())


def _others(settings: Settings, section: str, values: Mapping[str, str]) -> Settings:
    return {
        (name, option): [line for line in lines if line and not _is_own(line, values)]
        for (name, option), lines in settings.items()
        if name.strip() != section or values.keys().isdisjoint(option.lower().split("."))
    }


def _read_as_botocore(text: str) -> Settings | None:
    parser = configparser.RawConfigParser()
    try:
        parser.read_file(io.StringIO(text, newline=None))
    except configparser.Error:
        return None
    return {
        (section, option): parser.get(section, option).split("\n")
        for section in parser.sections()
        for option in parser.options(section)
    }


def _read_as_javascript(text: str) -> Settings:
    settings: Settings = {}
    section = parent = ""
    for line in _LINE.findall(text):
        content = re.split(r"(?:^|\s)[#;]", line)[0].strip()
        name, equals, value = (part.strip() for part in content.partition("="))
        if content.startswith("[") and content.endswith("]"):
            section, parent = content[1:-1], ""
        elif equals and name and not value:
            parent = name
        elif equals and name and not _REST_OF_TOKEN.fullmatch(content):
            parent = parent if line[0].isspace() else ""
            settings[section, f"{parent}.{name}" if parent else name] = [value]
    return settings


def _read_as_java(text: str) -> Settings | None:
    """Return the settings as the SDKs of Java and Rust read them, or None if they refuse the file."""
    settings: Settings = {}
    section: str | None = None
    current: list[str] = []
    for line in (line.rstrip("\r\n") for line in _LINE.findall(text)):
        if not line.strip(" \t") or line[0] in "#;":
            continue
        if line[0] == "[":
            header = re.split("[#;]", line)[0].strip(" \t")
            section, current = header[1:-1].strip(" \t"), []
            is_valid = header.endswith("]")
        elif line[0] in " \t":
            is_valid = bool(current) and (bool(current[0]) or "=" in line)
            current.append(line.strip(" \t"))
        else:
            name, equals, value = (part.strip(" \t") for part in re.split(r"[ \t][#;]", line)[0].partition("="))
            is_valid = section is not None and bool(equals and name)
            current = settings[section or "", name.lower()] = [value]
        if not is_valid:
            return None
    return settings


def _is_own(line: str, values: Mapping[str, str]) -> bool:
    option = _OPTION.match(line.strip())
    return option is not None and option["name"].lower() in values


def _values(credentials: Credentials) -> dict[str, str]:
    values = {
        "aws_access_key_id": credentials.access_key_id,
        "aws_secret_access_key": credentials.secret_access_key,
        "aws_session_token": credentials.session_token,
        "aws_security_token": credentials.session_token,
        _LAST: f"{credentials.expiration:%Y-%m-%dT%H:%M:%SZ}",
    }
    for name, value in values.items():
        if not value.isprintable() or not _VALUE.fullmatch(value):
            problem = f"{name} in the service's response can't be written to a credentials file"
            raise ServiceError(problem, "Check --endpoint and look for a proxy")
    return values


def _read(text: str) -> Iterator[_Line]:
    # Of the setting whose value the next lines may continue.
    indent, owner, value = 0, "", ""
    for text_line in _LINE.findall(text):
        stripped = text_line.strip()
        if stripped[:1] in ("", "#", ";"):
            yield _Line(text_line, is_blank=True)
            continue
        depth = len(text_line) - len(text_line.lstrip())
        option = _OPTION.match(stripped)
        name = option["name"].lower() if option else ""
        header = _HEADER.match(stripped)
        if owner and depth > indent:
            # Below a setting without a value, it may be a nested setting.
            nested = header or value[:1] in ("", "#", ";")
            yield _Line(text_line, owner=owner, header=header["name"] if header else "", option="" if nested else name)
            continue
        indent = depth
        owner, value = ("", "") if header or not option else (name, option["value"])
        yield _Line(text_line, header=header["name"]) if header else _Line(text_line, option=name)


def _sections(lines: Iterable[_Line]) -> Iterator[list[_Line]]:
    """Yield the lines of each section, from its header on. Lines above the first header come first."""
    section: list[_Line] = []
    for line in lines:
        if line.header and section:
            yield section
            section = []
        section.append(line)
    if section:
        yield section


def _renewed_in_place(lines: list[_Line], values: Mapping[str, str], newline: str) -> list[str]:
    """Return the lines of a section with each new value in the old one's place."""
    texts: list[str] = []
    done: set[str] = set()
    place = 0
    for line in lines:
        # Some SDKs ignore an indented setting, and the AWS CLI rejects a section that has a setting twice.
        if line.option in values and not line.owner and line.option not in done and not line.text[0].isspace():
            done.add(line.option)
            texts.append(line.with_value(values[line.option]))
            place = len(texts)
        elif not _is_old(line, values):
            texts.append(line.text)
            if not line.is_blank and not done:
                place = len(texts)
    return _inserted(texts, place, _settings(values, without=done), newline)


def _renewed_as_block(
    lines: list[_Line], values: Mapping[str, str], newline: str, following: str, place: str
) -> list[str]:
    """Return the lines of a section with the new values together.

    The place is `end`; `top`, indented like the next line; or one with `_LAST` below: `last` or `old`, that of the last
    or first old value, or `first`, right below the header.
    """
    kept = [line for line in lines if not _is_old(line, values)]
    settings = _settings(values, lines)
    if place == "end":
        index = max(index for index, line in enumerate(kept, 1) if not line.is_blank)
    elif place == "top":
        after = next((line.text for line in kept[1:] if not line.is_blank), following)
        settings = [after[: len(after) - len(after.lstrip())] + setting for setting in settings]
        index = 1
    elif place == "first":
        settings.append(f"{_LAST} = {values[_LAST]}")
        index = 1
    else:
        old = [index for index, line in enumerate(lines) if _is_old(line, values)]
        index = len(kept) if not old else old[0] if place == "old" else old[-1] + 1 - len(old)
        settings.append(f"{_LAST} = {values[_LAST]}")
    return _inserted([line.text for line in kept], index, settings, newline)


def _is_old(line: _Line, values: Mapping[str, str]) -> bool:
    """Return whether a line is an old value, or a part of one that is no setting for other SDKs."""
    if line.option in values:
        return True
    return line.owner in values and (not line.option or _REST_OF_TOKEN.fullmatch(line.text.strip()) is not None)


def _inserted(texts: list[str], place: int, settings: list[str], newline: str) -> list[str]:
    if settings and place and not texts[place - 1].endswith(("\n", "\r")):
        texts[place - 1] += newline
    return [*texts[:place], *(setting + newline for setting in settings), *texts[place:]]


def _appended(text: str, section: str, values: Mapping[str, str], newline: str) -> list[str]:
    """Return the lines of a new section, after a blank line if there is text before it."""
    gap = [] if not text else [newline] if text.endswith(("\n", "\r")) else [newline, newline]
    return [*gap, *(f"{line}{newline}" for line in [f"[{section}]", *_settings(values)])]


def _settings(values: Mapping[str, str], lines: Iterable[_Line] = (), without: Iterable[str] = ()) -> list[str]:
    """Return the settings to write. `aws_security_token` is among them only if it is in the section's lines."""
    old = {line.option for line in lines if not line.owner} - {_LAST}
    return [f"{name} = {values[name]}" for name in values if name not in without and (name in _NAMES or name in old)]
