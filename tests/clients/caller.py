"""Print the caller's identity with boto3, once for each line of stdin."""

import sys

import boto3  # type: ignore[import-untyped]

sts = boto3.client("sts")
for _ in sys.stdin:
    print(sts.get_caller_identity()["Arn"], flush=True)
