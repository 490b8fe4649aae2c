"""The registrar: gives a certificate to a key that is proven to be in a chip whose name the policy has.

It stands between machines and an issuer. A machine sends the statement about its key and gets a challenge; it sends
the answer and gets the certificate. `docs/registrar.md` has the messages and the threats.

- `registrar`: the decisions, without any network
- `policy`: which chip may have which names
- `requests`: a certificate request against that
- `sealing`: the state that travels with the challenge
- `server`, `limits`: HTTP, and how much of it
- `messages`, `refusals`: what both sides say
- `watched`: files that are read again when they change
"""
