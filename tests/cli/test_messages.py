"""What a tired administrator is told, in whole sentences: what is wrong, and the command or line that mends it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emulators import InProcessSoftHSM
from hwsigner._aws.region import check_region, parse_arn
from hwsigner._config import profiles
from hwsigner.backends.pkcs11.functions import TokenInfo
from hwsigner.backends.pkcs11.pins import locked
from hwsigner.backends.tpm2.errors import unavailable
from hwsigner.backends.tpm2.tpm import Lockout
from hwsigner.errors import HwsignerError, UsageError
from judges import needs_linux, needs_shared_folder
from scene import Outcome, Scene

Call = Callable[..., Outcome]
NOBODY = 65534
NOTHING = "no profile and no flags for a session were given."
FLAGS = "or the flags --certificate, --trust-anchor-arn, --profile-arn and --role-arn"
STATUS = "See hwsigner status --help; for one profile, write hwsigner show --profile NAME"
PART = "the tpm2: URI has a part that is not name=value."


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's config.toml, which is missing, as is the system's."""
    monkeypatch.setattr(profiles, "SYSTEM_FILE", str(tmp_path / "etc" / "config.toml"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    path = tmp_path / "xdg" / "hwsigner" / "config.toml"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def error(outcome: Outcome, status: int) -> str:
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (status, "", 1)
    return outcome.err.removeprefix("hwsigner: ").removesuffix("\n")


def message_for_nobody(act: Callable[[], object]) -> str:
    """Do something as another user, in a process of its own; return the error."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            act()
        except HwsignerError as caught:
            os.write(writer, str(caught).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as stream:
        text = stream.read()
    os.waitpid(child, 0)
    return text


def test_empty_region_is_said_to_be_empty(call: Call) -> None:
    call("profile", "add", "web", "--certificate=/c.pem", "--region=eu-west-1")
    assert error(call("profile", "edit", "web", "--region="), 2) == (
        "--region is empty, and edit would not change it. "
        "Give it a value, or remove it: hwsigner profile edit web --unset region"
    )
    with pytest.raises(UsageError, match=r"^--region is empty\. Use a region such as us-east-1$"):
        check_region("")
    anchor = "arn:aws:rolesanywhere::123456789012:trust-anchor/11111111-1111-1111-1111-111111111111"
    with pytest.raises(
        UsageError, match=r"^the region of --trust-anchor-arn is empty\. Use a region such as us-east-1$"
    ):
        parse_arn(anchor, "--trust-anchor-arn")


@pytest.mark.root
@needs_shared_folder
def test_key_that_another_user_cannot_read_names_the_user_the_mode_and_two_ways(open_folder: Path, call: Call) -> None:
    folder, name = open_folder / "pki", pwd.getpwuid(NOBODY).pw_name
    folder.mkdir(mode=0o755)
    call("keygen", folder / "web.key")

    def open_it() -> None:
        from hwsigner import open_key

        open_key(str(folder / "web.key"))

    agent = "Let the system's agent use the key for you (hwsigner help agent)"
    assert message_for_nobody(open_it) == (
        f"can't read {folder}/web.key: Permission denied. {folder}/web.key is root's with mode 0600, "
        f"and you are {name}. {agent}, or have root run chown {name} {folder}/web.key"
    )
    folder.chmod(0o700)
    assert message_for_nobody(open_it) == (
        f"can't read {folder}/web.key: Permission denied. {folder} is root's with mode 0700, "
        f"and you are {name}. {agent}, or have root move it to a folder that {name} can enter"
    )


@pytest.mark.root
def test_config_that_the_system_s_agent_cannot_read_names_the_commands(open_folder: Path) -> None:
    file = open_folder / "hwsigner" / "config.toml"
    file.parent.mkdir()
    file.touch(0o600)
    profiles.SYSTEM_FILE = str(file)  # The fixture restores it.
    assert message_for_nobody(lambda: profiles.profiles({"XDG_CONFIG_HOME": str(open_folder)})) == (
        f"can't read {file}: Permission denied. If it is for the system's agent, "
        f"run chown root:hwsigner {file} && chmod 640 {file} as root"
    )


@pytest.mark.root
@needs_shared_folder
def test_missing_profile_that_root_may_have_says_how_root_shares_it(open_folder: Path) -> None:
    name, environ = pwd.getpwuid(NOBODY).pw_name, {"HOME": str(open_folder)}
    profiles.SYSTEM_FILE = str(open_folder / "etc.toml")  # The fixture restores it.
    place = f"there is no profile 'web' in {open_folder}/.config/hwsigner/config.toml"
    assert message_for_nobody(lambda: profiles.profile("web", environ)) == (
        f"{place} or {open_folder}/etc.toml. Profiles there: none. Add one with hwsigner profile add; "
        f"if root has it, have root share it: hwsigner profile add web --system --allow-users {name}"
    )
    Path(profiles.SYSTEM_FILE).touch(0o600)
    assert message_for_nobody(lambda: profiles.profile("web", environ)) == (
        f"{place}, and you can't read {open_folder}/etc.toml. If root has it, have root run "
        f"hwsigner profile edit web --system --allow-users {name}, and start the system's agent (hwsigner help agent)"
    )


@needs_linux
@pytest.mark.root
def test_profile_of_the_user_who_ran_sudo_is_found(
    config: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".config" / "hwsigner" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text('[profile.web]\ncertificate = "/c.pem"\n')
    monkeypatch.setenv("SUDO_USER", "ed")
    person = pwd.struct_passwd(("ed", "x", 1000, 1000, "", str(tmp_path), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwnam", lambda _: person)
    assert error(call("show", "--profile=web"), 2) == (
        f"there is no profile 'web' in {config} or {profiles.SYSTEM_FILE}. "
        f"{file} has it: run this without sudo, or add it with hwsigner profile add --system"
    )


@pytest.mark.parametrize(
    ("manufacturer", "module", "hint"),
    [
        (
            "Yubico (www.yubico.com)",
            "/usr/lib/libykcs11.so",
            "With the PUK, run ykman piv access unblock-pin or yubico-piv-tool -a unblock-pin",
        ),
        (
            "piv_II",
            "/usr/lib/opensc-pkcs11.so",
            "With the PUK, run pkcs15-tool --unblock-pin, or ykman piv access unblock-pin for a YubiKey",
        ),
        (
            "SafeNet",
            "/opt/eTPkcs11.so",
            "With the SO PIN, run pkcs11-tool --module /opt/eTPkcs11.so --token-label 'a b' "
            "--login --login-type so --init-pin",
        ),
        (
            "IBM",
            "/usr/lib/libtpm2_pkcs11.so.1",
            "Wait until the TPM's lockout ends, or run tpm2_dictionarylockout --clear-lockout",
        ),
    ],
)
def test_locked_pin_names_the_command_for_this_token(manufacturer: str, module: str, hint: str) -> None:
    token = TokenInfo(0, "", "", "a b", manufacturer, "", "1", b"", 0)
    assert str(locked(token, module)) == f"the PIN of token 'a b' is locked. {hint}"


def test_tpm_in_lockout_names_the_command_and_the_time() -> None:
    assert str(Lockout(3, 3, 600).error("device:/dev/tpmrm0", "key web")) == (
        "the TPM at device:/dev/tpmrm0 is in lockout, so key web can't be used. "
        "Wait 600 seconds, after which the TPM forgets one, or run tpm2_dictionarylockout --clear-lockout"
    )


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("/CN=a/OU=b", "CN=a,OU=b"),
        ("/C=DE/O=Example, Inc./CN=web", "CN=web,O=Example\\, Inc.,C=DE"),
        ("/CN=HTTP/web.example.com", "CN=HTTP/web.example.com"),
    ],
)
def test_subject_in_openssl_s_form_is_written_as_it_must_be(scene: Scene, given: str, meant: str) -> None:
    assert error(scene.call("csr", scene.key, f"--subject={given}"), 2) == (
        f"the subject {given!r} is in openssl's form, which is not read. Write {meant}"
    )
    assert scene.call("csr", scene.key, f"--subject={meant}").status == 0


def test_name_of_a_profile_where_a_key_is_wanted_says_which_flag_it_needs(call: Call, scene: Scene) -> None:
    call("profile", "add", "web", f"--certificate={scene.leaf}")
    wanted = "web is the name of a profile, and a key URI or file is wanted."
    assert error(call("show", "web"), 2) == f"{wanted} Write hwsigner show --profile web"
    assert error(call("delete", "web"), 2) == f"{wanted} To end the profile and its key, run hwsigner retire web"
    assert error(call("csr", "web", "--subject=CN=a"), 2) == (
        f"{wanted} For its key's URI, run hwsigner show --profile web"
    )
    unexpected = "unexpected argument web, which is a profile."
    assert error(call("status", "web"), 2) == f"{unexpected} Write hwsigner show --profile web"
    assert error(call("credential-process", "web"), 2) == f"{unexpected} Write --profile web"
    assert error(call("status", "wb"), 2) == f"unexpected argument. {STATUS}"


def test_key_file_with_the_name_of_a_profile_is_shown(
    call: Call, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("profile", "add", "web", f"--certificate={scene.leaf}")
    monkeypatch.chdir(tmp_path)
    assert call("keygen", "web").status == 0
    assert call("show", "web").status == 0


@pytest.mark.parametrize(
    ("name", "wanted"), [("web", "web"), ('"web"', "web"), ("web.example.com", '"web.example.com"')]
)
def test_table_as_in_the_files_of_the_sdks_is_written_as_it_must_be(
    config: Path, call: Call, name: str, wanted: str
) -> None:
    config.write_text(f'# Mine\n[profile {name}]\ncertificate = "/c.pem"\n')
    plain = name.strip('"')
    assert error(call("status"), 2) == (
        f"{config} is not TOML at line 2, column 10. Write [profile.{wanted}], not [profile {plain}]"
    )
    config.write_text(f'[profile.{wanted}]\ncertificate = "/c.pem"\n')
    assert call("profile", "show", plain).status == 0


@pytest.mark.parametrize(("flag", "status"), [("certificate", 4), ("private-key", 3)])
def test_moved_file_of_a_profile_names_the_command_that_says_where_it_is(
    scene: Scene, call: Call, flag: str, status: int
) -> None:
    call("profile", "add", "web", *scene.flags())
    old = scene.leaf if flag == "certificate" else scene.key
    new = old.rename(old.with_suffix(".new"))
    expected = (
        f"can't read {old}: No such file or directory. If it was moved, run hwsigner profile edit web --{flag} NEW"
    )
    assert error(call("credential-process", "--profile=web"), status) == expected
    assert error(call("show", "--profile=web"), status) == expected
    call("profile", "edit", "web", f"--{flag}", new)
    assert call("credential-process", "--profile=web").status == 0
    new.rename(old)


def test_softhsm_without_tokens_names_its_configuration(tmp_path: Path, softhsm: InProcessSoftHSM) -> None:
    (tmp_path / "tokens").mkdir()
    file = tmp_path / "softhsm2.conf"
    file.write_text(f"directories.tokendir = {tmp_path}/tokens\n")
    uri = f"pkcs11:token=web;object=web?module-path={softhsm.module}"

    def message(**environ: str) -> str:
        command = [sys.executable, "-m", "hwsigner", "show", uri]
        variables = {name: text for name, text in os.environ.items() if name != "SOFTHSM2_CONF"}
        return subprocess.run(command, env={**variables, **environ}, capture_output=True, text=True).stderr

    assert message(SOFTHSM2_CONF=str(file)) == (
        f"hwsigner: no token of PKCS #11 module {softhsm.module} matches pkcs11:token=web;object=web. "
        f"Check SOFTHSM2_CONF ({file}), or make a token with softhsm2-util --init-token --free --label NAME\n"
    )
    assert message(SOFTHSM2_CONF="/absent") == (
        f"hwsigner: PKCS #11 module {softhsm.module} can't be used: the module reports a general error "
        "(CKR_GENERAL_ERROR). Check SOFTHSM2_CONF (/absent), and that you may read what it names\n"
    )


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("credential-process", f"{NOTHING} Add --profile NAME (there are: web), {FLAGS}"),
        ("credential-process --profile=", f"{NOTHING} Add --profile NAME (there are: web), {FLAGS}"),
        ("serve", f"{NOTHING} Add --profile NAME (there are: web), {FLAGS}"),
        ("aws check", f"{NOTHING} Add --profile NAME (there are: web), {FLAGS}"),
        ("renew --profile web", "unknown flag --profile. Write hwsigner renew NAME"),
        ("retire --profile=web", "unknown flag --profile. Write hwsigner retire NAME"),
        ("status --profile web", f"unknown flag --profile. {STATUS}"),
        ("renew", "NAME is missing. Write hwsigner renew NAME"),
        (
            "install-certificate",
            "CERTIFICATE, KEY-URI are missing. Write hwsigner install-certificate CERTIFICATE KEY-URI",
        ),
        ("enroll new --key /k", "unknown flag --key. Did you mean --private-key?"),
        ("profile add new --cert c.pem", "unknown flag --cert. Did you mean --certificate?"),
        ("profile add new --role web", "unknown flag --role. Did you mean --role-arn?"),
        ("profile edit web region=us-east-1", "unexpected argument. Write --region=…"),
        ("csr /k CN=web", "unexpected argument. Write --subject CN=…"),
        ("profile delete web", "profile has no action 'delete'. Did you mean remove?"),
        ("profile create new", "profile has no action 'create'. Did you mean add?"),
        (
            "agent start",
            "agent has no command 'start'. "
            "Write hwsigner agent, or systemctl --user enable --now hwsigner-agent.socket, on a Mac "
            "hwsigner launchd install",
        ),
        ("agent reload", "agent has no command 'reload'. The agent reads a changed config.toml by itself"),
        ("exec --profile web env", "no command was given. Write hwsigner exec --profile web -- COMMAND"),
        ("show tpm2:0x81000100", f"{PART} Write handle:0x81000100"),
        ("show tpm2:81000100", f"{PART} Write handle:0x81000100"),
    ],
)
def test_misused_command_is_told_what_to_write(call: Call, command: str, expected: str) -> None:
    call("profile", "add", "web", "--certificate=/c.pem")
    assert error(call(*command.split()), 2) == expected


def test_program_in_the_place_of_the_profile_is_told_so(call: Call, config: Path) -> None:
    assert error(call("exec", "env", "A=b"), 2) == (
        f"there is no profile 'env' in {config} or {profiles.SYSTEM_FILE}. "
        "Name the profile first: hwsigner exec NAME -- env …"
    )


def test_handle_without_its_scheme_is_written_as_it_must_be(call: Call) -> None:
    assert error(call("show", "0x81000100"), 3) == (
        "can't read 0x81000100: No such file or directory. "
        "For the key at this handle of the TPM, write handle:0x81000100"
    )


def test_relative_path_of_a_missing_file_in_a_new_profile_is_warned_of(call: Call, tmp_path: Path) -> None:
    outcome = call("profile", "add", "web", "--certificate=absent.pem")
    assert outcome.status == 0
    assert outcome.err == (
        "hwsigner: warning: --certificate is absent.pem, which is not in this folder, and would be looked for in any "
        "other. Give the full path of the file\n"
    )
    assert call("profile", "add", "other", "--certificate=/absent.pem").err == ""


@pytest.mark.root
@needs_shared_folder
def test_file_of_another_group_that_cannot_be_replaced_names_the_group(open_folder: Path) -> None:
    folder = open_folder / "mine"
    folder.mkdir()
    file = folder / "config.toml"
    file.write_text("[profile.web]\n")
    for path in (folder, file):
        os.chown(path, NOBODY, 0)

    def edit() -> None:
        from hwsigner._system.files import edit_file

        edit_file(str(file), lambda old: old + b"\n")

    assert message_for_nobody(edit) == (
        f"can't write {file}, as its group is 0 and you are not in it. Give it your group: chgrp {NOBODY} {file}"
    )
    assert file.read_text() == "[profile.web]\n"


@pytest.mark.root
@needs_shared_folder
def test_folder_or_file_that_root_made_names_the_command_that_gives_it_back(open_folder: Path) -> None:
    name, folder = pwd.getpwuid(NOBODY).pw_name, open_folder / "hwsigner"
    folder.mkdir()
    file = folder / "config.toml"
    environ = {"XDG_CONFIG_HOME": str(open_folder)}
    profiles.SYSTEM_FILE = str(open_folder / "etc.toml")  # The fixture restores it.
    assert message_for_nobody(lambda: profiles.add_profile("web", {"region": "us-east-1"}, environ)) == (
        f"can't write {file}: you may not write into its folder {folder}. "
        f"If it should be yours, have root run chown {NOBODY} {folder}"
    )
    file.touch(0o600)
    assert message_for_nobody(lambda: profiles.profiles(environ)) == (
        f"can't read {file}: Permission denied. If root made it, have root run chown -R {name} {folder}"
    )


@pytest.mark.root
@needs_shared_folder
def test_own_key_that_its_mode_closes_names_chmod(open_folder: Path, call: Call) -> None:
    key = open_folder / "web.key"
    call("keygen", key)
    os.chown(key, NOBODY, NOBODY)
    key.chmod(0)

    def open_it() -> None:
        from hwsigner import open_key

        open_key(str(key))

    assert message_for_nobody(open_it) == (
        f"can't read {key}: Permission denied. Its mode shuts you out: run chmod u+r {key}"
    )


def test_device_as_a_tcti_is_written_as_it_must_be() -> None:
    assert str(unavailable("/dev/tpmrm0", OSError())) == (
        "TCTI /dev/tpmrm0 is the path of a device. Write device:/dev/tpmrm0"
    )
