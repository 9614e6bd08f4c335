// Creates or invokes one function through the AWS SDK for JavaScript: create NAME ZIP RUNTIME, or invoke NAME PAYLOAD, which
// prints the answer.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const sdk = createRequire(process.env.LAMBENT_TEST_CLIENTS + "/client.js")("@aws-sdk/client-lambda");
const client = new sdk.LambdaClient({ endpoint: process.env.AWS_ENDPOINT_URL, region: process.env.AWS_REGION });
const [action, name, given, Runtime] = process.argv.slice(2);
if (action === "create") {
  await client.send(new sdk.CreateFunctionCommand({
    FunctionName: name, Runtime, Role: "arn:aws:iam::123456789012:role/compat", Handler: "bootstrap", Code: { ZipFile: readFileSync(given) },
  }));
  await sdk.waitUntilFunctionActiveV2({ client, maxWaitTime: 30, minDelay: 1, maxDelay: 1 }, { FunctionName: name });
} else {
  const answer = await client.send(new sdk.InvokeCommand({ FunctionName: name, Payload: given }));
  process.stdout.write(Buffer.from(answer.Payload));
}
