package runtimes

import (
	"os"
	"testing"
)

// A distribution's Python is spread over /usr; functions see it at /var/lang all the same.
func TestDistributionPythonInside(t *testing.T) {
	for _, variable := range []string{"PYENV_ROOT", "UV_PYTHON_INSTALL_DIR", "ASDF_DATA_DIR", "MISE_DATA_DIR"} {
		t.Setenv(variable, t.TempDir())
	}
	if _, err := os.Stat("/usr/bin/python3"); err != nil {
		t.Skip("this host has no /usr/bin/python3")
	}
	r, err := Open(Options{Dir: t.TempDir(), Path: "/usr/bin", Home: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	tested := 0
	for _, found := range r.interpreters {
		if language(found.Name) != "python" || found.Mounts[0].Target == langDir {
			continue
		}
		tested++
		code := "import ssl, ctypes, sqlite3, sys\ndef handler(e, c): return [sys.prefix, ssl.__file__]"
		p := startInside(t, r, function{runtime: found.Name, handler: "app.handler", files: map[string]string{"app.py": code}})
		want := `["/var/lang", "/var/lang/lib/python` + majorMinor(found.Version) + `/ssl.py"]`
		if got := p.invoke(t, event{body: `{}`}); got != respond(want) {
			t.Errorf("got %s\n%s", got.body, p.stop())
		}
	}
	if tested == 0 {
		t.Error("/usr/bin/python3 was not found")
	}
}
