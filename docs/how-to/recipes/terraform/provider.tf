# Terraform as the role of the profile `terraform`, whose credential_process in ~/.aws/config is hwsigner.
provider "aws" {
  region              = "eu-central-1"
  profile             = "terraform"
  allowed_account_ids = ["123456789012"]
}

data "aws_caller_identity" "current" {}

output "caller" {
  value = data.aws_caller_identity.current.arn
}
