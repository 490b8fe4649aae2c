"""`serve --pods`: the credentials of each Pod's service account, by the protocol of the EKS Pod Identity Agent."""

__all__ = ["endpoint", "pod_policy", "profiles", "sessions", "token", "verification", "watch"]
