package functions

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"lambent"
)

// defaults returns the configuration that a function has where its creator says nothing.
func defaults(name lambent.FunctionName, id lambent.FunctionID) Configuration {
	return Configuration{
		Function:      name,
		ID:            id,
		Version:       lambent.Latest,
		PackageType:   packageZip,
		Architectures: []string{architectureX86},
		Timeout:       defaultTimeout,
		MemoryMiB:     defaultMemoryMiB,
		EphemeralMiB:  defaultEphemeral,
		TracingMode:   "PassThrough",
		SnapStart:     SnapStart{ApplyOn: "None", Optimization: "Off"},
		Logging:       lambent.Logging{Format: lambent.LogText, Group: "/aws/lambda/" + name.Name},
	}
}

// apply puts what a request sets into a configuration. It shares nothing with the request.
func apply(c *Configuration, set Settable) {
	assign(&c.Runtime, set.Runtime)
	assign(&c.Role, set.Role)
	assign(&c.Handler, set.Handler)
	assign(&c.Description, set.Description)
	assign(&c.Timeout, set.Timeout)
	assign(&c.MemoryMiB, set.MemoryMiB)
	assign(&c.EphemeralMiB, set.EphemeralMiB)
	assign(&c.KMSKeyARN, set.KMSKeyARN)
	assign(&c.TracingMode, set.TracingMode)
	assign(&c.SnapStart.ApplyOn, set.SnapStart)
	if set.Environment != nil {
		c.Environment = make(map[string]string, len(*set.Environment))
		maps.Copy(c.Environment, *set.Environment)
	}
	if set.VpcConfig != nil {
		vpc := *set.VpcConfig
		vpc.SubnetIDs = append([]string{}, vpc.SubnetIDs...)
		vpc.SecurityGroupIDs = append([]string{}, vpc.SecurityGroupIDs...)
		c.VpcConfig = &vpc
	}
	if set.DeadLetter != nil {
		c.DeadLetter = nil
		if target := set.DeadLetter.TargetARN; target != "" {
			c.DeadLetter = &DeadLetter{TargetARN: target}
		}
	}
	if set.Logging != nil {
		c.Logging = mergeLogging(c.Logging, *set.Logging)
	}
	c.RuntimeVersionARN = "" // set when it is shown
}

func assign[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// mergeLogging puts what a request sets into a logging configuration. Levels exist in JSON format only.
func mergeLogging(current lambent.Logging, set LoggingConfig) lambent.Logging {
	override := func(to *string, from, initial string) {
		if from != "" {
			*to = from
		}
		if *to == "" {
			*to = initial
		}
	}
	if set.Format != "" {
		current.Format = set.Format
	}
	override(&current.Group, set.Group, "")
	if current.Format != lambent.LogJSON {
		current.ApplicationLevel, current.SystemLevel = "", ""
		return current
	}
	override(&current.ApplicationLevel, set.ApplicationLevel, "INFO")
	override(&current.SystemLevel, set.SystemLevel, "INFO")
	return current
}

// changed gives a version a new content, as of now: the data plane sees a new VersionKey, a client a new RevisionId.
func (v *version) changed(now time.Time) {
	v.LastModified = now.UTC().Truncate(time.Millisecond)
	v.RevisionID = newID()
	v.Content = newID()
}

// pending marks a version as being created.
func (v *version) pending() {
	v.State, v.StateReason, v.StateReasonCode = lambent.StatePending, creatingReason, creatingCode
	v.LastUpdateStatus, v.LastUpdateStatusReason, v.LastUpdateStatusReasonCode = "", "", ""
}

// updating marks a version as being updated. Lambda gives the reason of a creation here, too.
func (v *version) updating() {
	v.LastUpdateStatus, v.LastUpdateStatusReason, v.LastUpdateStatusReasonCode = UpdateInProgress, creatingReason, creatingCode
}

// settled marks a version as usable.
func (v *version) settled() {
	v.State, v.StateReason, v.StateReasonCode = lambent.StateActive, "", ""
	v.LastUpdateStatus, v.LastUpdateStatusReason, v.LastUpdateStatusReasonCode = UpdateSuccessful, "", ""
	v.RevisionID = newID()
}

// failed marks a version whose code is not there.
func (v *version) failed(reason string) {
	if v.State == lambent.StatePending {
		v.State, v.StateReason, v.StateReasonCode = lambent.StateFailed, reason, internalErrorCode
	}
	v.LastUpdateStatus, v.LastUpdateStatusReason, v.LastUpdateStatusReasonCode = UpdateFailed, reason, internalErrorCode
	v.RevisionID = newID()
}

// inFlux tells whether a version waits to be settled.
func (v *version) inFlux() bool {
	return v.State == lambent.StatePending || v.LastUpdateStatus == UpdateInProgress
}

// The states' reasons.
const (
	creatingReason    = "The function is being created."
	creatingCode      = "Creating"
	internalErrorCode = "InternalError"
)

// fingerprint tells apart what PublishVersion must tell apart: code and configuration, not states and dates.
func fingerprint(c Configuration) string {
	c.ARN, c.Version, c.RevisionID, c.LastModified = "", "", "", time.Time{}
	c.State, c.StateReason, c.StateReasonCode = "", "", ""
	c.LastUpdateStatus, c.LastUpdateStatusReason, c.LastUpdateStatusReasonCode = "", "", ""
	text, err := json.Marshal(c)
	if err != nil {
		panic(fmt.Sprintf("functions: encode a configuration: %v", err))
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// show returns a version as an operation on one version answers it.
func (s *Service) show(fn lambent.FunctionName, v version, qualifier string) *Configuration {
	c := v.Configuration
	c.ARN = s.arn(fn, qualifier)
	c.RuntimeVersionARN = s.runtimeVersionARN(c.Runtime)
	c.Architectures = slices.Clone(c.Architectures)
	return &c
}

// showListed returns a version as lists answer it: without its state and its runtime's version.
func (s *Service) showListed(fn lambent.FunctionName, v version, qualifier string) Configuration {
	c := v.Configuration
	c.ARN = s.arn(fn, qualifier)
	c.State, c.StateReason, c.StateReasonCode = "", "", ""
	c.LastUpdateStatus, c.LastUpdateStatusReason, c.LastUpdateStatusReasonCode = "", "", ""
	return c
}

// runtimeVersionARN names the one version that each runtime has here.
func (s *Service) runtimeVersionARN(runtime string) string {
	sum := sha256.Sum256([]byte("lambent runtime " + runtime))
	return "arn:aws:lambda:" + s.options.Region + "::runtime:" + hex.EncodeToString(sum[:])
}

// dataPlane returns a version as the data plane needs it.
func dataPlane(fn lambent.FunctionName, id lambent.FunctionID, region string, isolation lambent.Isolation, v version) *lambent.FunctionVersion {
	return &lambent.FunctionVersion{
		FunctionName: fn,
		Key:          lambent.VersionKey{Function: id, Version: v.Version, Revision: revision(v.Content, isolation)},
		ARN:          fn.ARN(region),
		Runtime:      v.Runtime,
		Architecture: v.Architectures[0],
		Handler:      v.Handler,
		Role:         v.Role,
		MemoryMiB:    v.MemoryMiB,
		EphemeralMiB: v.EphemeralMiB,
		Timeout:      v.Timeout,
		Environment:  v.Environment,
		Code:         v.Code,
		Logging:      v.Logging,
		Isolation:    isolation,
		PerTenant:    v.TenantIsolation != "",
		State:        v.State,
	}
}
