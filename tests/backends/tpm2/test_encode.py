"""The writer of TSS2 PRIVATE KEYs. asn1crypto's encoder and openssl judge; test_files.py uses such keys."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from hypothesis import given

from backends.tpm2.test_key_file import KEYS, encode, fields_of
from hwsigner.backends.pem import read_blocks
from hwsigner.backends.tpm2.encode import write_tss2, write_tss2_pem
from hwsigner.backends.tpm2.key_file import AuthPolicy, PolicyCommand, TSS2Key, parse_tss2

KEY = TSS2Key(True, 0x81000001, b"public" * 40, b"private")


@given(key=KEYS)
def test_writer_writes_the_der_that_asn1crypto_writes(key: TSS2Key) -> None:
    assert write_tss2(key) == encode(**fields_of(key, None))


@given(key=KEYS)
def test_parser_reads_what_the_writer_writes(key: TSS2Key) -> None:
    assert parse_tss2(write_tss2(key), "k.pem") == key


def test_pem_has_lines_of_64_characters() -> None:
    lines = write_tss2_pem(KEY).splitlines()
    assert (lines[0], lines[-1]) == ("-----BEGIN TSS2 PRIVATE KEY-----", "-----END TSS2 PRIVATE KEY-----")
    assert {len(line) for line in lines[1:-2]} == {64}
    assert 0 < len(lines[-2]) <= 64


@given(key=KEYS)
def test_pem_holds_the_der(key: TSS2Key) -> None:
    [block] = read_blocks(write_tss2_pem(key).encode())
    assert (block.label, block.data) == ("TSS2 PRIVATE KEY", write_tss2(key))


def test_parents_name_is_a_line_before_the_pem_that_openssl_skips(tmp_path: Path) -> None:
    path, name = tmp_path / "key.pem", f"000b{'5a' * 32}"
    path.write_text(write_tss2_pem(KEY._replace(parent_name=name)))
    assert path.read_text() == f"Parent's TPM Name: {name}\n{write_tss2_pem(KEY)}"
    subprocess.run(["openssl", "asn1parse", "-in", str(path)], check=True, capture_output=True)


def test_openssl_reads_each_field(tmp_path: Path) -> None:
    policy = (PolicyCommand(0x16B),)
    key = TSS2Key(
        True, 0x40000001, b"public", b"private", b"\0\1s", policy, (AuthPolicy(policy, "one"),), "words", True
    )
    path = tmp_path / "key.pem"
    path.write_text(write_tss2_pem(key))
    command = ["openssl", "asn1parse", "-in", str(path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    kinds = re.findall(r"prim: +(\w+(?: \w+)?)", shown)
    policy_fields = ["INTEGER", "OCTET STRING"]
    others = ["UTF8STRING", "BOOLEAN", "INTEGER", "OCTET STRING", "OCTET STRING"]
    assert kinds == ["OBJECT", "BOOLEAN", *policy_fields, "OCTET STRING", "UTF8STRING", *policy_fields, *others]
