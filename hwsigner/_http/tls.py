"""TLS to the service and to proxies: which CAs are trusted, and the error if a certificate is not.

AWS_CA_BUNDLE takes precedence over SSL_CERT_FILE and SSL_CERT_DIR, and these over the system's CAs. Each replaces the
others. REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE are for other programs. SSLKEYLOGFILE is ignored: it reveals sessions.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Final, NamedTuple, ParamSpec, TypeVar

from hwsigner._http.connection import Deadline, Stream
from hwsigner.errors import ConfigError, ServiceUnreachableError

CHUNK_BYTES = 65536

# A folder of CAs is preferred: OpenSSL reads the one file that it needs (0.1 ms) instead of a whole bundle (4 ms).
_SYSTEM_FOLDERS = ("/etc/ssl/certs", "/etc/pki/ca-trust/extracted/pem/directory-hash", "/etc/pki/tls/certs")
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_P = ParamSpec("_P")
_T = TypeVar("_T")
_HASHED_NAME = r"[0-9a-f]{8}\.[0-9]+"


class TrustedCAs(NamedTuple):
    """Where trusted CA certificates are read from.

    Attributes:
        name: their name in messages, such as `AWS_CA_BUNDLE=/etc/ca.pem`.
        file: the path of a PEM bundle, or None.
        folder: the path of a folder with OpenSSL's hashed names, or several separated by `:`, or None.
    """

    name: str
    file: str | None = None
    folder: str | None = None


def find_cas(environ: Mapping[str, str]) -> TrustedCAs:
    """Return the CAs that the environment variables choose. Their files are not read yet."""
    bundle = environ.get("AWS_CA_BUNDLE")
    if bundle:
        return TrustedCAs(f"AWS_CA_BUNDLE={bundle}", file=bundle)
    file, folder = environ.get("SSL_CERT_FILE") or None, environ.get("SSL_CERT_DIR") or None
    if file or folder:
        names = (("SSL_CERT_FILE", file), ("SSL_CERT_DIR", folder))
        return TrustedCAs(" ".join(f"{name}={value}" for name, value in names if value), file, folder)
    return _system_cas()


class TlsSettings:
    """The TLS context that connections which trust the same CAs share, and the name of these in messages."""

    def __init__(self, context: ssl.SSLContext, trusted: str) -> None:
        self.context: Final = context
        self.trusted: Final = trusted


def make_settings(cas: TrustedCAs, *, verify: bool = True, strict: bool = False) -> TlsSettings:
    """Return the settings of a client, TLS 1.2 or later, that trusts these CAs.

    All clients with the same CAs share a context, which takes up to a megabyte, until the bundle's file changes. If
    `verify` is False, any certificate for any name is accepted, and the CAs are not read. If `strict`, certificates
    must have what RFC 5280 asks of them: CAs, key usage and key identifiers.
    """
    try:
        status = os.stat(cas.file) if cas.file and verify else None
    except OSError:
        status = None  # Reading it reports the error.
    stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) if status else None
    return _make_settings(cas, stamp, verify=verify, strict=strict)


@lru_cache(maxsize=16)
def _make_settings(cas: TrustedCAs, stamp: object, *, verify: bool, strict: bool) -> TlsSettings:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Set by Python 3.11.2, which then takes a response that was cut off for a complete one.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    context.set_alpn_protocols(["http/1.1"])
    if verify:
        # As in Go, an intermediate CA in the bundle is trusted without its root.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if strict:
            context.verify_flags |= ssl.VERIFY_X509_STRICT
        _load(context, cas)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return TlsSettings(context, cas.name)


class TlsStream:
    """TLS, as a Stream, over another Stream, which may be TLS itself.

    It runs in memory: only the stream below waits, and keeps the deadline. That one is closed with this one. The peer's
    certificate must be for `host`, a name or IP address.
    """

    def __init__(self, below: Stream, settings: TlsSettings, *, host: str, peer: str) -> None:
        self._below = below
        self._trusted = settings.trusted
        self._peer = peer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        # As bytes: text would go through the IDNA codec, whose import takes milliseconds.
        name = host.encode("ascii")
        self._tls = settings.context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)

    def handshake(self, deadline: Deadline) -> None:
        """Agree on keys and verify the peer's certificate. A failure is retryable only if the connection was cut."""
        self._run(deadline, self._tls.do_handshake)

    def receive(self, size: int, deadline: Deadline) -> bytes:
        """Implement Stream.receive."""
        return self._run(deadline, self._tls.read, size)

    def send(self, data: bytes, deadline: Deadline) -> None:
        """Implement Stream.send."""
        while data:
            data = data[self._run(deadline, self._tls.write, data) :]

    def close(self) -> None:
        """Implement Stream.close."""
        self._below.close()

    def _run(self, deadline: Deadline, step: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        while True:
            try:
                result = step(*args, **kwargs)
            except ssl.SSLWantReadError:
                self._flush(deadline)
                self._fill(deadline)
            except ssl.SSLError as error:
                # The alert tells the peer what is wrong. Whether it arrives makes no difference here.
                with suppress(ServiceUnreachableError):
                    self._flush(deadline)
                raise _failure(error, self._peer, self._trusted) from error
            else:
                self._flush(deadline)
                return result

    def _flush(self, deadline: Deadline) -> None:
        if self._outgoing.pending:
            self._below.send(self._outgoing.read(), deadline)

    def _fill(self, deadline: Deadline) -> None:
        data = self._below.receive(CHUNK_BYTES, deadline)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()


def _failure(error: ssl.SSLError, peer: str, trusted: str) -> ServiceUnreachableError:
    if isinstance(error, ssl.SSLCertVerificationError):
        problem = f"the certificate of {peer} is not trusted: {error.verify_message.rstrip('.')} (trusted: {trusted})"
        hint = "Set AWS_CA_BUNDLE to a PEM file with its CA, and check the name in the URL and this machine's clock"
        return ServiceUnreachableError(problem, hint, retryable=False)
    # Python 3.11.2 has no class for it.
    if isinstance(error, ssl.SSLEOFError) or error.reason == "UNEXPECTED_EOF_WHILE_READING":
        hint = "Retry later, or check the network and the proxy"
        return ServiceUnreachableError(f"{peer} closed the connection early", hint)
    reason = (error.reason or str(error)).replace("_", " ").lower()
    problem = f"TLS with {peer} failed: {reason}"
    return ServiceUnreachableError(problem, "Check its URL, and that it speaks TLS 1.2 or later", retryable=False)


def _system_cas() -> TrustedCAs:
    defaults = ssl.get_default_verify_paths()
    for folder in (defaults.openssl_capath, *_SYSTEM_FOLDERS):
        if _has_hashed_names(folder):
            return TrustedCAs(f"the system's CAs in {folder}", folder=folder)
    for file in (defaults.openssl_cafile, *_SYSTEM_BUNDLES):
        if os.path.isfile(file):
            return TrustedCAs(f"the system's CAs in {file}", file=file)
    return TrustedCAs("no CA, as this system has none")


def _has_hashed_names(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(re.fullmatch(_HASHED_NAME, entry.name) for entry in entries)
    except OSError:
        return False


def _load(context: ssl.SSLContext, cas: TrustedCAs) -> None:
    if cas.folder and not any(os.path.isdir(part) for part in cas.folder.split(":")):
        raise ConfigError(f"{cas.name} is not a folder", "Set it to a folder of CA certificates, or unset it")
    if not cas.file and not cas.folder:
        raise ConfigError("no CA certificates were found", "Install ca-certificates or set AWS_CA_BUNDLE to a PEM file")
    try:
        context.load_verify_locations(cas.file, cas.folder)
    except ssl.SSLError as error:
        raise ConfigError(f"{cas.name} has no readable PEM certificates", "Set it to a PEM file") from error
    except OSError as error:
        raise ConfigError(f"can't read {cas.name}: {error.strerror}", "Set it to a PEM file, or unset it") from error
