// Prints who the caller is, by the AWS SDK for JavaScript v3, once for each line that it reads.
"use strict";

const readline = require("node:readline");
const { GetCallerIdentityCommand, STSClient } = require("@aws-sdk/client-sts");
const { defaultProvider } = require("@aws-sdk/credential-provider-node");

async function main() {
  // The default chain, but for its limit of a second for IMDS: the machine may be busy with other tests.
  const sts = new STSClient({ credentials: defaultProvider({ timeout: 20000 }) });
  for await (const _ of readline.createInterface({ input: process.stdin })) {
    console.log((await sts.send(new GetCallerIdentityCommand({}))).Arn);
  }
}

main();
