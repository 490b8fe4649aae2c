"""Addresses, proxies, TCP, TLS, and one POST."""
