"""The commands for the AWS side: trust anchor, role and profile."""
