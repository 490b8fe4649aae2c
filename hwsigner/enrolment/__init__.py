"""From a key to its certificate: certificate requests go to an issuer, and what comes back is checked."""

__all__ = ["initial", "installing", "pace", "profile", "registrar", "renewal", "retirement"]
