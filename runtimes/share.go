package runtimes

import (
	"encoding/json"
	"fmt"

	"lambent/sandbox"
)

// shared is a Registry as JSON: for a process that cannot look at the host as the one that opened the registry can.
type shared struct {
	Region       string
	Base         []sandbox.Mount
	Interpreters map[string]interpreter
}

// MarshalJSON implements json.Marshaler.
func (r *Registry) MarshalJSON() ([]byte, error) {
	return json.Marshal(shared{r.region, r.base, r.interpreters})
}

// UnmarshalJSON implements json.Unmarshaler. The text is MarshalJSON's, of the same version of this program.
func (r *Registry) UnmarshalJSON(text []byte) error {
	var s shared
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("read the runtimes: %w", err)
	}
	r.region, r.base, r.interpreters = s.Region, s.Base, s.Interpreters
	return nil
}

// Sources lists every path of the host that Launch may ask to have mounted.
func (r *Registry) Sources() []string {
	var all []string
	for _, found := range r.interpreters {
		all = append(all, found.Bootstrap)
		for _, mount := range found.Mounts {
			all = append(all, mount.Source)
		}
	}
	return all
}
