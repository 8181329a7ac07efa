package questionnaire

import (
	"os"
	"path/filepath"
	"testing"
)

// TestDemoInstruments: what the demonstration study publishes is publishable.
func TestDemoInstruments(t *testing.T) {
	files, err := filepath.Glob("../../cmd/eprod/demo/*.json")
	if err != nil || len(files) != 3 {
		t.Fatalf("%v %v, want three instruments", files, err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		d, findings := Compile(raw, DefaultLimits())
		if len(findings) > 0 {
			t.Errorf("%s: %+v", file, findings)
			continue
		}
		if d.Canonical() == "|" || len(d.items) < 8 {
			t.Errorf("%s: %s with %d items", file, d.Canonical(), len(d.items))
		}
	}
}
