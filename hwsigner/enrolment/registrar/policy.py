"""The policy: which chip may have which names. A chip that it does not name gets no certificate, whoever made it.

It is TOML, a table for each machine:

    [machine.web-01]
    tpm = "9f86…"               # SHA-256 of the endorsement key, as hwsigner attest --ek prints it
    subject = "CN=web-01,OU=web"
    dns = ["web-01.example.com"]

With `ek = "public-key"`, the administrator certifies that endorsement key, and no vendor's certificate is needed. With
`pcrs = ["7=af01…"]`, the TPM has to quote these PCRs of its bank sha256; several lines for a number are alternatives. A
YubiKey has `yubikey`, its serial number, and `root`, the SHA-256 of the DER of Yubico's root certificate: serial
numbers mean something only under the root that they were certified by.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hwsigner._identity.certificate_request import check_names, parse_name
from hwsigner._system.files import edit_file
from hwsigner._system.reloading import read_file
from hwsigner._system.toml import parse_toml
from hwsigner.errors import ConfigError, HwsignerWarning, UsageError, suggestion

if TYPE_CHECKING:
    from cryptography.x509 import Name

TPM, YUBIKEY = "tpm2", "piv"  # The formats of statements.
PUBLIC_KEY = "public-key"
HASH = re.compile(r"[0-9a-f]{64}")
PCR = re.compile(r"(?:1?[0-9]|2[0-3])=[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_MAX_SERIAL = 0xFFFFFFFF
_TYPES: Mapping[str, type] = {
    **dict.fromkeys(("tpm", "ek", "root", "subject"), str),
    **dict.fromkeys(("dns", "uris", "pcrs"), list),
    "yubikey": int,
}


@dataclass(frozen=True)
class Machine:
    """A chip and the names that its keys may have.

    `chip` is the SHA-256 of a TPM's endorsement key in hexadecimal, or a YubiKey's serial number, and `root` that of a
    YubiKey's root certificate. `ek` is `public-key` if the administrator certifies a TPM's endorsement key; empty if
    its vendor must. Each of the TPM's PCRs that `pcrs` name, such as `7=` and 64 digits, must have one of its values;
    empty to ask for no quote.
    """

    name: str
    format: str
    chip: str
    root: str
    subject: str
    dns: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()
    ek: str = ""
    pcrs: tuple[str, ...] = ()

    @property
    def pcr_selection(self) -> str:
        """The PCRs that its TPM must quote, such as `sha256:7,14`; empty for none."""
        return f"sha256:{','.join(map(str, self._numbers))}" if self.pcrs else ""

    @property
    def quoted_names(self) -> set[str]:
        """The names of these PCRs, such as `sha256:7`."""
        return {f"sha256:{number}" for number in self._numbers}

    @property
    def _numbers(self) -> list[int]:
        return sorted({int(one.partition("=")[0]) for one in self.pcrs})

    def wrong_pcrs(self, quoted: Mapping[str, str]) -> dict[str, str]:
        """Return those of the quoted PCRs, by names such as `sha256:7`, that have none of the values in the policy."""
        allowed = {f"sha256:{one}" for one in self.pcrs}
        return {name: value for name, value in quoted.items() if self.pcrs and f"{name}={value}" not in allowed}

    def values(self) -> dict[str, Any]:
        """Return the keys of its table."""
        own = {"tpm": self.chip, **({"ek": self.ek} if self.ek else {})}
        chip = {"yubikey": int(self.chip), "root": self.root} if self.format == YUBIKEY else own
        lists = (("dns", self.dns), ("uris", self.uris), ("pcrs", self.pcrs))
        return {**chip, "subject": self.subject, **{name: list(value) for name, value in lists if value}}


@dataclass(frozen=True)
class RegistrarPolicy:
    """The machines, by name. `digest` is the SHA-256 of the file in hexadecimal; empty if it is not of a file."""

    machines: Mapping[str, Machine]
    digest: str = field(default="", compare=False)

    def machine(self, format: str, chip: str) -> Machine | None:
        """Return the machine with a chip. How many there are, and where it stands, does not change the time."""
        return self._by_chip.get((format, chip))

    def with_subject(self, subject: Name) -> list[Machine]:
        """Return the machines whose certificates have a subject. Some CAs write its names in another order."""
        names = {(name.oid, name.value) for name in subject}
        machines = self.machines.values()
        return [one for one in machines if {(name.oid, name.value) for name in parse_name(one.subject)} == names]

    def remarks(self) -> Iterator[tuple[list[str], str]]:
        """Yield the names of machines that have one subject, and a sentence about them: they may belong together."""
        found: dict[bytes, list[Machine]] = {}
        for machine in self.machines.values():
            found.setdefault(parse_name(machine.subject).public_bytes(), []).append(machine)
        for same in filter(lambda machines: len(machines) > 1, found.values()):
            names = [machine.name for machine in same]
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            yield names, f"{', '.join(names[:3])}{more} have the same subject, {same[0].subject}"

    @cached_property
    def _by_chip(self) -> Mapping[tuple[str, str], Machine]:
        return {(machine.format, machine.chip): machine for machine in self.machines.values()}


def read_policy(path: str) -> RegistrarPolicy:
    """Read a policy."""
    return _parse(read_file(path), path)


def add_machine(path: str, machine: Machine, *, replace: bool = False) -> bool:
    """Add a machine to a policy. Comments and the other machines stay as they are. A new file gets mode 0644.

    `replace` allows another one of its name, as after a swap of the mainboard. Returns whether the policy was changed:
    it may have had this very machine. Warns if another machine has this subject, or PCRs are not demanded any more.
    """
    changed = False
    remarks: list[HwsignerWarning] = []

    def edit(data: bytes) -> bytes:
        nonlocal changed
        before = _parse(data, path).machines
        existing = before.get(machine.name)
        if existing == machine:
            return data
        if existing and not replace:
            problem = f"{path} has {machine.name} already, with another chip or other values"
            raise ConfigError(problem, "Name the machine with --name, or replace it with --replace")
        wanted = {**before, machine.name: _machine(machine.name, machine.values(), path)}
        _check_chips(wanted, path)
        edited = _with_machine(data.decode(), machine, existing).encode()
        policy = RegistrarPolicy(wanted)
        if not _is_policy(edited, policy, path):
            hint = "Write each machine as a table, below a line [machine.NAME]"
            raise ConfigError(f"{path} is written in a form that can't be added to", hint)
        hint = "A role that trusts one by its subject trusts all. If you did not mean that, change one"
        remarks[:] = [HwsignerWarning(text, hint) for names, text in policy.remarks() if machine.name in names]
        if existing and existing.pcrs and not machine.pcrs:
            problem = f"{path} demanded PCRs of {machine.name}, and demands none now"
            remarks.append(HwsignerWarning(problem, "If you did not mean that, run it again with --pcrs"))
        changed = True
        return edited

    edit_file(path, edit, mode=0o644)
    for remark in remarks:
        warnings.warn(remark, stacklevel=2)
    return changed


def remove_machine(path: str, name: str) -> Machine:
    """Remove a machine from a policy, with the comment right above its table, and return it. All else stays."""
    removed = []

    def edit(data: bytes) -> bytes:
        machines = dict(_parse(data, path).machines)
        if name not in machines:
            hint = suggestion(name, machines, f"hwsigner registrar list --policy {path} shows those that it has")
            raise ConfigError(f"{path} has no machine {name[:64]!r}", hint)
        removed.append(machines.pop(name))
        edited = _without_table(data.decode(), name).encode()
        if not _is_policy(edited, RegistrarPolicy(machines), path):
            raise ConfigError(f"{path} does not have {name} as a table [machine.{name}]", "Remove it with an editor")
        return edited

    read_policy(path)  # A missing file gets an error here, and no folder.
    edit_file(path, edit, mode=0o644)
    return removed[0]


def _without_table(text: str, name: str) -> str:
    """Return a policy without a machine's table. tomlkit would take the next table's comment for a part of this one."""
    header = re.compile(rf"""\[\s*machine\s*\.\s*(["']?){re.escape(name)}\1\s*\]\s*(#.*)?""")
    lines = text.splitlines(keepends=True)
    begin = next((number for number, line in enumerate(lines) if header.fullmatch(line.strip())), len(lines))
    rest = range(begin + 1, len(lines))
    end = next((number for number in rest if lines[number].lstrip().startswith("[")), len(lines))
    while end > begin + 1 and lines[end - 1].strip()[:1] in ("", "#"):
        end -= 1
    while begin and lines[begin - 1].lstrip().startswith("#"):
        begin -= 1
    while end < len(lines) and not lines[end].strip():
        end += 1
    return "".join(lines[:begin] + lines[end:])


def _is_policy(data: bytes, policy: RegistrarPolicy, path: str) -> bool:
    """Return whether these bytes are this policy: tomlkit breaks some dotted keys."""
    try:
        return _parse(data, path) == policy
    except ConfigError:
        return False


def _with_machine(text: str, machine: Machine, existing: Machine | None) -> str:
    import tomlkit
    from tomlkit.items import InlineTable

    document = tomlkit.parse(text)
    machines: Any = document.setdefault("machine", tomlkit.table(is_super_table=True))
    if existing is None:
        # An inline table can have no other kind of table in it.
        table = tomlkit.inline_table() if isinstance(machines, InlineTable) else tomlkit.table()
        table.update(machine.values())
        machines[machine.name] = table
        return tomlkit.dumps(document)
    before, after = existing.values(), machine.values()
    for key in before.keys() - after.keys():
        del machines[machine.name][key]
    for key, value in after.items():
        if before.get(key) != value:
            machines[machine.name][key] = value
    return tomlkit.dumps(document)


def _parse(data: bytes, path: str) -> RegistrarPolicy:
    document = parse_toml(data, path)
    tables = document.pop("machine", {})
    if document or not isinstance(tables, dict):
        raise ConfigError(f"{path} has more than tables [machine.NAME]", "Remove it, or fix its name")
    machines = {name: _machine(name, table, path) for name, table in tables.items()}
    _check_chips(machines, path)
    return RegistrarPolicy(machines, hashlib.sha256(data).hexdigest())


def _check_chips(machines: Mapping[str, Machine], path: str) -> None:
    chips: dict[tuple[str, str], str] = {}
    for name, machine in machines.items():
        other = chips.setdefault((machine.format, machine.chip), name)
        if other != name:
            raise ConfigError(f"{path} has one chip twice, as {other} and {name}", "Remove one: a chip has one name")


def _machine(name: str, table: Any, path: str) -> Machine:
    try:
        if not _NAME.fullmatch(name):
            raise UsageError("the name must have at most 64 letters, digits and ._@-")
        for problem in _problems(table):
            raise UsageError(problem)
        check_names(table["subject"], dns_names=table.get("dns", ()), uris=table.get("uris", ()))
    except UsageError as error:
        raise ConfigError(f"{path} has [machine.{name[:64]}] that is invalid: {error.message}", error.hint) from None
    is_yubikey = "yubikey" in table
    return Machine(
        name,
        YUBIKEY if is_yubikey else TPM,
        str(table["yubikey"]) if is_yubikey else table["tpm"],
        table.get("root", ""),
        table["subject"],
        tuple(table.get("dns", ())),
        tuple(table.get("uris", ())),
        table.get("ek", ""),
        tuple(table.get("pcrs", ())),
    )


def _problems(table: Any) -> Iterator[str]:
    """Yield what is wrong with a machine's table; the first is enough."""
    if not isinstance(table, dict):
        yield "it is not a table"
    for key, value in table.items():
        if key not in _TYPES:
            yield f"the key {key[:40]!r} is unknown"
        if type(value) is not _TYPES[key]:
            yield f"{key} has the wrong type"
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            yield f"{key} has a value that is not text"
    if "subject" not in table:
        yield "it has no subject, such as subject = 'CN=web-01'"
    yield from _problems_of_chip(table)


def _problems_of_chip(table: Mapping[str, Any]) -> Iterator[str]:
    if ("tpm" in table) == ("yubikey" in table) or ("root" in table) != ("yubikey" in table):
        yield "it needs either tpm, or yubikey and root"
    if "ek" in table and ("tpm" not in table or table["ek"] != PUBLIC_KEY):
        yield f'ek is for a tpm only, and is "{PUBLIC_KEY}" or absent'
    if "pcrs" in table and ("tpm" not in table or not table["pcrs"] or not all(map(PCR.fullmatch, table["pcrs"]))):
        yield "pcrs is for a tpm only, and a list of PCRs from 0 to 23 with 64 digits in lower case, such as '7=af01…'"
    if not all(HASH.fullmatch(table[key]) for key in ("tpm", "root") if key in table):
        yield "tpm or root is not a SHA-256 in 64 hexadecimal digits, in lower case"
    if not 0 <= table.get("yubikey", 0) <= _MAX_SERIAL:
        yield "yubikey is not a serial number"
