from __future__ import annotations

import functools
import re
from typing import Any

import pytest
from botocore.session import Session
from hypothesis import given
from hypothesis import strategies as st

from hwsigner.aws.arn import Arn, check_arns, check_region, parse_arn, parse_canonical_arn
from hwsigner.errors import UsageError

UUID = "3f6c1a52-9d7e-4c1b-8a90-0f4b7d2c6e11"
ANCHOR = f"arn:aws:rolesanywhere:eu-west-1:123456789012:trust-anchor/{UUID}"
PROFILE = f"arn:aws:rolesanywhere:eu-west-1:123456789012:profile/{UUID}"
ANCHOR_ALIAS = "arn:aws:rolesanywhere:eu-west-1:123456789012:alias/trust-anchor/production-ca"
PROFILE_ALIAS = "arn:aws:rolesanywhere:eu-west-1:123456789012:alias/profile/Web_1/blue"
ROLE = "arn:aws:iam::123456789012:role/path/to/Example+=,.@-_role"
FLAGS = ("--trust-anchor-arn", "--profile-arn", "--role-arn")


def test_arn_is_parsed_into_its_fields() -> None:
    assert parse_arn(ANCHOR, "--trust-anchor-arn") == Arn(
        "aws", "rolesanywhere", "eu-west-1", "123456789012", f"trust-anchor/{UUID}"
    )
    assert parse_arn(PROFILE, "--profile-arn").resource == f"profile/{UUID}"
    assert parse_arn(ROLE, "--role-arn") == Arn("aws", "iam", "", "123456789012", "role/path/to/Example+=,.@-_role")


def test_alias_arn_is_parsed_into_its_fields() -> None:
    assert parse_arn(ANCHOR_ALIAS, "--trust-anchor-arn").resource == "alias/trust-anchor/production-ca"
    assert parse_arn(PROFILE_ALIAS, "--profile-arn").resource == "alias/profile/Web_1/blue"


def test_region_is_the_trust_anchors() -> None:
    assert check_arns(ANCHOR_ALIAS, PROFILE_ALIAS, role=ROLE) == "eu-west-1"
    assert check_arns(ANCHOR, PROFILE_ALIAS, role=ROLE) == "eu-west-1"
    assert check_arns(ANCHOR, PROFILE, role=ROLE) == "eu-west-1"
    assert check_arns(ANCHOR, PROFILE, role=ROLE, region="") == "eu-west-1"
    assert check_arns(ANCHOR, PROFILE, role=ROLE, region="eu-west-1") == "eu-west-1"


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("text", [None, ""])
def test_missing_arn_is_an_error_with_an_example(flag: str, text: str | None) -> None:
    with pytest.raises(UsageError, match=f"^{flag} is missing") as caught:
        parse_arn(text, flag)
    assert "arn:aws:" in caught.value.hint
    assert "or name a profile of config.toml that has it" in caught.value.hint


@pytest.mark.parametrize("flag", FLAGS)
def test_arn_that_a_profile_lacks_is_an_error_with_the_command_that_adds_it(flag: str) -> None:
    arns = {"--trust-anchor-arn": ANCHOR, "--profile-arn": PROFILE, "--role-arn": ROLE, flag: ""}
    with pytest.raises(UsageError) as caught:
        check_arns(arns["--trust-anchor-arn"], arns["--profile-arn"], role=arns["--role-arn"], name="web")
    assert str(caught.value) == f"profile 'web' has no {flag[2:]}. Run hwsigner profile edit web {flag} ARN"


@pytest.mark.parametrize(
    ("flag", "text", "owner"),
    [
        ("--trust-anchor-arn", PROFILE, "--profile-arn"),
        ("--trust-anchor-arn", ROLE, "--role-arn"),
        ("--profile-arn", ANCHOR, "--trust-anchor-arn"),
        ("--role-arn", PROFILE, "--profile-arn"),
        ("--trust-anchor-arn", PROFILE_ALIAS, "--profile-arn"),
        ("--profile-arn", ANCHOR_ALIAS, "--trust-anchor-arn"),
        ("--role-arn", ANCHOR_ALIAS, "--trust-anchor-arn"),
    ],
)
def test_swapped_arn_names_the_right_flag(flag: str, text: str, owner: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_arn(text, flag)
    assert caught.value.message.startswith(f"{flag} is {text!r}, which is a ")
    assert owner in caught.value.hint


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--trust-anchor-arn", ANCHOR.replace("rolesanywhere", "acm-pca")),
        ("--trust-anchor-arn", ANCHOR.replace("arn:aws:", "arn:gcp:")),
        ("--trust-anchor-arn", ANCHOR.replace("arn:", "urn:")),
        ("--trust-anchor-arn", ANCHOR.replace("123456789012", "12345678901")),
        ("--trust-anchor-arn", ANCHOR.replace("123456789012", "١٢٣٤٥٦٧٨٩٠١٢")),
        ("--trust-anchor-arn", ANCHOR[:-1]),
        ("--trust-anchor-arn", ANCHOR + "/more"),
        ("--trust-anchor-arn", ANCHOR + "\n"),
        ("--trust-anchor-arn", ANCHOR + "é"),
        ("--trust-anchor-arn", " " + ANCHOR),
        ("--trust-anchor-arn", UUID),
        ("--profile-arn", PROFILE.replace("profile/", "profiles/")),
        ("--trust-anchor-arn", ANCHOR_ALIAS + "/"),
        ("--trust-anchor-arn", ANCHOR_ALIAS.replace("production-ca", "")),
        ("--trust-anchor-arn", ANCHOR_ALIAS.replace("alias/", "alias:")),
        ("--trust-anchor-arn", ANCHOR_ALIAS.replace("trust-anchor/", "crl/")),
        ("--trust-anchor-arn", ANCHOR_ALIAS.replace("trust-anchor/", "")),
        ("--profile-arn", PROFILE_ALIAS + "\n"),
        ("--role-arn", ROLE.replace("role/", "alias/role/")),
        ("--role-arn", ROLE.replace("::", ":eu-west-1:")),
        ("--role-arn", "arn:aws:iam::123456789012:user/me"),
        ("--role-arn", "arn:aws:iam::123456789012:role/"),
        ("--role-arn", "arn:aws:iam::123456789012:role/path/"),
        ("--role-arn", "arn:aws:iam::123456789012:role/" + "x" * 65),
        ("--role-arn", "arn:aws:iam::123456789012:role/a b"),
        ("--role-arn", "arn:aws:iam::123456789012:role/" + "p" * 3000 + "/x"),
        ("--role-arn", "arn:aws:sts::123456789012:assumed-role/x/y"),
    ],
)
def test_malformed_arn_is_an_error_with_flag_and_value(flag: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_arn(text, flag)
    assert caught.value.message.startswith(f"{flag} is ")
    assert caught.value.message.isprintable()
    assert text.strip()[:40] in caught.value.message
    assert len(caught.value.message) < 500


@functools.cache
def alias_shape() -> Any:
    return Session().get_service_model("rolesanywhere").shape_for("AliasName")


def service_accepts(name: str) -> bool:
    """Return whether an alias's name fits the pattern and length in botocore's model of the service."""
    limits = alias_shape().metadata
    return 1 <= len(name) <= limits["max"] and re.fullmatch(limits["pattern"], name) is not None


_LETTERS = st.text("aZ0_-/.é \n", min_size=1, max_size=6)


@given(st.one_of(_LETTERS, st.sampled_from(["a" * 256, "a" * 257, "aws/x", "a/b-c_d/E9", "a//b", "/a", "a/", "1a"])))
def test_alias_is_accepted_exactly_when_the_service_accepts_it(name: str) -> None:
    for flag, kind in (("--trust-anchor-arn", "trust-anchor"), ("--profile-arn", "profile")):
        text = f"arn:aws:rolesanywhere:eu-west-1:123456789012:alias/{kind}/{name}"
        if service_accepts(name):
            assert parse_arn(text, flag).resource == f"alias/{kind}/{name}"
        else:
            with pytest.raises(UsageError, match=f"^{flag} is "):
                parse_arn(text, flag)


def test_alias_is_an_error_where_only_the_canonical_arn_counts() -> None:
    assert parse_canonical_arn(ANCHOR, "--trust-anchor-arn") == parse_arn(ANCHOR, "--trust-anchor-arn")
    with pytest.raises(UsageError, match=r"^--trust-anchor-arn is .*, which is an alias") as caught:
        parse_canonical_arn(ANCHOR_ALIAS, "--trust-anchor-arn")
    assert "trust-anchor/UUID" in caught.value.hint


@pytest.mark.parametrize(
    "region",
    [
        "us-east-1",
        "us-gov-west-1",
        "eusc-de-east-1",
        "us-iso-east-1",
        "us-isob-east-1",
        "ap-southeast-10",
        "mx-central-1",
    ],
)
def test_region_is_accepted(region: str) -> None:
    assert parse_arn(ANCHOR.replace("eu-west-1", region), "--trust-anchor-arn").region == region


@pytest.mark.parametrize(
    "region",
    ["", "eu", "eu-west", "EU-WEST-1", "eu-west-1.evil.example", "eu-west-1/x", "eu_west_1", "a-b-1", "eu-west-1a"],
)
def test_malformed_region_is_an_error(region: str) -> None:
    with pytest.raises(UsageError, match="--profile-arn"):
        parse_arn(PROFILE.replace("eu-west-1", region), "--profile-arn")
    with pytest.raises(UsageError, match="--region is"):
        check_region(region)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"profile": PROFILE.replace("eu-west-1", "eu-west-2")}, ["--trust-anchor-arn", "--profile-arn", "eu-west-2"]),
        ({"profile": PROFILE.replace("arn:aws:", "arn:aws-cn:")}, ["--trust-anchor-arn", "--profile-arn", "aws-cn"]),
        ({"role": ROLE.replace("arn:aws:", "arn:aws-us-gov:")}, ["--trust-anchor-arn", "--role-arn", "aws-us-gov"]),
        ({"region": "us-east-1"}, ["--region", "us-east-1", "eu-west-1"]),
        ({"region": "moon"}, ["--region", "moon"]),
    ],
)
def test_arns_that_do_not_belong_together_are_an_error(change: dict[str, str], named: list[str]) -> None:
    given_values = {"trust_anchor": ANCHOR, "profile": PROFILE, "role": ROLE, **change}
    with pytest.raises(UsageError) as caught:
        check_arns(**given_values)
    assert all(name in caught.value.message for name in named)


_PARTS = st.sampled_from(["arn", "aws", "iam", "rolesanywhere", "eu-west-1", "123456789012", "", f"profile/{UUID}"])
_PIECES = st.lists(st.one_of(_PARTS, st.text(max_size=12)), max_size=8).map(":".join)


@given(st.one_of(st.text(), _PIECES))
def test_any_text_is_an_arn_or_a_usage_error(text: str) -> None:
    for flag in FLAGS:
        try:
            shown = ":".join(["arn", *parse_arn(text, flag)])
        except UsageError as error:
            shown = str(error)
        else:
            assert shown == text
        assert shown.isprintable()
