# Prints who the caller is, by the AWS SDK for Ruby v3, once for each line that it reads.
require "aws-sdk-core"

$stdout.sync = true
sts = Aws::STS::Client.new
$stdin.each_line { puts sts.get_caller_identity.arn }
