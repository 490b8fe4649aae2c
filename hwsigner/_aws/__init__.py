"""What is specific to AWS: ARNs, endpoints, CreateSession, credentials and the SDKs' files."""
