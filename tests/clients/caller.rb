# Prints who the caller is, by the AWS SDK for Ruby v3, once for each line that it reads.
require "aws-sdk-core"

$stdout.sync = true
# The default is a second: the machine may be busy with other tests.
sts = Aws::STS::Client.new(instance_profile_credentials_timeout: 20)
$stdin.each_line { puts sts.get_caller_identity.arn }
