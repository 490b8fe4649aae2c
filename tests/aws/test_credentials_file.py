"""The shared credentials file: every SDK's parser finds the new credentials, and the rest of the file is kept."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.configloader import raw_config_parse
from botocore.exceptions import ConfigParseError
from hypothesis import assume, given
from hypothesis import strategies as st

from hwsigner._aws.config_file import config_path, credentials_path
from hwsigner._aws.credentials import Credentials
from hwsigner._aws.credentials_file import check_section, with_credentials
from hwsigner.errors import HwsignerError, ServiceError, UsageError

NAMES = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
OWN = re.compile(rb"^\s*(aws_access_key_id|aws_secret_access_key|aws_session_token|aws_security_token)\s*[=:]", re.I)
NEW = Credentials(
    access_key_id="ASIANEW",
    secret_access_key="new/secret+x=",
    session_token="IQoJnew//token==",
    expiration=datetime(2030, 1, 1, tzinfo=UTC),
    role_arn="arn:aws:iam::123456789012:role/web",
    assumed_role_arn="arn:aws:sts::123456789012:assumed-role/web/1",
)
VALUES = {
    "aws_access_key_id": "ASIANEW",
    "aws_secret_access_key": "new/secret+x=",
    "aws_session_token": "IQoJnew//token==",
}
SETTINGS = "".join(f"{name} = {value}\n" for name, value in VALUES.items()).encode()
Sections = dict[str, dict[str, Any]]


def changed(**values: str) -> Credentials:
    """Return NEW with some other values."""
    return Credentials(**{**vars(NEW), **values})


def written(data: bytes, section: str = "default") -> bytes:
    return with_credentials(data, section, NEW)


# Parsers that read as the SDKs do.


def by_botocore(data: bytes, folder: Path) -> Sections:
    path = folder / "credentials"
    path.write_bytes(data)
    sections: Sections = raw_config_parse(str(path))
    return sections


def by_trimming(data: bytes) -> Sections:
    """Parse as SDKs that trim names, merge sections of a name, skip indented lines, and use the last value."""
    sections: Sections = {}
    current: dict[str, Any] = {}
    for line in re.split(r"\r?\n", data.decode("utf-8-sig", "replace")):
        bare = re.split("[#;]", line)[0].rstrip()
        if bare.startswith("[") and bare.endswith("]"):
            current = sections.setdefault(bare[1:-1].strip(), {})
        elif bare and not bare[0].isspace() and "=" in bare:
            name, _, value = bare.partition("=")
            current[name.strip().lower()] = value.strip()
    return sections


def by_ignoring_indentation(data: bytes) -> Sections:
    """Parse as SDKs that read an indented line like any other, unless it is below a setting without a value."""
    sections: Sections = {}
    current: dict[str, Any] = {}
    is_nested = False
    for line in re.split(r"\r?\n", data.decode("utf-8-sig", "replace")):
        bare = re.split(r"(?:^|\s)[#;]", line)[0].strip()
        name, equals, value = (part.strip() for part in bare.partition("="))
        if bare.startswith("[") and bare.endswith("]"):
            current, is_nested = sections.setdefault(bare[1:-1], {}), False
        elif equals and name:
            is_nested = not value or (is_nested and line[:1].isspace())
            if not is_nested:
                current[name] = value
    return sections


def by_java(data: bytes) -> Sections | None:
    """Parse as the SDKs of Java and Rust, by the rules that all new SDKs share; None for a file that they refuse."""
    sections: Sections = {}
    section: dict[str, Any] | None = None
    name = ""
    for line in re.split(r"\r\n|\r|\n", data.decode("utf-8-sig", "replace")):
        if not line.strip(" \t") or line.startswith(("#", ";")):
            continue
        if line.startswith("["):
            if not (header := re.split("[#;]", line)[0].strip()).endswith("]"):
                return None
            section, name = sections.setdefault(header[1:-1].strip(), {}), ""
        elif line[0] in " \t":
            if not section or not name or (section[name].split("\n")[0] == "" and "=" not in line):
                return None
            section[name] += f"\n{line.strip()}"
        else:
            name, equals, value = (part.strip() for part in re.split(r"\s[#;]", line)[0].partition("="))
            if section is None or not equals or not name:
                return None
            section[name := name.lower()] = value
    return sections


# Files.

ENDS = st.sampled_from(["\n", "\r\n"])
SPACES = st.sampled_from(["", " ", "\t", "   "])
OWN_NAMES = st.sampled_from([*NAMES, "aws_security_token"])
HEADERS = st.sampled_from(
    ["[default]", "[other]", "[ default ]", "[profile default]", "[default] # mine", "[defaults]", "[a b]"]
)
OTHERS = st.sampled_from(
    [
        "region = eu-central-1",
        "output=json",
        "Region : x",
        "# aws_access_key_id = commented",
        "; [default]",
        "",
        "   ",
        "s3 =",
        "\u00fcmlaut = \udcff",
    ]
)
NESTED = st.sampled_from(["s3 =\n  addressing_style = path", "s3 =\n  aws_access_key_id = nested\n  b = c"])


@st.composite
def own_lines(draw: st.DrawFn) -> str:
    name = draw(OWN_NAMES)
    name = draw(st.sampled_from([name, name, name.upper()]))
    delimiter = draw(st.sampled_from(["=", "=", ":"]))
    return f"{name}{draw(SPACES)}{delimiter}{draw(SPACES)}{draw(st.sampled_from(['OLD', 'OLD # x', '']))}"


INDENTS = st.sampled_from(["", "", "", "  ", "\t"])


@st.composite
def files(draw: st.DrawFn, header: st.SearchStrategy[str] = HEADERS, indent: st.SearchStrategy[str] = INDENTS) -> bytes:
    sections = st.tuples(header, st.lists(st.one_of(st.builds(str.__add__, indent, own_lines()), OTHERS, NESTED)))
    lines = [line for name, body in draw(st.lists(sections, max_size=4)) for line in (name, *body)]
    end = draw(ENDS)
    text = end.join(line.replace("\n", end) for line in lines) + draw(st.sampled_from(["", end, end * 2]))
    return text.encode("utf-8", "surrogateescape")


FLAT = files(indent=st.just(""))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("credentials")


def readable(data: bytes, folder: Path) -> Sections:
    """Return what botocore reads from a file. Skip files that it rejects."""
    try:
        return by_botocore(data, folder)
    except ConfigParseError:
        assume(False)
        raise


def without_own(sections: Sections, section: str = "default") -> Sections:
    """Return sections without the settings that hwsigner writes, in sections of this name."""
    mine = {*NAMES, "aws_security_token", "hwsigner_expiration"}
    return {
        name: {k: v for k, v in values.items() if name.strip() != section or k not in mine}
        for name, values in sections.items()
    }


def lines_of_others(data: bytes) -> list[bytes]:
    return [line for line in re.findall(rb"[^\n]*\n|[^\n]+", data) if not OWN.match(line)]


class TestParsers:
    @pytest.mark.slow
    @given(data=files())
    def test_botocore_finds_new_credentials_and_everything_else_unchanged(self, data: bytes, folder: Path) -> None:
        data = data.replace(b"\xff", b"x")
        before, after = readable(data, folder), by_botocore(written(data), folder)
        assert {name: after["default"][name] for name in NAMES} == VALUES
        assert after["default"].get("aws_security_token", VALUES["aws_session_token"]) == VALUES["aws_session_token"]
        old, new = without_own(before), without_own(after)
        for sections in (old, new):
            for values in sections.values():
                for name, value in values.items():
                    if isinstance(value, str):  # Old lines of ours, indented below another setting.
                        rest = [line for line in value.split("\n") if not OWN.match(line.encode())]
                        values[name] = "\n".join(rest).rstrip()
        assert {"default": {}, **old} == new

    @given(data=files())
    def test_other_parsers_find_new_credentials(self, data: bytes) -> None:
        after = written(data)
        for read in (by_trimming, by_ignoring_indentation):
            assert {name: read(after)["default"][name] for name in NAMES} == VALUES

    @given(data=FLAT)
    def test_no_old_value_stays_in_the_section(self, data: bytes) -> None:
        for name, values in by_trimming(written(data)).items():
            if name == "default":
                assert "OLD" not in values.values()

    @given(data=FLAT, read=st.sampled_from([by_trimming, by_ignoring_indentation]))
    def test_other_parsers_find_everything_else_unchanged(self, data: bytes, read: Callable[[bytes], Sections]) -> None:
        def upper_as_lower(sections: Sections) -> Sections:
            return without_own({n: {k.lower(): v for k, v in vs.items()} for n, vs in sections.items()})

        after = upper_as_lower(read(written(data)))
        assert after == {"default": {}, **upper_as_lower(read(data))}


INDENTED_SETTINGS = SETTINGS.replace(b"aws", b"  aws")
EXPIRATION = b"hwsigner_expiration = 2030-01-01T00:00:00Z\n"
INDENTED_LAYOUTS = {
    "a comment between two of the same setting": (
        b"[default]\nregion = x\naws_access_key_id = OLD\n  # a comment\naws_access_key_id = OLD\n",
        b"[default]\nregion = x\n" + SETTINGS + b"hwsigner_expiration = 2030-01-01T00:00:00Z\n  # a comment\n",
    ),
    "another setting between two of the same": (
        b"[default]\nregion = x\naws_access_key_id = OLD\n  output = y\naws_access_key_id = OLD\n",
        b"[default]\nregion = x\n" + SETTINGS + b"hwsigner_expiration = 2030-01-01T00:00:00Z\n  output = y\n",
    ),
    "everything is indented": (
        b"  [default]\n  aws_access_key_id = OLD\n  [other]\n  aws_access_key_id = X\n",
        b"  [default]\n" + INDENTED_SETTINGS + b"  [other]\n  aws_access_key_id = X\n",
    ),
    "an indented section below": (
        b"[default]\naws_access_key_id = OLD\n  [other]\n  aws_access_key_id = X\n",
        b"[default]\n" + SETTINGS + EXPIRATION + b"  [other]\n  aws_access_key_id = X\n",
    ),
    "an indented section below another setting": (
        b"[default]\nregion = x\naws_access_key_id = OLD\n  [other]\n  aws_access_key_id = X\n",
        b"[default]\nregion = x\n" + SETTINGS + EXPIRATION + b"  [other]\n  aws_access_key_id = X\n",
    ),
    "an indented setting below": (
        b"[default]\naws_access_key_id = OLD\n  region = x\n",
        b"[default]\n" + SETTINGS + EXPIRATION + b"  region = x\n",
    ),
    "indented comments between": (
        b"[default]\naws_access_key_id = OLD\n  # a\naws_secret_access_key = OLD\n  # b\naws_session_token=x\n  # c\n",
        b"[default]\n" + SETTINGS + EXPIRATION + b"  # a\n  # b\n  # c\n",
    ),
    "an indented setting below that Java reads as a part of another": (
        b"[default]\nregion = x\naws_access_key_id = OLD\n  output = y\n",
        b"[default]\nregion = x\n" + SETTINGS + EXPIRATION + b"  output = y\n",
    ),
    "an indented setting right below, which Java refuses": (
        b"[default]\n  region = x\naws_access_key_id = OLD\n",
        b"[default]\n  region = x\n" + SETTINGS,
    ),
    "an old token of several lines": (
        b"[default]\naws_session_token = OLD\n  IQoJb3JpZ2luX2VjEOLD/+OLD==\n",
        b"[default]\naws_session_token = IQoJnew//token==\n" + b"".join(SETTINGS.splitlines(True)[:2]),
    ),
}
# Lines with a random indent, headers among them.
INDENTED = st.lists(
    st.builds(
        str.__add__,
        st.sampled_from(["", "", "  ", "\t", "    "]),
        st.sampled_from(
            [
                "[default]",
                "[other]",
                "[third]",
                "aws_access_key_id = OLD",
                "aws_secret_access_key = OLD",
                "aws_session_token = OLD",
                "region = x",
                "output = json",
                "# a comment",
                "",
            ]
        ),
    ),
    max_size=14,
)


# Sections whose indented lines are below settings and are not headers, so that the SDKs read the file in one way.
CONTINUED = st.lists(
    st.tuples(
        st.sampled_from(["[default]", "[other]", *(f"{name} = OLD" for name in NAMES), "region = x", "s3 ="]),
        st.sampled_from(["", "", "  output = y", "  # a comment", "  c = d\n\te = f"]),
    ).map(lambda lines: lines[0] if lines[0][0] == "[" or not lines[1] else "\n".join(lines)),
    max_size=8,
).map(lambda lines: "\n".join(["[default]", *lines]).encode())


def foreign(sections: Sections) -> Sections:
    return {name: values for name, values in without_own(sections).items() if values}


class TestIndentedFiles:
    @given(lines=INDENTED)
    def test_ten_runs_keep_what_botocore_and_javascript_read_of_others(self, lines: list[str], folder: Path) -> None:
        data = "\n".join(["[first]", "a = b", *lines]).encode()
        javascript = foreign(by_ignoring_indentation(data))
        before = readable(data, folder)
        try:
            after = written(data)
        except HwsignerError:  # SDKs read it in different ways: see the test of that error.
            assume(False)
        for _ in range(9):
            again = written(after)
            assert again == after
        found = by_botocore(after, folder)
        assert {name: found["default"][name] for name in NAMES} == VALUES
        for name, values in foreign(before).items():
            for option, value in values.items():
                assert lines_that_stay(found[name][option]) == lines_that_stay(value)
        assert foreign(by_ignoring_indentation(after)) == javascript

    @given(data=st.one_of(files(), CONTINUED))
    def test_java_and_rust_read_a_file_that_they_could_read_before(self, data: bytes) -> None:
        before = by_java(data)
        assume(before is not None)
        assume(len(re.findall(rb"OLD\n[ \t]", data)) < 2)  # One setting can be put above one of these.
        try:
            once = written(data)
        except HwsignerError:
            assume(False)
        for after in (once, written(once)):
            found = by_java(after)
            assert found is not None
            assert {name: found["default"][name] for name in NAMES} == VALUES
            assert stay_in(found) == stay_in({"default": {}, **(before or {})})

    @pytest.mark.parametrize("name", INDENTED_LAYOUTS)
    def test_layout_is_kept_in_ten_runs(self, name: str, folder: Path) -> None:
        before, after = INDENTED_LAYOUTS[name]
        assert written(before) == after
        for _ in range(9):
            assert written(after) == after
        assert (by_java(before) is None) is (by_java(after) is None) is ("Java refuses" in name or "everything" in name)
        assert {name: by_botocore(after, folder)["default"][name] for name in NAMES} == VALUES

    def test_file_that_two_sdks_read_in_two_ways_is_an_error_and_stays(self) -> None:
        with pytest.raises(HwsignerError, match="without changing other settings"):
            written(b"[default]\nregion = x\n  [other]\n  a = b\naws_access_key_id = OLD\n")


def stay_in(sections: Sections) -> dict[str, dict[str, list[str]]]:
    return {
        section: {name: lines_that_stay(value) for name, value in values.items()}
        for section, values in without_own(sections).items()
    }


def lines_that_stay(value: str) -> list[str]:
    return [line for line in value.split("\n") if line and not OWN.match(line.encode())]


class TestBytes:
    @given(data=FLAT)
    def test_every_other_line_stays_in_order(self, data: bytes) -> None:
        before, after = lines_of_others(data), lines_of_others(written(data))
        has_section = re.search(rb"^\[default\]", data, re.MULTILINE)
        kept = after[: len(before)]
        if before and not before[-1].endswith(b"\n"):
            kept[-1:] = [kept[-1].rstrip(b"\r\n")] if not after[len(before) - 1].endswith(before[-1]) else kept[-1:]
        assert kept == before
        added = b"".join(after[len(before) :]).strip()
        assert added == (b"" if has_section else b"[default]")

    @given(data=files())
    def test_writing_twice_is_like_writing_the_last_credentials_once(self, data: bytes) -> None:
        other = changed(access_key_id="ASIAOTHER", secret_access_key="o", session_token="t")
        assert written(written(data)) == written(data)
        assert written(with_credentials(data, "default", other)) == written(data)

    @given(data=st.binary())
    def test_any_bytes_are_kept_above_a_new_section(self, data: bytes) -> None:
        assume(b"\0" not in data)
        after = with_credentials(data, "of-no-file", NEW)
        assert after.startswith(data)
        assert SETTINGS.replace(b"\n", b"") in after.replace(b"\r", b"").replace(b"\n", b"")

    @given(data=files(), sections=st.permutations(["default", "other", "new", "a b"]))
    def test_writing_one_section_keeps_the_others(self, data: bytes, sections: list[str]) -> None:
        after = data
        for section in sections:
            after = with_credentials(after, section, changed(access_key_id=f"ASIA{section.replace(' ', '')}"))
        found = by_trimming(after)
        for section in ("default", "other", "new"):
            assert found[section]["aws_access_key_id"] == f"ASIA{section}"


LAYOUTS = {
    "nothing": (b"", b"[default]\n" + SETTINGS),
    "another section": (b"[other]\na = b\n", b"[other]\na = b\n\n[default]\n" + SETTINGS),
    "another section without a newline": (b"[other]\na = b", b"[other]\na = b\n\n[default]\n" + SETTINGS),
    "an empty section without a newline": (b"[default]", b"[default]\n" + SETTINGS),
    "odd spacing is kept": (
        b"[default]\naws_access_key_id=OLD\naws_secret_access_key\t=  OLD\naws_session_token =OLD",
        b"[default]\naws_access_key_id=ASIANEW\naws_secret_access_key\t=  new/secret+x=\n"
        b"aws_session_token =IQoJnew//token==",
    ),
    "what is missing follows what is there": (
        b"[default]\naws_access_key_id=OLD\naws_secret_access_key=OLD\nregion = x\n",
        b"[default]\naws_access_key_id=ASIANEW\naws_secret_access_key=new/secret+x=\n"
        b"aws_session_token = IQoJnew//token==\nregion = x\n",
    ),
    "comments above the next section stay there": (
        b"[default]\nregion = x\n\n# the other one\n[other]\n",
        b"[default]\nregion = x\n" + SETTINGS + b"\n# the other one\n[other]\n",
    ),
    "CRLF": (b"[default]\r\nregion = x\r\n", b"[default]\r\nregion = x\r\n" + SETTINGS.replace(b"\n", b"\r\n")),
    "CR": (
        b"[default]\raws_access_key_id = OLD\rregion = x\r",
        b"[default]\r" + SETTINGS.replace(b"\n", b"\r") + b"region = x\r",
    ),
    "a byte order mark": (b"\xef\xbb\xbf[default]\n", b"\xef\xbb\xbf[default]\n" + SETTINGS),
    "a nested setting": (
        b"[default]\ns3 =\n  aws_session_token = x\n\n",
        b"[default]\ns3 =\n  aws_session_token = x\n" + SETTINGS + b"\n",
    ),
    "a nested setting below a comment": (
        b"[default]\ns3 = # of s3\n  aws_session_token = x\n",
        b"[default]\ns3 = # of s3\n  aws_session_token = x\n" + SETTINGS,
    ),
    "an old value that continues another setting for some parsers": (
        b"[default]\naws_access_key_id = OLD\nregion = x\n  aws_access_key_id = OLD\n  y\n",
        b"[default]\n" + SETTINGS + b"region = x\n  y\n",
    ),
    "a header with a colon, and one below it": (b"[a:b]\n  [default]\n", b"[a:b]\n  [default]\n" + SETTINGS),
    "an old value of several lines": (
        b"[default]\naws_access_key_id = OLD\n  OLD\n# c\n  OLD\nregion = x\n",
        b"[default]\naws_access_key_id = ASIANEW\n" + SETTINGS.split(b"\n", 1)[1] + b"# c\nregion = x\n",
    ),
    "indented old values": (
        b"[default]\n  aws_access_key_id = OLD\n  region = x\n",
        b"[default]\n  region = x\n" + SETTINGS,
    ),
    "a header in a value": (
        b"[other]\na = b\n  [default]\n  aws_access_key_id = x\n",
        b"[other]\na = b\n  [default]\n  aws_access_key_id = x\n\n[default]\n" + SETTINGS,
    ),
    "a duplicate setting": (
        b"[default]\naws_access_key_id = OLD\naws_access_key_id = OLD\n",
        b"[default]\n" + SETTINGS,
    ),
    "a duplicate section": (
        b"[default]\n[other]\n[default]\n",
        b"[default]\n" + SETTINGS + b"[other]\n[default]\n" + SETTINGS,
    ),
    "a padded section": (b"[ default ]\n", b"[ default ]\n" + SETTINGS + b"\n[default]\n" + SETTINGS),
    "the sections of config files": (b"[profile default]\n", b"[profile default]\n\n[default]\n" + SETTINGS),
    "the older name of the session token": (
        b"[default]\naws_security_token = OLD\n",
        b"[default]\naws_security_token = IQoJnew//token==\n" + SETTINGS,
    ),
    "a line of over 64 KiB": (
        b"[other]\nlong = " + b"x" * 70_000 + b"\n[default]\n",
        b"[other]\nlong = " + b"x" * 70_000 + b"\n[default]\n" + SETTINGS,
    ),
    "settings above all sections": (
        b"aws_access_key_id = x\n[default]\n",
        b"aws_access_key_id = x\n[default]\n" + SETTINGS,
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_is_kept(name: str) -> None:
    before, after = LAYOUTS[name]
    assert written(before) == after


def test_boto3_finds_new_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "credentials"
    path.write_bytes(with_credentials(b"[default]\naws_access_key_id = x\naws_security_token = OLD\n", "a b", NEW))
    path.write_bytes(written(path.read_bytes()))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    for profile in (None, "a b"):
        found = boto3.Session(profile_name=profile).get_credentials().get_frozen_credentials()
        assert (found.access_key, found.secret_key, found.token) == tuple(VALUES.values())


def test_file_that_is_not_text_is_an_error() -> None:
    with pytest.raises(HwsignerError, match="not text"):
        written("[default]\n".encode("utf-16"))


@pytest.mark.parametrize("value", ["", "a b", "a\nb", "a#b", "a;b", "a\\nb", '"a"', "'a'", "a\u2028b", "a\x1bb"])
@pytest.mark.parametrize("field", ["access_key_id", "secret_access_key", "session_token"])
def test_value_that_a_parser_would_cut_is_an_error(field: str, value: str) -> None:
    with pytest.raises(ServiceError) as caught:
        with_credentials(b"", "default", changed(**{field: value}))
    assert f"aws_{field}" in str(caught.value)
    assert not value or value not in str(caught.value)


@pytest.mark.parametrize("name", ["default", "web", "a b", "profile x", "a.b/c@d:e%f+g", "ümlaut", "Default"])
def test_section_name_is_accepted(name: str) -> None:
    assert check_section(name) == name


@pytest.mark.parametrize(
    "name", ["", " ", " a", "a ", "a]", "[a", "a\nb", "a\rb", "a#b", "a;b", "\x1b", "\udcff", "DEFAULT"]
)
def test_invalid_section_name_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match="--profile"):
        check_section(name)


class TestPath:
    def test_default_is_in_the_home_folder(self) -> None:
        assert credentials_path({}) == os.path.join(os.environ["HOME"], ".aws", "credentials")
        assert credentials_path({"AWS_SHARED_CREDENTIALS_FILE": ""}) == credentials_path({})

    @pytest.mark.parametrize("path", [credentials_path, config_path])
    def test_dollar_in_the_name_of_the_home_folder_is_not_a_variable(self, path: Callable[..., str]) -> None:
        assert os.path.dirname(path({"HOME": "/srv/$HOME"})) == "/srv/$HOME/.aws"

    @pytest.mark.parametrize("text", ["/etc/x", "~/x", "x", "$HOME/x", "${FOLDER}/x", "/a/~/x", "$UNSET/x"])
    def test_path_is_the_one_that_botocore_reads(
        self, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("FOLDER", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        path = credentials_path({"AWS_SHARED_CREDENTIALS_FILE": text})
        if text in ("/etc/x", "/a/~/x", "$UNSET/x"):
            assert path == text
        else:
            Path(path).write_text("[a]\nb = c\n")
            assert raw_config_parse(text) == {"a": {"b": "c"}}
