package api

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"lambent"
)

// rule is what Lambda's model asks of a text. Zero members ask nothing.
type rule struct {
	least, most int            // characters
	pattern     *regexp.Regexp // of the whole text
	shown       string         // the pattern as Lambda says it; "": as it is
	not         *regexp.Regexp // what shown excludes by looking ahead, which regexp cannot
	enum        []string
}

func whole(pattern string) *regexp.Regexp { return regexp.MustCompile(`^(?:` + pattern + `)$`) }

const (
	arnPrefix    = `(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?`
	namePattern  = arnPrefix + `([a-zA-Z0-9-_]+)(:(\$LATEST|[a-zA-Z0-9-_]+))?`
	taggable     = `arn:(aws[a-zA-Z-]*):lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:(function:[a-zA-Z0-9-_]+(:(\$LATEST|[a-zA-Z0-9-_]+))?|code-signing-config:csc-[a-z0-9]{17}|event-source-mapping:[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|capacity-provider:[a-zA-Z0-9-_]{1,64})`
	aliasShown   = `(?!^[0-9]+$)([a-zA-Z0-9-_]+)`
	anyARN       = `(arn:(aws[a-zA-Z-]*)?:[a-z0-9-.]+:.*)|()`
	anyQualifier = `\$(LATEST(\.PUBLISHED)?)|[a-zA-Z0-9-_$]+`
)

// rules are the constraints of Lambda's model by the names that its errors give to members.
var rules = map[string]rule{
	"functionName":                      {least: 1, most: 140, pattern: whole(namePattern)},
	"qualifier":                         {least: 1, most: 128, pattern: whole(anyQualifier)},
	"name":                              {least: 1, most: 128, pattern: whole(`[a-zA-Z0-9-_]+`), shown: aliasShown, not: whole(`[0-9]+`)},
	"functionVersion":                   {least: 1, most: 1024, pattern: whole(`\$LATEST(\.PUBLISHED)?|[0-9]+`), shown: `(\$LATEST(\.PUBLISHED)?|[0-9]+)`},
	"role":                              {most: 10_000, pattern: whole(`arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+`)},
	"handler":                           {most: 128, pattern: whole(`[^\s]+`)},
	"description":                       {most: 256},
	"kMSKeyArn":                         {most: 10_000, pattern: whole(anyARN)},
	"deadLetterConfig.targetArn":        {most: 10_000, pattern: whole(anyARN)},
	"packageType":                       {enum: []string{"Zip", "Image"}},
	"tracingConfig.mode":                {enum: []string{"Active", "PassThrough"}},
	"snapStart.applyOn":                 {enum: []string{"PublishedVersions", "None"}},
	"loggingConfig.logFormat":           {enum: []string{"JSON", "Text"}},
	"loggingConfig.applicationLogLevel": {enum: []string{"TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"}},
	"loggingConfig.systemLogLevel":      {enum: []string{"DEBUG", "INFO", "WARN"}},
	"loggingConfig.logGroup":            {least: 1, most: 512, pattern: whole(`[\.\-_/#A-Za-z0-9]+`)},
	"invocationType":                    {enum: []string{"Event", "RequestResponse", "DryRun"}},
	"logType":                           {enum: []string{"None", "Tail"}},
	"tenantId":                          {least: 1, most: 256, pattern: whole(`[a-zA-Z0-9\._:\/=+\-@ ]+`)},
}

// ranges are the least and the most that numbers may be.
var ranges = map[string][2]int{
	"timeout":                      {1, 900},
	"memorySize":                   {128, 10_240},
	"ephemeralStorage.size":        {512, 10_240},
	"reservedConcurrentExecutions": {0, 1<<31 - 1},
	"maxItems":                     {1, 10_000},
}

var variableName = whole(`[a-zA-Z]([a-zA-Z0-9_])+`)

// violations are the constraints that a request does not meet.
type violations []string

func (v *violations) add(value, member, constraint string) {
	*v = append(*v, "Value "+value+" at '"+member+"' failed to satisfy constraint: "+constraint)
}

// maxShown is how many bytes of a value a message repeats.
const maxShown = 4 << 10

func clip(value string) string {
	if len(value) <= maxShown {
		return value
	}
	return strings.ToValidUTF8(value[:maxShown], "") + "..."
}

// text judges a member that may be absent.
func (v *violations) text(member string, value *string) {
	if value == nil {
		return
	}
	r, quoted := rules[member], "'"+clip(*value)+"'"
	if r.enum != nil && !slices.Contains(r.enum, *value) {
		v.add(quoted, member, "Member must satisfy enum value set: ["+strings.Join(r.enum, ", ")+"]")
	}
	if r.pattern != nil && (!r.pattern.MatchString(*value) || r.not != nil && r.not.MatchString(*value)) {
		shown := r.shown
		if shown == "" {
			shown = strings.TrimSuffix(strings.TrimPrefix(r.pattern.String(), "^(?:"), ")$")
		}
		v.add(quoted, member, "Member must satisfy regular expression pattern: "+shown)
	}
	switch length := utf8.RuneCountInString(*value); {
	case r.most > 0 && length > r.most:
		v.add(quoted, member, "Member must have length less than or equal to "+strconv.Itoa(r.most))
	case length < r.least:
		v.add(quoted, member, "Member must have length greater than or equal to "+strconv.Itoa(r.least))
	}
}

// given is text for a member whose absence cannot be told from its being empty.
func (v *violations) given(member, value string) {
	if value != "" {
		v.text(member, &value)
	}
}

// required is text for a member that has to be there.
func (v *violations) required(member string, value *string) {
	v.present(member, value != nil)
	v.text(member, value)
}

func (v *violations) present(member string, present bool) {
	if !present {
		v.add("null", member, "Member must not be null")
	}
}

// number judges a number that may be absent.
func (v *violations) number(member string, value *int) {
	if value == nil {
		return
	}
	switch bounds := ranges[member]; {
	case *value < bounds[0]:
		v.add("'"+strconv.Itoa(*value)+"'", member, "Member must have value greater than or equal to "+strconv.Itoa(bounds[0]))
	case *value > bounds[1]:
		v.add("'"+strconv.Itoa(*value)+"'", member, "Member must have value less than or equal to "+strconv.Itoa(bounds[1]))
	}
}

// variables judges the names of environment variables. Their values are secrets and are not shown.
func (v *violations) variables(environment map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(environment)) {
		if !variableName.MatchString(name) && !strings.HasPrefix(name, "_") { // Lambda's own begin so, and have their own error
			v.add("'{"+name+"=***}'", "environment.variables",
				"Map keys must satisfy constraint: [Member must satisfy regular expression pattern: [a-zA-Z]([a-zA-Z0-9_])+, Member must not be null]")
		}
	}
}

// err is Lambda's error for all violations, nil if there is none.
func (v violations) err() error {
	if len(v) == 0 {
		return nil
	}
	noun := " validation error detected: "
	if len(v) > 1 {
		noun = " validation errors detected: "
	}
	return &lambent.Error{Code: lambent.Validation, Message: strconv.Itoa(len(v)) + noun + strings.Join(v, "; ")}
}

// settable judges what CreateFunction and UpdateFunctionConfiguration share.
func (v *violations) settable(s *settable) {
	v.text("handler", s.Handler)
	v.text("description", s.Description)
	v.number("timeout", s.Timeout)
	v.number("memorySize", s.MemorySize)
	v.text("kMSKeyArn", s.KMSKeyArn)
	if s.EphemeralStorage != nil {
		v.present("ephemeralStorage.size", s.EphemeralStorage.Size != nil)
		v.number("ephemeralStorage.size", s.EphemeralStorage.Size)
	}
	if s.Environment != nil {
		v.variables(s.Environment.Variables)
	}
	if s.DeadLetterConfig != nil {
		v.given("deadLetterConfig.targetArn", s.DeadLetterConfig.TargetArn)
	}
	if s.TracingConfig != nil {
		v.given("tracingConfig.mode", s.TracingConfig.Mode)
	}
	if s.SnapStart != nil {
		v.given("snapStart.applyOn", s.SnapStart.ApplyOn)
	}
	if l := s.LoggingConfig; l != nil {
		v.given("loggingConfig.logFormat", l.LogFormat)
		v.given("loggingConfig.applicationLogLevel", l.ApplicationLogLevel)
		v.given("loggingConfig.systemLogLevel", l.SystemLogLevel)
		v.given("loggingConfig.logGroup", l.LogGroup)
	}
}
