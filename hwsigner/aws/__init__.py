"""The AWS side: ARNs, endpoints, CreateSession, credentials and the SDKs' files."""
