"""Drives Lambda's API through boto3 and prints what it answered as one JSON object. Arguments: function name, zip, runtime."""

import base64, hashlib, json, sys, time, urllib.request

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

name, archive, runtime = sys.argv[1:4]
ROLE = "arn:aws:iam::123456789012:role/compat"
PAYLOAD = '{"text":"grüße <&>","n":1.50,"list":[1,{"a":null}]}'.encode()
options = {"config": Config(retries={"max_attempts": 1, "mode": "standard"})}
client = boto3.client("lambda", **options)
logs = boto3.client("logs", **options)
report = {}


def fails(call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        answer = error.response
        return [answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"], answer["Error"]["Message"]]
    return "it worked"


with open(archive, "rb") as file:
    code = file.read()
created = client.create_function(FunctionName=name, Runtime=runtime, Role=ROLE, Handler="index.handler", Code={"ZipFile": code}, Timeout=7, MemorySize=256,
    Environment={"Variables": {"GREETING": "grüße <&>"}}, Tags={"team": "a b"})
report["created"] = [created["FunctionName"], created["State"], created["Version"], created["Timeout"], created["MemorySize"],
    created["Environment"]["Variables"]["GREETING"]]
client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1})
got = client.get_function(FunctionName=name)
with urllib.request.urlopen(got["Code"]["Location"]) as link:
    digest = base64.b64encode(hashlib.sha256(link.read()).digest()).decode()
report["code"] = digest == got["Configuration"]["CodeSha256"]
report["tags"] = got["Tags"]


def invoke(**arguments):
    answer = client.invoke(FunctionName=name, Payload=PAYLOAD, LogType="Tail", **arguments)
    return [answer["StatusCode"], answer["ExecutedVersion"], answer["Payload"].read().hex(), answer.get("FunctionError", ""),
        b"START RequestId: " in base64.b64decode(answer["LogResult"])]


report["invoked"] = invoke()
updated = client.update_function_configuration(FunctionName=name, Timeout=9)
report["updated"] = [updated["Timeout"], updated["LastUpdateStatus"]]
client.get_waiter("function_updated_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1})
report["published"] = client.publish_version(FunctionName=name)["Version"]
alias = client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
report["alias"] = [alias["AliasArn"].endswith(f":function:{name}:live"), alias["FunctionVersion"]]
client.get_waiter("published_version_active").wait(FunctionName=name, Qualifier="1", WaiterConfig={"Delay": 1})
report["by alias"] = invoke(Qualifier="live")
report["dry run"] = client.invoke(FunctionName=name, InvocationType="DryRun")["StatusCode"]
client.update_alias(FunctionName=created["FunctionArn"], Name="live", Description="changed")
report["aliases"] = [[a["Name"], a["Description"]] for a in client.list_aliases(FunctionName=name)["Aliases"]]
report["versions"] = [v["Version"] for v in client.list_versions_by_function(FunctionName=name)["Versions"]]
report["listed"] = name in [f["FunctionName"] for page in client.get_paginator("list_functions").paginate(MaxItems=50) for f in page["Functions"]]
client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=5)
report["reserved"] = client.get_function_concurrency(FunctionName=name)["ReservedConcurrentExecutions"]
client.delete_function_concurrency(FunctionName=name)
client.tag_resource(Resource=created["FunctionArn"], Tags={"stage": "x/y+z"})
client.untag_resource(Resource=created["FunctionArn"], TagKeys=["team"])
report["tags now"] = client.list_tags(Resource=created["FunctionArn"])["Tags"]
report["missing"] = fails(client.get_function, FunctionName=name + "-none")
report["missing invoked"] = fails(client.invoke, FunctionName=name, Qualifier="none")
report["taken"] = fails(client.create_alias, FunctionName=name, Name="live", FunctionVersion="1")
report["bad role"] = fails(client.update_function_configuration, FunctionName=name, Role="no role")[:2]
report["account"] = boto3.client("sts").get_caller_identity()["Account"]
deadline = time.monotonic() + 20
while not (events := logs.filter_log_events(logGroupName=f"/aws/lambda/{name}", filterPattern="START")["events"]) and time.monotonic() < deadline:
    time.sleep(0.2)
report["logged"] = bool(events)
client.delete_alias(FunctionName=name, Name="live")
client.delete_function(FunctionName=name)
report["deleted"] = fails(client.get_function_configuration, FunctionName=name)
json.dump(report, sys.stdout)
