"""From a key to its certificate: certificate requests go to an issuer, and what comes back is checked."""
