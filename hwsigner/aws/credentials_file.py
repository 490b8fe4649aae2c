"""The text of the AWS SDKs' shared credentials file. One section gets new credentials; every other byte stays.

It is parsed as botocore does, which is strictest. Other SDKs must see the new credentials too: they trim a section's
name, merge sections of the same name, read an indented line as a setting (JavaScript) or ignore it (Go), and accept no
`:`. So every section of the name is changed, and new lines are not indented.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from hwsigner.aws.credentials import Credentials
from hwsigner.errors import HwsignerError, ServiceError, UsageError

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_HEADER = re.compile(r"\[(?P<name>.+)\]")
_OPTION = re.compile(r"(?P<name>.*?)\s*[=:]\s*(?P<value>.*)")
# Characters that every SDK reads as a part of the value.
_VALUE = re.compile(r"""[^\s#;"'\\]+""")
# For some SDKs, these end a section's name or start a comment.
_NOT_IN_NAMES = frozenset("[]#;")


class _Line(NamedTuple):
    """A line of the file.

    Attributes:
        text: the line, with its line ending.
        header: the text between the brackets, if it is a section's header.
        option: the name of the setting that it sets, at least for some SDKs, in lower case.
        owner: the name of the setting whose value it continues.
        is_blank: whether it is a comment or empty.
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


def credentials_path(environ: Mapping[str, str]) -> str:
    """Return the path of the credentials file, which need not exist.

    It is AWS_SHARED_CREDENTIALS_FILE, with `~` and variables expanded as in botocore, or else `~/.aws/credentials`.
    """
    return os.path.expanduser(os.path.expandvars(environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"))


def check_section(name: str) -> str:
    """Return the name of a section, checked.

    Raises:
        UsageError: it would break the file, or some SDK would not find it.
    """
    if not name.isprintable() or name != name.strip() or not name or _NOT_IN_NAMES.intersection(name):
        raise UsageError(
            f"--profile is {name[:100]!r}, which can't be the name of a section",
            "Use a name without [, ], #, ; and control characters, and without blanks around it",
        )
    if name == "DEFAULT":
        raise UsageError(
            "--profile is 'DEFAULT', whose settings the AWS CLI applies to all other sections",
            "Use default, in lower case",
        )
    return name


def with_credentials(data: bytes, section: str, credentials: Credentials) -> bytes:
    """Return the content of a credentials file with new credentials in one section.

    Each section of that name gets `aws_access_key_id`, `aws_secret_access_key` and `aws_session_token`, in place of the
    old values or else at its end. An `aws_security_token`, which botocore prefers, gets the session token too. If no
    section has exactly that name, one is appended.

    Args:
        data: the old content, in any encoding that extends ASCII, with any line endings.
        section: the section's name, checked by `check_section`.
        credentials: the new credentials.

    Raises:
        HwsignerError: the old content is not text.
        ServiceError: a value can't be written into the file.
    """
    if b"\0" in data:
        raise HwsignerError("the credentials file is not text", "Check AWS_SHARED_CREDENTIALS_FILE")
    values = _values(credentials)
    mark = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
    lines = list(_read(data[len(mark) :].decode("utf-8", "surrogateescape")))
    newline = lines[0].end if lines and lines[0].end else "\n"
    sections = list(_sections(lines))
    texts: list[str] = []
    for found in sections:
        is_ours = found[0].header.strip() == section
        texts += _renewed(found, values, newline) if is_ours else (line.text for line in found)
    if not any(found[0].header == section for found in sections):
        texts += _appended("".join(texts), section, values, newline)
    return mark + "".join(texts).encode("utf-8", "surrogateescape")


def _values(credentials: Credentials) -> dict[str, str]:
    values = {
        "aws_access_key_id": credentials.access_key_id,
        "aws_secret_access_key": credentials.secret_access_key,
        "aws_session_token": credentials.session_token,
        "aws_security_token": credentials.session_token,
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
        bare = text_line.strip()
        if bare[:1] in ("", "#", ";"):
            yield _Line(text_line, is_blank=True)
            continue
        depth = len(text_line) - len(text_line.lstrip())
        option = _OPTION.match(bare)
        name = option["name"].lower() if option else ""
        if owner and depth > indent:
            # Below a setting without a value, it may be a nested setting.
            yield _Line(text_line, owner=owner, option="" if value[:1] in ("", "#", ";") else name)
            continue
        indent = depth
        header = _HEADER.match(bare)
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


def _renewed(lines: list[_Line], values: Mapping[str, str], newline: str) -> list[str]:
    """Return the lines of a section with the new values."""
    texts: list[str] = []
    done: set[str] = set()
    place = 0
    for line in lines:
        if line.owner in values:
            continue  # A further line of the old value.
        if line.option in values:
            # Some SDKs ignore an indented setting, and the AWS CLI rejects a section that has a setting twice.
            if line.option in done or line.text[0].isspace():
                continue
            done.add(line.option)
            texts.append(line.with_value(values[line.option]))
            place = len(texts)
            continue
        texts.append(line.text)
        if not line.is_blank and not done:
            place = len(texts)
    added = _settings(values, newline, without=done)
    if added and not texts[place - 1].endswith(("\n", "\r")):
        texts[place - 1] += newline
    return [*texts[:place], *added, *texts[place:]]


def _appended(text: str, section: str, values: Mapping[str, str], newline: str) -> list[str]:
    """Return the lines of a new section, after a blank line if there is text before it."""
    gap = [] if not text else [newline] if text.endswith(("\n", "\r")) else [newline, newline]
    return [*gap, f"[{section}]{newline}", *_settings(values, newline)]


def _settings(values: Mapping[str, str], newline: str, without: Iterable[str] = ()) -> list[str]:
    names = [name for name in values if name != "aws_security_token" and name not in without]
    return [f"{name} = {values[name]}{newline}" for name in names]
