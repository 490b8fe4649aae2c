"""Where the expected answers of the questions to AWS come from, with the marks of aws.md."""

from __future__ import annotations

from hwsigner.trial.questions import document, observation

_GUIDE = "IAM Roles Anywhere User Guide"
_IAM_GUIDE = "IAM User Guide"
_API = "IAM Roles Anywhere API Reference"

CERTIFICATE_RULES = document(f"[A1] {_GUIDE}: Trust model, signature validation")
TRUST_MODEL = document(f"[A1] {_GUIDE}: Trust model")
MAPPING = document(f"[A2] {_GUIDE}: Certificate attribute mapping")
SESSION_API = document(f"[A3] {_GUIDE}: CreateSession API")
SIGNING = document(f"{_GUIDE}: Signing process")
CRL_API = document(f"[A4] {_API}: ImportCrl")
ALIASES = document(f"{_API}: aliasName of CreateTrustAnchor and CreateProfile")
PROPAGATION = document(f"{_GUIDE}: Trusted identity propagation")
GETTING = document(f"{_API}: GetTrustAnchor, GetProfile and GetCrl: errors")
PROFILE_API = document(f"{_API}: CreateProfile")
MAPPING_API = document(f"{_API}: PutAttributeMapping")
QUOTAS = document("AWS General Reference: IAM Roles Anywhere endpoints and quotas")
IAM_API = document("IAM API Reference: CreateRole")
IAM_QUOTAS = document("[A5] IAM User Guide: IAM and STS quotas")
PRINCIPALS = document("IAM User Guide: JSON policy elements: Principal")
SESSION_TAGS = document(f"[A6] {_IAM_GUIDE}: Pass session tags in AWS STS")
GLOBAL_KEYS = document(f"[A8] {_IAM_GUIDE}: AWS global condition context keys")
ASSUMED_ROLES = document(f"[A9] {_IAM_GUIDE}: Monitor and control actions taken with assumed roles")
OPERATORS = document(f"[A10] {_IAM_GUIDE}: Condition operators")
VARIABLES = document(f"[A11] {_IAM_GUIDE}: Policy variables")
STS_ACTIONS = document("[A13] Service Authorization Reference: AWS Security Token Service")
STS_KEYS = document(f"[A14] {_IAM_GUIDE}: IAM and AWS STS condition context keys")
CHAINING = document(f"[A15] {_IAM_GUIDE}: Methods to assume a role")
FIVE_MINUTES = document("IAM User Guide: Signature Version 4: a request is valid for five minutes")
UNMAPPED_NAMES = observation("[U1] aws/rolesanywhere-credential-helper, issue 77")
UNMAPPED_SUBJECT = observation("[U2] aws/rolesanywhere-credential-helper, issue 188")
QUOTED = observation("[U5] repositories on GitHub quote the answer")
NOT_LISTED = observation("[U4] awslabs/iam-roles-anywhere-session, pull request 6")
QUOTED_VALUES = observation("hashicorp/terraform-provider-aws, issue 26872; DataDog/stratus-red-team, issue 331")
VENDORS_CLIENT = observation("aws_signing_helper does so, and works for its users")
IAM_WORDS = observation("users quote the words in many places")
STAR = observation("aws/aws-cdk, issue 5732")
