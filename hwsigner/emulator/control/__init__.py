"""The control plane of IAM Roles Anywhere, API version 2018-05-10: what `aws rolesanywhere …` calls."""
