"""The AWS side of IAM Roles Anywhere, through boto3: trust anchors, profiles, roles and their changes."""

__all__ = ["facts", "plan", "policies", "report", "resources", "revocation", "revoking", "templates"]
