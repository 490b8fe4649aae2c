"""All commands, for mypy, which compares each with the Protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import hwsigner._cli.agent
    import hwsigner._cli.attest
    import hwsigner._cli.aws.check
    import hwsigner._cli.aws.principal_tags
    import hwsigner._cli.aws.revoke
    import hwsigner._cli.aws.setup
    import hwsigner._cli.aws.template
    import hwsigner._cli.aws.trust_policy
    import hwsigner._cli.completion
    import hwsigner._cli.console
    import hwsigner._cli.credential_process
    import hwsigner._cli.csr
    import hwsigner._cli.delete
    import hwsigner._cli.doctor
    import hwsigner._cli.emulator
    import hwsigner._cli.enroll
    import hwsigner._cli.exec
    import hwsigner._cli.install_certificate
    import hwsigner._cli.keygen
    import hwsigner._cli.launchd
    import hwsigner._cli.list
    import hwsigner._cli.migrate
    import hwsigner._cli.profile
    import hwsigner._cli.read_certificate_data
    import hwsigner._cli.registrar.allow
    import hwsigner._cli.registrar.list
    import hwsigner._cli.registrar.remove
    import hwsigner._cli.registrar.rotate_keys
    import hwsigner._cli.registrar.serve
    import hwsigner._cli.renew
    import hwsigner._cli.retire
    import hwsigner._cli.serve
    import hwsigner._cli.show
    import hwsigner._cli.sign_string
    import hwsigner._cli.status
    import hwsigner._cli.systemd
    import hwsigner._cli.update
    import hwsigner._cli.verify_attestation
    import hwsigner._cli.version
    import hwsigner._cli.whoami
    from hwsigner._cli.parser import CommandModule

    _: list[CommandModule] = [
        hwsigner._cli.credential_process,
        hwsigner._cli.serve,
        hwsigner._cli.exec,
        hwsigner._cli.update,
        hwsigner._cli.agent,
        hwsigner._cli.sign_string,
        hwsigner._cli.read_certificate_data,
        hwsigner._cli.list,
        hwsigner._cli.status,
        hwsigner._cli.whoami,
        hwsigner._cli.console,
        hwsigner._cli.doctor,
        hwsigner._cli.keygen,
        hwsigner._cli.csr,
        hwsigner._cli.install_certificate,
        hwsigner._cli.enroll,
        hwsigner._cli.renew,
        hwsigner._cli.show,
        hwsigner._cli.delete,
        hwsigner._cli.attest,
        hwsigner._cli.verify_attestation,
        hwsigner._cli.registrar.serve,
        hwsigner._cli.registrar.allow,
        hwsigner._cli.registrar.remove,
        hwsigner._cli.registrar.list,
        hwsigner._cli.registrar.rotate_keys,
        hwsigner._cli.aws.principal_tags,
        hwsigner._cli.aws.trust_policy,
        hwsigner._cli.aws.template,
        hwsigner._cli.aws.setup,
        hwsigner._cli.aws.check,
        hwsigner._cli.aws.revoke,
        hwsigner._cli.profile,
        hwsigner._cli.migrate,
        hwsigner._cli.retire,
        hwsigner._cli.systemd,
        hwsigner._cli.launchd,
        hwsigner._cli.completion,
        hwsigner._cli.emulator,
        hwsigner._cli.version,
    ]
