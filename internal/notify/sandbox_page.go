package notify

import (
	_ "embed" // for the page
	"html/template"
	"maps"
	"net/http"
	"slices"
)

//go:embed sandbox.html
var sandboxPage string

// page shows what the sandbox does and has taken. It needs nothing but itself.
func (s *Sandbox) page(w http.ResponseWriter, _ *http.Request) {
	page, err := template.New("sandbox").Parse(sandboxPage)
	if err != nil {
		http.Error(w, "the page is broken", http.StatusInternalServerError)
		return
	}
	orders := s.behaviour()
	var sorted []SandboxCommand
	for _, name := range slices.Sorted(maps.Keys(orders)) {
		sorted = append(sorted, orders[name])
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'")
	view := map[string]any{"Orders": sorted, "Inbox": s.Inbox(), "Modes": []string{ModeNormal, ModeThrottle, ModeHang, ModeFail, ModeGarbage}}
	if err := page.Execute(w, view); err != nil {
		s.log.Debug("sandbox: the page was not read to its end", "error", err)
	}
}
