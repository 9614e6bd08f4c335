package runtimes

import (
	"strings"
	"testing"

	"lambent"
)

// A function that isolates tenants finds the tenant in its context, and in each line of a structured log.
func TestTenant(t *testing.T) {
	for language, code := range map[string]map[string]string{
		"python": {"app.py": "import logging\ndef handler(event, context):\n    logging.getLogger().error('line')\n    return context.tenant_id\n"},
		"nodejs": {"app.js": "exports.handler = async (event, context) => { console.error('line'); return context.tenantId; };"},
	} {
		r, found := openRegistry(t, language)
		for _, name := range found {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p := start(t, r, function{runtime: name, handler: "app.handler", files: code, logging: lambent.Logging{Format: lambent.LogJSON}})
				for _, c := range []struct{ tenant, answer string }{{"blue", `"blue"`}, {"", "null"}} {
					e := event{body: "{}"}
					if c.tenant != "" {
						e.header = map[string]string{"Lambda-Runtime-Aws-Tenant-Id": c.tenant}
					}
					if got := p.invoke(t, e); got.body != c.answer {
						t.Errorf("tenant %q: %+v", c.tenant, got)
					}
				}
				lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(p.stop(), `": "`, `":"`)), "\n")
				if len(lines) != 2 || !strings.Contains(lines[0], `"tenantId":"blue"`) || strings.Contains(lines[1], "tenant") {
					t.Errorf("the log is %q", lines)
				}
			})
		}
	}
}
