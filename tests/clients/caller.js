// Prints who the caller is, by the AWS SDK for JavaScript v3, once for each line that it reads.
"use strict";

const readline = require("node:readline");
const { GetCallerIdentityCommand, STSClient } = require("@aws-sdk/client-sts");

async function main() {
  const sts = new STSClient({});
  for await (const _ of readline.createInterface({ input: process.stdin })) {
    console.log((await sts.send(new GetCallerIdentityCommand({}))).Arn);
  }
}

main();
