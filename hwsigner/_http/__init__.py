"""Addresses, proxies, TCP, TLS, and one POST."""

__all__ = ["address", "client_certificate", "connection", "defaults", "kept", "tls", "transport"]
