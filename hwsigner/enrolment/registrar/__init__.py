"""The registrar: gives a certificate to a key that is proven to be in a chip whose name the policy has.

It stands between machines and an issuer. A machine sends the statement about its key and gets a challenge; it sends
the answer and gets the certificate. `docs/how-to/registrar.md` has the messages and the threats, and
`docs/how-it-works/architecture.md` the modules.
"""

__all__ = ["limits", "policy", "registrar", "sealing", "server"]
