"""An example of each command, for its help and its man page."""

from __future__ import annotations

EXAMPLES = {
    "credential-process": "hwsigner credential-process --profile web",
    "serve": "hwsigner serve web",
    "exec": "hwsigner exec web -- aws s3 ls",
    "update": "hwsigner update --config-profile web --profile default",
    "agent": "hwsigner agent status",
    "sign-string": "hwsigner sign-string --private-key handle:0x81000100",
    "read-certificate-data": "hwsigner read-certificate-data --certificate web.pem",
    "list": "hwsigner list\nhwsigner list 'pkcs11:token=web' --login",
    "status": "hwsigner status",
    "whoami": "hwsigner whoami --profile web",
    "doctor": "hwsigner doctor --profile web --online",
    "keygen": "hwsigner keygen tpm2:path=/etc/pki/web.tss2",
    "csr": "hwsigner csr /etc/pki/web.tss2 --subject CN=web,OU=devops --out web.csr",
    "install-certificate": "hwsigner install-certificate web.pem /etc/pki/web.tss2 --profile web",
    "enroll": """\
hwsigner enroll web --private-key tpm2:path=/etc/pki/web.tss2 \\
    --subject CN=web-01,OU=devops \\
    --issuer registrar --issuer-url https://registrar.example.com:8443""",
    "renew": "hwsigner renew web --if-due",
    "show": "hwsigner show --profile web",
    "delete": "hwsigner delete /etc/pki/web.tss2",
    "attest": "hwsigner attest tpm2:path=/etc/pki/web.tss2 --out web.statement",
    "verify-attestation": "hwsigner verify-attestation web.statement --roots /etc/hwsigner/roots",
    "registrar": "hwsigner registrar --issuer vault --issuer-url https://vault.example.com:8200",
    "registrar allow": """\
hwsigner registrar allow web.statement --roots /etc/hwsigner/roots \\
    --subject CN=web-01,OU=devops""",
    "registrar rotate-keys": "hwsigner registrar rotate-keys",
    "aws principal-tags": "hwsigner aws principal-tags web.pem",
    "aws trust-policy": "hwsigner aws trust-policy web.pem --match CN,OU",
    "aws template": "hwsigner aws template terraform --ca ca.pem --role web --match CN=web",
    "aws setup": "hwsigner aws setup --ca ca.pem --role web --match CN=web,OU=devops --plan",
    "aws check": "hwsigner aws check --profile web",
    "aws revoke": "hwsigner aws revoke web.pem --profile web --ca-key ca.key --ca ca.pem",
    "profile": """\
hwsigner profile add web --certificate web.pem --private-key web.tss2 \\
    --trust-anchor-arn ARN --profile-arn ARN --role-arn ARN""",
    "retire": "hwsigner retire web --ca-key ca.key --ca ca.pem",
    "systemd": "hwsigner systemd install --user",
    "completion": "hwsigner completion zsh",
    "emulator": "hwsigner emulator --tls --ca-file /tmp/ca.pem",
    "version": "hwsigner version --verbose",
}
