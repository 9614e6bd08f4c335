package api_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// step is a request whose answer AWS gave, too: under the key of a recorded case.
type step struct {
	key, method, target string
	body                any
	settle              bool // wait until the function is active afterwards
}

const (
	recordedFunction = "fn"
	functionPath     = create + "/" + recordedFunction
	configuration    = functionPath + "/configuration"
	versions         = functionPath + "/versions"
	aliases          = functionPath + "/aliases"
	tags             = "/2017-03-31/tags/" + arnBase + recordedFunction
	concurrency      = "/functions/" + recordedFunction + "/concurrency"
)

// creationOf is a CreateFunction request of the recorded functions.
func creationOf(t *testing.T, changes map[string]any) map[string]any {
	body := map[string]any{"FunctionName": recordedFunction, "Runtime": "python3.12", "Handler": "handler.handler", "Role": role,
		"Code": map[string]any{"ZipFile": archive(t, "recorded")}, "Timeout": 30, "Environment": map[string]any{"Variables": map[string]string{}}}
	maps.Copy(body, changes)
	for name, value := range changes {
		if value == nil {
			delete(body, name)
		}
	}
	return body
}

type object = map[string]any

// recordedCases are the requests of recorded cases, as far as their answers tell what was asked.
func recordedCases(t *testing.T) map[string][]step {
	settled := func(changes map[string]any) step { return step{"", "POST", create, creationOf(t, changes), true} }
	mismatch := arnBase + "some-function:$LATEST"
	return map[string][]step{
		"TestLambdaFunction::test_function_lifecycle": {
			{"create_response", "POST", create, creationOf(t, object{"Timeout": 5, "MemorySize": 256}), true},
			{"get_function_response", "GET", functionPath, nil, false},
			{"update_func_conf_response", "PUT", configuration, object{"Runtime": "python3.11", "Description": "Changed-Description", "MemorySize": 512, "Timeout": 10,
				"Environment": object{"Variables": object{"ENV_A": "a"}}}, true},
			{"get_function_response_postupdate", "GET", functionPath, nil, false},
			{"update_code_response", "PUT", functionPath + "/code", object{"ZipFile": archive(t, "changed")}, true},
			{"get_function_response_postcodeupdate", "GET", functionPath, nil, false},
			{"delete_response", "DELETE", functionPath, nil, false},
			{"delete_postdelete", "DELETE", functionPath, nil, false},
		},
		"TestLambdaFunction::test_redundant_updates": {
			{"create_response", "POST", create, creationOf(t, object{"Description": "Initial description"}), true},
			{"first_update_result", "PUT", configuration, object{"Description": "1st update description"}, true},
			{"get_fn_config_result", "GET", configuration, nil, false},
			{"get_fn_result", "GET", functionPath, nil, false},
			{"redundant_update_result", "PUT", configuration, object{"Description": "1st update description"}, true},
			{"get_fn_result_after_redundant_update", "GET", functionPath, nil, false},
		},
		"TestLambdaFunction::test_list_functions":                                               {{"list_functions_invalid_functionversion", "GET", create + "?FunctionVersion=invalid", nil, false}},
		"TestLambdaFunction::test_ops_on_nonexisting_version[get_function]":                     {settled(nil), {"version_not_found_exception", "GET", functionPath + "?Qualifier=1221", nil, false}},
		"TestLambdaFunction::test_ops_on_nonexisting_version[get_function_configuration]":       {settled(nil), {"version_not_found_exception", "GET", configuration + "?Qualifier=1221", nil, false}},
		"TestLambdaFunction::test_ops_on_nonexisting_version[get_function_event_invoke_config]": {settled(nil), {"version_not_found_exception", "GET", "/2019-09-25/functions/fn/event-invoke-config?Qualifier=1221", nil, false}},
		"TestLambdaFunction::test_ops_with_arn_qualifier_mismatch[delete_function]": {
			{"not_match_exception", "DELETE", create + "/" + mismatch + "?Qualifier=1", nil, false}, {"match_exception", "DELETE", create + "/" + mismatch + "?Qualifier=%24LATEST", nil, false}},
		"TestLambdaFunction::test_ops_with_arn_qualifier_mismatch[get_function]": {
			{"not_match_exception", "GET", create + "/" + mismatch + "?Qualifier=1", nil, false}, {"match_exception", "GET", create + "/" + mismatch + "?Qualifier=%24LATEST", nil, false}},
		"TestLambdaFunction::test_ops_with_arn_qualifier_mismatch[get_function_configuration]": {
			{"not_match_exception", "GET", create + "/" + mismatch + "/configuration?Qualifier=1", nil, false},
			{"match_exception", "GET", create + "/" + mismatch + "/configuration?Qualifier=%24LATEST", nil, false}},
		"TestLambdaVersions::test_version_lifecycle": {
			{"create_response", "POST", create, creationOf(t, object{"Handler": "index.handler", "Description": "No version :(", "Timeout": nil, "Environment": nil}), true},
			{"get_function_result", "GET", functionPath, nil, false},
			{"list_versions_result", "GET", versions, nil, false},
			{"first_update_response", "PUT", configuration, object{"Description": "First version :)"}, true},
			{"first_update_get_function", "GET", functionPath, nil, false},
			{"first_publish_response", "POST", versions, object{"Description": "First version description :)"}, false},
			{"first_publish_get_function", "GET", functionPath + "?Qualifier=1", nil, false},
			{"first_publish_get_function_config", "GET", configuration + "?Qualifier=1", nil, false},
			{"second_update_response", "PUT", configuration, object{"Description": "Second version :))"}, true},
			{"first_publish_get_function_after_update", "GET", functionPath + "?Qualifier=1", nil, false},
			{"second_publish_response", "POST", versions, object{}, false},
			{"third_publish_response", "POST", versions, object{"Description": "Third version description :)))"}, false},
			{"list_versions_result_after_third_publish", "GET", versions, nil, false},
			{"", "DELETE", functionPath + "?Qualifier=1", nil, false},
			{"list_versions_result_after_deletion_of_first_version", "GET", versions, nil, false},
		},
		"TestLambdaAlias::test_alias_lifecycle": {
			settled(object{"Handler": "index.handler", "Environment": object{"Variables": object{"testenv": "staging"}}}),
			{"", "POST", versions, object{}, false}, {"", "PUT", configuration, object{"Description": "two"}, true}, {"", "POST", versions, object{}, false},
			{"create_alias_1_1", "POST", aliases, object{"Name": "aliasname1_1", "FunctionVersion": "1", "Description": "custom-alias", "RoutingConfig": object{"AdditionalVersionWeights": object{"2": 0.2}}}, false},
			{"create_alias_1_2", "POST", aliases, object{"Name": "aliasname1_2", "FunctionVersion": "1", "Description": "custom-alias"}, false},
			{"create_alias_1_3", "POST", aliases, object{"Name": "aliasname1_3", "FunctionVersion": "1"}, false},
			{"create_alias_2", "POST", aliases, object{"Name": "aliasname2", "FunctionVersion": "2", "Description": "custom-alias"}, false},
			{"get_alias_1_1", "GET", aliases + "/aliasname1_1", nil, false},
			{"", "PUT", aliases + "/aliasname1_1", object{"RoutingConfig": object{"AdditionalVersionWeights": object{}}}, false},
			{"get_alias_1_1_after_update", "GET", aliases + "/aliasname1_1", nil, false},
			{"get_function_alias_notfound_exc", "GET", functionPath + "?Qualifier=aliasdoesnotexist", nil, false},
			{"get_function_alias_byarn_notfound_exc", "GET", create + "/" + arnBase + "fn:aliasdoesnotexist", nil, false},
			{"delete_alias_response", "DELETE", aliases + "/aliasname1_1", nil, false},
		},
		"TestLambdaTags::test_tag_lifecycle": {
			settled(object{"Tags": object{"key_a": "value_a"}}),
			{"get_fn_response_postfncreate", "GET", functionPath, nil, false},
			{"list_tags_response_postfncreate", "GET", tags, nil, false},
			{"tag_resource_response", "POST", tags, object{"Tags": object{"key_b": "value_b", "key_c": "value_c", "key_d": "value_d", "key_e": "value_e"}}, false},
			{"list_tags_response_postaddtags", "GET", tags, nil, false},
			{"get_fn_response_postaddtags", "GET", functionPath, nil, false},
			{"tag_resource_overwrite", "POST", tags, object{"Tags": object{"key_c": "value_x"}}, false},
			{"list_tags_response_overwrite", "GET", tags, nil, false},
			{"", "DELETE", tags + "?tagKeys=key_c&tagKeys=key_d", nil, false},
			{"list_tags_response_postuntag", "GET", tags, nil, false},
			{"", "DELETE", tags + "?tagKeys=key_a&tagKeys=key_b&tagKeys=key_e", nil, false},
			{"list_tags_response_postuntagall", "GET", tags, nil, false},
			{"get_fn_response_postuntagall", "GET", functionPath, nil, false},
			{"", "DELETE", functionPath, nil, false},
			{"list_tags_postdelete", "GET", tags, nil, false},
		},
		"TestLambdaTags::test_tag_versions": {
			{"tag_resource_exception", "POST", tags + ":1", object{"Tags": object{"key_a": "value_a"}}, false},
			{"tag_resource_latest_exception", "POST", tags + ":$LATEST", object{"Tags": object{"key_a": "value_a"}}, false},
		},
		"TestLambdaReservedConcurrency::test_function_concurrency": {
			settled(nil),
			{"put_function_concurrency_with_reserved_0", "PUT", "/2017-10-31" + concurrency, object{"ReservedConcurrentExecutions": 0}, false},
			{"put_function_concurrency_with_reserved_1", "PUT", "/2017-10-31" + concurrency, object{"ReservedConcurrentExecutions": 1}, false},
			{"get_function_concurrency", "GET", "/2019-09-30" + concurrency, nil, false},
			{"delete_response", "DELETE", "/2017-10-31" + concurrency, nil, false},
			{"get_function_concurrency_after_delete", "GET", "/2019-09-30" + concurrency, nil, false},
		},
		"TestLambdaRecursion::test_put_function_recursion_config_default_terminate": {settled(nil), {"get_recursion_default_terminate_response", "GET", "/2024-08-31/functions/fn/recursion-config", nil, false}},
		"TestLambdaRecursion::test_put_function_recursion_config_invalid_value":     {{"put_recursion_invalid_value_error", "PUT", "/2024-08-31/functions/fn/recursion-config", object{"RecursiveLoop": "InvalidValue"}, false}},
		"TestCodeSigningConfig::test_code_signing_not_found_excs": {
			settled(nil), {"get_function_csc_fnwithoutcsc", "GET", "/2020-06-30/functions/fn/code-signing-config", nil, false},
			{"get_function_csc_nonexistingfn", "GET", "/2020-06-30/functions/csc-test-doesnotexist/code-signing-config", nil, false}},
		"TestLambdaPermissions::test_permission_exceptions": {
			{"get_policy_fn_doesnotexist", "GET", functionPath + "/policy", nil, false},
			{"add_permission_invalid_statement_id", "POST", functionPath + "/policy", object{"StatementId": "example.com", "Action": "lambda:InvokeFunction", "Principal": "p"}, false},
			{"add_permission_fn_qualifier_invalid", "POST", functionPath + "/policy?Qualifier=invalid-qualifier-with-%3F-char", object{"StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": "p"}, false}},
		"TestLambdaEventSourceMappings::test_create_event_source_validation": {
			{"invalid_starting_position", "POST", "/2015-03-31/event-source-mappings", object{"FunctionName": "fn", "StartingPosition": "invalid", "EventSourceArn": "arn:aws:sqs:eu-central-1:123456789012:q"}, false}},
		"TestLambdaUrl::test_url_config_list_paging":     {{"list_function_notfound", "GET", "/2021-10-31/functions/fn/urls", nil, false}},
		"TestLambdaSnapStart::test_snapstart_exceptions": {{"create_function_invalid_snapstart_apply", "POST", create, creationOf(t, object{"SnapStart": object{"ApplyOn": "invalidOption"}}), false}},
	}
}

// What AWS answered to the same requests: the same members, and the same values where those do not vary.
func TestRecordedAnswers(t *testing.T) {
	dir := os.Getenv("LAMBENT_AWS_RECORDED")
	if dir == "" {
		t.Skip("SKIP: LAMBENT_AWS_RECORDED does not name a directory with recorded answers of AWS")
	}
	text, err := os.ReadFile(filepath.Join(dir, "api.json"))
	if err != nil {
		t.Fatal(err)
	}
	var recorded map[string]map[string]any
	if err := json.Unmarshal(text, &recorded); err != nil {
		t.Fatal(err)
	}
	for name, steps := range recordedCases(t) {
		t.Run(strings.TrimPrefix(name, "Test"), func(t *testing.T) {
			b := newBench(t)
			answers := recorded["test_lambda_api::"+name]
			if answers == nil {
				t.Fatal("there is no such case")
			}
			for _, s := range steps {
				b.replay(t, s, answers)
			}
		})
	}
}

// replay sends a step's request and compares the answer.
func (b *bench) replay(t *testing.T, s step, answers map[string]any) {
	t.Helper()
	var body []byte
	if s.body != nil {
		var err error
		if body, err = json.Marshal(s.body); err != nil {
			t.Fatal(err)
		}
	}
	got := b.do(b.request(s.method, s.target, body))
	if s.settle {
		b.wait(recordedFunction)
	}
	if s.key == "" {
		if got.status >= 300 {
			t.Errorf("%s %s: %+v", s.method, s.target, got)
		}
		return
	}
	want, ok := answers[s.key].(object)
	if !ok {
		t.Fatalf("%s is not recorded", s.key)
	}
	if inner, ok := want["CreateFunctionResponse"].(object); ok {
		want = inner
	}
	members := object{}
	if got.body != "" {
		if err := json.Unmarshal([]byte(got.body), &members); err != nil {
			t.Fatalf("%s: %v: %s", s.key, err, got.body)
		}
	}
	for _, difference := range compareAnswer(want, members, got) {
		t.Errorf("%s: %s", s.key, difference)
	}
}

// compareAnswer compares an answer with a recorded one, as botocore shows it: with the status and, of errors, name and message.
func compareAnswer(want, members object, got reply) (differences []string) {
	if status := want["ResponseMetadata"].(object)["HTTPStatusCode"]; fmt.Sprint(status) != fmt.Sprint(got.status) {
		differences = append(differences, fmt.Sprintf("status %d, recorded %v", got.status, status))
	}
	expected := maps.Clone(want)
	delete(expected, "ResponseMetadata")
	delete(expected, "StatusCode") // botocore's copy of the status
	if failure, ok := want["Error"].(object); ok {
		delete(expected, "Error")
		if failure["Code"] != got.kind {
			differences = append(differences, fmt.Sprintf("error %s, recorded %v", got.kind, failure["Code"]))
		}
		if len(expected) == 0 { // the model has no such error: botocore does not show its members
			for _, name := range []string{"Message", "message"} {
				if members[name] != nil {
					expected[name] = failure["Message"]
				}
			}
		}
	}
	return append(differences, differ("", expected, members)...)
}

var placeholder = regexp.MustCompile(`<[^<>]+>`)

// differ lists in what two values differ, apart from what varies.
func differ(at string, want, got any) []string {
	switch want := want.(type) {
	case object:
		members, ok := got.(object)
		if !ok {
			return []string{fmt.Sprintf("%s is %v, recorded %v", at, got, want)}
		}
		var list []string
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if _, ok := members[name]; !ok {
				list = append(list, fmt.Sprintf("%s.%s is missing, recorded %v", at, name, want[name]))
				continue
			}
			list = append(list, differ(at+"."+name, want[name], members[name])...)
		}
		for _, name := range slices.Sorted(maps.Keys(members)) {
			if _, ok := want[name]; !ok {
				list = append(list, fmt.Sprintf("%s.%s is %v, not recorded", at, name, members[name]))
			}
		}
		return list
	case []any:
		items, ok := got.([]any)
		if !ok || len(items) != len(want) {
			return []string{fmt.Sprintf("%s is %v, recorded %v", at, got, want)}
		}
		var list []string
		for i := range want {
			list = append(list, differ(fmt.Sprintf("%s[%d]", at, i), want[i], items[i])...)
		}
		return list
	case string:
		if want == "date" {
			return nil
		}
		parts := placeholder.Split(strings.ReplaceAll(want, "111111111111", account), -1)
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		if !regexp.MustCompile(`^(?s:` + strings.Join(parts, `.+`) + `)$`).MatchString(fmt.Sprint(got)) {
			return []string{fmt.Sprintf("%s is %v, recorded %s", at, got, want)}
		}
		return nil
	}
	if fmt.Sprint(want) != fmt.Sprint(got) {
		return []string{fmt.Sprintf("%s is %v, recorded %v", at, got, want)}
	}
	return nil
}
