// Drives Lambda's API through the AWS SDK for JavaScript and prints what it answered as one JSON object. Arguments: function
// name, zip, runtime; the SDK is found from the directory in LAMBENT_TEST_CLIENTS.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const sdk = createRequire(process.env.LAMBENT_TEST_CLIENTS + "/client.js")("@aws-sdk/client-lambda");
const [name, archive, runtime] = process.argv.slice(2);
const Role = "arn:aws:iam::123456789012:role/compat";
const Payload = Buffer.from('{"text":"grüße <&>","n":1.50,"list":[1,{"a":null}]}');
const client = new sdk.LambdaClient({ endpoint: process.env.AWS_ENDPOINT_URL, region: process.env.AWS_REGION, maxAttempts: 1 });
const send = (command, input) => client.send(new sdk[command + "Command"](input));
const waiter = { client, maxWaitTime: 30, minDelay: 1, maxDelay: 1 };
const report = {};

async function fails(command, input) {
  try {
    await send(command, input);
  } catch (error) {
    return [error.$metadata.httpStatusCode, error.name, error.message];
  }
  return "it worked";
}

const created = await send("CreateFunction", {
  FunctionName: name, Runtime: runtime, Role, Handler: "index.handler", Code: { ZipFile: readFileSync(archive) }, Timeout: 7, MemorySize: 256,
  Environment: { Variables: { GREETING: "grüße <&>" } }, Tags: { team: "a b" },
});
report.created = [created.FunctionName, created.State, created.Version, created.Timeout, created.MemorySize, created.Environment.Variables.GREETING];
await sdk.waitUntilFunctionActiveV2(waiter, { FunctionName: name });
const got = await send("GetFunction", { FunctionName: name });
const code = Buffer.from(await (await fetch(got.Code.Location)).arrayBuffer());
report.code = createHash("sha256").update(code).digest("base64") === got.Configuration.CodeSha256;
report.tags = got.Tags;

async function invoke(input) {
  const answer = await send("Invoke", { FunctionName: name, Payload, LogType: "Tail", ...input });
  return [answer.StatusCode, answer.ExecutedVersion, Buffer.from(answer.Payload).toString("hex"), answer.FunctionError ?? "",
    Buffer.from(answer.LogResult, "base64").includes("START RequestId: ")];
}

report.invoked = await invoke({});
const updated = await send("UpdateFunctionConfiguration", { FunctionName: name, Timeout: 9 });
report.updated = [updated.Timeout, updated.LastUpdateStatus];
await sdk.waitUntilFunctionUpdatedV2(waiter, { FunctionName: name });
report.published = (await send("PublishVersion", { FunctionName: name })).Version;
const alias = await send("CreateAlias", { FunctionName: name, Name: "live", FunctionVersion: "1" });
report.alias = [alias.AliasArn.endsWith(`:function:${name}:live`), alias.FunctionVersion];
await sdk.waitUntilPublishedVersionActive(waiter, { FunctionName: name, Qualifier: "1" });
report["by alias"] = await invoke({ Qualifier: "live" });
report["dry run"] = (await send("Invoke", { FunctionName: name, InvocationType: "DryRun" })).StatusCode;
await send("UpdateAlias", { FunctionName: created.FunctionArn, Name: "live", Description: "changed" });
report.aliases = (await send("ListAliases", { FunctionName: name })).Aliases.map((a) => [a.Name, a.Description]);
report.versions = (await send("ListVersionsByFunction", { FunctionName: name })).Versions.map((v) => v.Version);
report.listed = false;
for await (const page of sdk.paginateListFunctions({ client }, { MaxItems: 50 })) {
  report.listed ||= page.Functions.some((f) => f.FunctionName === name);
}
await send("PutFunctionConcurrency", { FunctionName: name, ReservedConcurrentExecutions: 5 });
report.reserved = (await send("GetFunctionConcurrency", { FunctionName: name })).ReservedConcurrentExecutions;
await send("DeleteFunctionConcurrency", { FunctionName: name });
await send("TagResource", { Resource: created.FunctionArn, Tags: { stage: "x/y+z" } });
await send("UntagResource", { Resource: created.FunctionArn, TagKeys: ["team"] });
report["tags now"] = (await send("ListTags", { Resource: created.FunctionArn })).Tags;
report.missing = await fails("GetFunction", { FunctionName: name + "-none" });
report["missing invoked"] = await fails("Invoke", { FunctionName: name, Qualifier: "none" });
report.taken = await fails("CreateAlias", { FunctionName: name, Name: "live", FunctionVersion: "1" });
report["bad role"] = (await fails("UpdateFunctionConfiguration", { FunctionName: name, Role: "no role" })).slice(0, 2);
await send("DeleteAlias", { FunctionName: name, Name: "live" });
await send("DeleteFunction", { FunctionName: name });
report.deleted = await fails("GetFunctionConfiguration", { FunctionName: name });
process.stdout.write(JSON.stringify(report));
