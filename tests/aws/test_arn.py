from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner.aws.arn import Arn, check_arns, check_region, parse_profile, parse_role, parse_trust_anchor
from hwsigner.errors import UsageError

UUID = "3f6c1a52-9d7e-4c1b-8a90-0f4b7d2c6e11"
ANCHOR = f"arn:aws:rolesanywhere:eu-west-1:123456789012:trust-anchor/{UUID}"
PROFILE = f"arn:aws:rolesanywhere:eu-west-1:123456789012:profile/{UUID}"
ROLE = "arn:aws:iam::123456789012:role/path/to/Example+=,.@-_role"
PARSERS = {"--trust-anchor-arn": parse_trust_anchor, "--profile-arn": parse_profile, "--role-arn": parse_role}


def test_fields_of_an_arn() -> None:
    assert parse_trust_anchor(ANCHOR) == Arn(
        "aws", "rolesanywhere", "eu-west-1", "123456789012", f"trust-anchor/{UUID}"
    )
    assert parse_profile(PROFILE).resource == f"profile/{UUID}"
    assert parse_role(ROLE) == Arn("aws", "iam", "", "123456789012", "role/path/to/Example+=,.@-_role")


def test_region_comes_from_the_trust_anchor() -> None:
    assert check_arns(ANCHOR, PROFILE, role=ROLE) == "eu-west-1"
    assert check_arns(ANCHOR, PROFILE, role=ROLE, region="") == "eu-west-1"
    assert check_arns(ANCHOR, PROFILE, role=ROLE, region="eu-west-1") == "eu-west-1"


@pytest.mark.parametrize("flag", PARSERS)
@pytest.mark.parametrize("text", [None, ""])
def test_missing(flag: str, text: str | None) -> None:
    with pytest.raises(UsageError, match=f"^{flag} is missing") as caught:
        PARSERS[flag](text)
    assert "arn:aws:" in caught.value.hint


@pytest.mark.parametrize(
    ("flag", "text", "owner"),
    [
        ("--trust-anchor-arn", PROFILE, "--profile-arn"),
        ("--trust-anchor-arn", ROLE, "--role-arn"),
        ("--profile-arn", ANCHOR, "--trust-anchor-arn"),
        ("--role-arn", PROFILE, "--profile-arn"),
    ],
)
def test_swapped(flag: str, text: str, owner: str) -> None:
    with pytest.raises(UsageError) as caught:
        PARSERS[flag](text)
    assert caught.value.message.startswith(f"{flag} holds the ARN of a ")
    assert text in caught.value.message
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
def test_malformed_names_flag_and_value(flag: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        PARSERS[flag](text)
    assert caught.value.message.startswith(f"{flag} holds ")
    assert caught.value.message.isprintable()
    assert text.strip()[:40] in caught.value.message
    assert len(caught.value.message) < 500


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
def test_regions(region: str) -> None:
    assert parse_trust_anchor(ANCHOR.replace("eu-west-1", region)).region == region


@pytest.mark.parametrize(
    "region",
    ["", "eu", "eu-west", "EU-WEST-1", "eu-west-1.evil.example", "eu-west-1/x", "eu_west_1", "a-b-1", "eu-west-1a"],
)
def test_region_garbage(region: str) -> None:
    with pytest.raises(UsageError, match="--profile-arn"):
        parse_profile(PROFILE.replace("eu-west-1", region))
    with pytest.raises(UsageError, match="--region holds"):
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
def test_disagreement(change: dict[str, str], named: list[str]) -> None:
    given_values = {"trust_anchor": ANCHOR, "profile": PROFILE, "role": ROLE, **change}
    with pytest.raises(UsageError) as caught:
        check_arns(**given_values)
    assert all(name in caught.value.message for name in named)


_PARTS = st.sampled_from(["arn", "aws", "iam", "rolesanywhere", "eu-west-1", "123456789012", "", f"profile/{UUID}"])
_PIECES = st.lists(st.one_of(_PARTS, st.text(max_size=12)), max_size=8).map(":".join)


@given(st.one_of(st.text(), _PIECES))
def test_garbage_is_a_usage_error_or_an_arn(text: str) -> None:
    for parse in PARSERS.values():
        try:
            shown = ":".join(["arn", *parse(text)])
        except UsageError as error:
            shown = str(error)
        else:
            assert shown == text
        assert shown.isprintable()
