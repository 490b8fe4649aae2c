"""The policy file: read strictly, and added to without a change to anything else in it."""

from __future__ import annotations

import tempfile
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrolment.registrar.sites import table, tpm
from hwsigner.enrolment.registrar.policy import TPM, YUBIKEY, Machine, add_machine, read_policy, remove_machine
from hwsigner.errors import ConfigError

ONE, TWO = "1" * 64, "2" * 64
POLICY = f"""\
# The machines of the web team.

[machine.web-01]  # in rack 7
tpm = "{ONE}"     # from attest --ek
subject = "CN=web-01,OU=web"
dns = [
    "web-01.example.com",  # the first counts
]

[machine."admin.laptop"]
yubikey = 12345678
root = "{TWO}"
subject = "CN=admin"
uris = ["spiffe://example.com/admin"]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


def test_policy_has_machines_by_chip(path: Path) -> None:
    policy = read_policy(str(path))
    web = Machine("web-01", TPM, ONE, "", "CN=web-01,OU=web", ("web-01.example.com",))
    admin = Machine("admin.laptop", YUBIKEY, "12345678", TWO, "CN=admin", (), ("spiffe://example.com/admin",))
    assert policy.machine(TPM, ONE) == web
    assert policy.machine(YUBIKEY, "12345678") == admin
    assert policy.machine(YUBIKEY, ONE) is None
    assert policy.machine(TPM, TWO) is None
    assert policy.machine("pkcs11", "") is None


def test_policies_on_the_page_are_valid(path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "registrar.md").read_text()
    first, second = (block.split("```")[0] for block in page.split("```toml\n")[1:])
    path.write_text(first)
    assert set(read_policy(str(path)).machines) == {"web-01", "alice"}
    path.write_text(second)
    assert len(read_policy(str(path)).machines["web-01"].pcrs) == 2


def test_empty_policy_allows_nothing(path: Path) -> None:
    path.write_text("# nothing yet\n")
    assert read_policy(str(path)).machines == {}


def machine(text: str) -> str:
    return f"[machine.x]\n{text}\n"


TPM_LINE = f'tpm = "{ONE}"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[machine", "is not TOML at end of document"),
        ("a b", "is not TOML at line 1, column 3"),
        ("more = 1", "has more than tables"),
        ("machine = 1", "has more than tables"),
        ("[machine]\nx = 1", "it is not a table"),
        (machine(f"{TPM_LINE}subject = 'CN=x'\nsubjekt = 'CN=y'"), "the key 'subjekt' is unknown"),
        (machine(f"{TPM_LINE}"), "it has no subject, such as subject = 'CN=web-01'"),
        (machine("subject = 'CN=x'"), "either tpm, or yubikey and root"),
        (machine(f"{TPM_LINE}yubikey = 1\nroot = '{TWO}'\nsubject = 'CN=x'"), "either tpm, or yubikey and root"),
        (machine("yubikey = 1\nsubject = 'CN=x'"), "either tpm, or yubikey and root"),
        (machine(f"{TPM_LINE}root = '{TWO}'\nsubject = 'CN=x'"), "either tpm, or yubikey and root"),
        (machine(f"tpm = '{'A' * 64}'\nsubject = 'CN=x'"), "not a SHA-256"),
        (machine("tpm = '11'\nsubject = 'CN=x'"), "not a SHA-256"),
        (machine(f"yubikey = -1\nroot = '{TWO}'\nsubject = 'CN=x'"), "not a serial number"),
        (machine(f"yubikey = true\nroot = '{TWO}'\nsubject = 'CN=x'"), "yubikey has the wrong type"),
        (machine(f"{TPM_LINE}subject = 'web'"), "the subject 'web' is invalid"),
        (machine(f"{TPM_LINE}subject = ''"), "the subject '' is invalid"),
        (machine(f"{TPM_LINE}subject = 'CN=x'\ndns = 'x'"), "dns has the wrong type"),
        (machine(f"{TPM_LINE}subject = 'CN=x'\ndns = [1]"), "dns has a value that is not text"),
        (machine(f"{TPM_LINE}subject = 'CN=x'\ndns = ['a b']"), "'a b' is not a DNS name"),
        (machine(f"{TPM_LINE}subject = 'CN=x'\nuris = ['x']"), "'x' is not a URI"),
        (machine(f"{TPM_LINE}subject = 'CN=x'\nek = 'certificate'"), 'ek is for a tpm only, and is "public-key"'),
        (
            machine(f"yubikey = 1\nroot = '{TWO}'\nsubject = 'CN=x'\nek = 'public-key'"),
            'ek is for a tpm only, and is "public-key"',
        ),
        *(
            (machine(f"{TPM_LINE}subject = 'CN=x'\npcrs = {pcrs}"), "pcrs is for a tpm only, and a list of PCRs")
            for pcrs in ("[]", "['7']", f"['24={ONE}']", f"['07={ONE}']", f"['7={'A' * 64}']", "['sha1:7=11']")
        ),
        (machine(f"{TPM_LINE}subject = 'CN=x'\npcrs = '7={ONE}'"), "pcrs has the wrong type"),
        (machine(f"yubikey = 1\nroot = '{TWO}'\nsubject = 'CN=x'\npcrs = ['7={ONE}']"), "pcrs is for a tpm only"),
        (f"[machine.'a b']\n{TPM_LINE}subject = 'CN=x'", "the name must have"),
        (table(tpm(ONE, "a")) + table(tpm(ONE, "b")), "has one chip twice, as a and b"),
        ("\xff", "is not UTF-8 text"),
    ],
)
def test_invalid_policy_is_refused(text: str, message: str, path: Path) -> None:
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message) as caught:
        read_policy(str(path))
    assert str(path) in caught.value.message


def test_policy_that_other_users_can_write_is_refused(path: Path) -> None:
    path.chmod(0o664)
    with pytest.raises(ConfigError, match="other users can write it"):
        read_policy(str(path))


@pytest.mark.parametrize(
    "text",
    [
        "machine = {}",
        f'machine = {{ a = {{ tpm = "{TWO}", subject = "CN=a" }} }}  # Inline.',
        f'[machine]\na = {{ tpm = "{TWO}", subject = "CN=a" }}\n',
    ],
)
def test_machine_is_added_to_inline_tables(path: Path, text: str) -> None:
    path.write_text(text)
    before = read_policy(str(path)).machines
    assert add_machine(str(path), tpm(ONE))
    assert read_policy(str(path)).machines == {**before, "web-01": tpm(ONE)}


def test_policy_that_can_not_be_added_to_stays_as_it_is(path: Path) -> None:
    text = f'machine.a.tpm = "{TWO}"\nmachine.a.subject = "CN=a"\n'
    path.write_text(text)
    with pytest.raises(ConfigError, match="is written in a form that can't be added to") as caught:
        add_machine(str(path), tpm(ONE))
    assert "[machine.NAME]" in caught.value.hint
    assert path.read_text() == text


def test_adding_a_machine_keeps_comments_and_all_else(path: Path) -> None:
    assert add_machine(str(path), tpm(TWO, "web-02", "CN=web-02,OU=web", ("web-02.example.com",)))
    text = path.read_text()
    assert text.startswith(POLICY)
    assert set(read_policy(str(path)).machines) == {"web-01", "admin.laptop", "web-02"}


def test_adding_a_machine_again_changes_nothing(path: Path) -> None:
    before = path.read_bytes(), path.stat().st_mode
    same = read_policy(str(path)).machines["web-01"]
    assert not add_machine(str(path), same)
    assert (path.read_bytes(), path.stat().st_mode) == before


def test_first_machine_makes_a_readable_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "new.toml"
    assert add_machine(str(path), tpm(ONE))
    assert (path.parent.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o755, 0o644)
    assert read_policy(str(path)).machines == {"web-01": tpm(ONE)}


def test_swapped_board_is_one_line(path: Path) -> None:
    swapped = tpm(TWO, "web-01", "CN=web-01,OU=web", ("web-01.example.com",))
    with pytest.raises(ConfigError, match="has web-01 already") as caught:
        add_machine(str(path), swapped)
    assert "--replace" in caught.value.hint
    assert path.read_text() == POLICY
    assert add_machine(str(path), swapped, replace=True)
    lines = [(one, other) for one, other in zip(POLICY.split("\n"), path.read_text().split("\n"), strict=True)]
    assert [other.split("#")[0].strip() for one, other in lines if one != other] == [f'tpm = "{TWO}"']


def test_chip_of_another_machine_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="has one chip twice, as web-01 and web-02"):
        add_machine(str(path), tpm(ONE, "web-02"))
    assert path.read_text() == POLICY


def test_machine_can_change_from_a_tpm_to_a_yubikey(path: Path) -> None:
    other = Machine("web-01", YUBIKEY, "7", TWO, "CN=web-01")
    assert add_machine(str(path), other, replace=True)
    assert read_policy(str(path)).machines["web-01"] == other


HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)
LABELS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,20}", fullmatch=True)
HOSTS = st.from_regex(r"[a-z0-9]{1,10}(\.[a-z]{1,5}){0,2}", fullmatch=True)
MACHINES = st.builds(
    lambda name, chip, dns, uris: Machine(name, TPM, chip, "", f"CN={name}", tuple(dns), tuple(uris)),
    LABELS,
    HASHES,
    st.lists(HOSTS, max_size=3),
    st.lists(HOSTS.map(lambda host: f"spiffe://{host}/x"), max_size=3),
)


@pytest.mark.slow
@given(st.lists(MACHINES, max_size=5, unique_by=(lambda one: one.name, lambda one: one.chip)))
def test_policy_has_exactly_the_machines_that_were_added(machines: list[Machine]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.toml"
        path.write_text("# top\n")
        for one in machines:
            assert add_machine(str(path), one)
        assert list(read_policy(str(path)).machines.values()) == machines
        assert path.read_text().startswith("# top\n")
        tomllib.loads(path.read_text())


# remove


def test_removed_machine_takes_its_comment_along_and_leaves_the_others_theirs(path: Path) -> None:
    web, admin = POLICY.split("[machine.web-01]")[0], POLICY[POLICY.index('[machine."admin.laptop"]') :]
    path.write_text(POLICY.replace(admin, f"# Since May.\n# In the office.\n{admin}\n# The end.\n"))
    assert remove_machine(str(path), "web-01").chip == ONE
    assert path.read_text() == f"{web}# Since May.\n# In the office.\n{admin}\n# The end.\n"
    assert remove_machine(str(path), "admin.laptop").chip == "12345678"
    assert path.read_text() == f"{web}# The end.\n"


@given(st.lists(st.sampled_from(["a", "b.c", "D-1", "e@f"]), unique=True, min_size=1), st.data())
def test_all_but_the_removed_machine_stay_as_they_were(names: list[str], data: st.DataObject) -> None:
    def machine(name: str) -> str:
        number = names.index(name)
        quote = data.draw(st.sampled_from("'\""))
        before = data.draw(st.sampled_from(["", "# note\n", "# [machine.a]\n\n"]))
        dns = data.draw(st.sampled_from(["", "dns = [\n  'x.y',\n  # [machine.a]\n]\n"]))
        after = data.draw(st.sampled_from(["", "\n", "# last\n", "\n# [machine.a]\n\n"]))
        return f"{before}[machine.{quote}{name}{quote}]\ntpm = '{number:064x}'\nsubject = 'CN={number}'\n{dns}{after}"

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "policy.toml")
        path.write_text("# first\n\n" + "".join(map(machine, names)))
        before, name = read_policy(str(path)).machines, data.draw(st.sampled_from(names))
        assert remove_machine(str(path), name) == before[name]
        assert read_policy(str(path)).machines == {key: value for key, value in before.items() if key != name}
        assert path.read_text().startswith("# first\n")


@pytest.mark.parametrize(
    "text",
    [f'machine.a.tpm = "{TWO}"\nmachine.a.subject = "CN=a"\n', f"[machine]\na.tpm = '{ONE}'\na.subject='CN=a'\n"],
)
def test_policy_that_a_machine_can_not_be_removed_from_stays_as_it_is(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"does not have a as a table \[machine.a\]"):
        remove_machine(str(path), "a")
    assert path.read_text() == text


def test_machine_that_the_policy_does_not_have_is_an_error_that_names_a_similar_one(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no machine 'web-1'") as caught:
        remove_machine(str(path), "web-1")
    assert "web-01" in caught.value.hint
    assert path.read_text() == POLICY
    with pytest.raises(ConfigError, match="No such file"):
        remove_machine(str(tmp_path / "none" / "policy.toml"), "web-01")
    assert not (tmp_path / "none").exists()
