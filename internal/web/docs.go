package web

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"
	"github.com/swaggest/swgui/v5/static"
)

// problemSchema describes Problem. It is written by hand because a problem is open to further members.
func problemSchema() *huma.Schema {
	text := func(doc string) *huma.Schema { return &huma.Schema{Type: huma.TypeString, Description: doc} }
	return &huma.Schema{
		Type:                 huma.TypeObject,
		Description:          "RFC 9457 problem details",
		AdditionalProperties: true,
		Required:             []string{"type", "title", "status", "detail", "code", "requestId"},
		Properties: map[string]*huma.Schema{
			"type":      text("about:blank; code tells the kind"),
			"title":     text("the words of the status"),
			"status":    {Type: huma.TypeInteger, Description: "the HTTP status"},
			"detail":    text("for people: what is wrong and what would be right"),
			"code":      text("stable word to branch on"),
			"requestId": text("for the operators' logs"),
			"errors": {Type: huma.TypeArray, Description: "every broken rule", Items: &huma.Schema{
				Type:     huma.TypeObject,
				Required: []string{"code", "detail"},
				Properties: map[string]*huma.Schema{
					"pointer":    text("RFC 6901 pointer into the request body"),
					"linkId":     text("the questionnaire item"),
					"expression": text("FHIRPath of the element"),
					"code":       text("stable word to branch on"),
					"detail":     text("what is wrong and what would be right"),
				},
			}},
		},
	}
}

// schemaName names a type by package and name, since two contexts may each have a "createRequest". Anonymous types get huma's hint.
func schemaName(t reflect.Type, hint string) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	name := t.Name()
	if name == "" {
		return title(hint)
	}
	if pkg := t.PkgPath(); pkg != "" {
		name = pkg + "." + name
	}
	var b strings.Builder
	for part := range strings.FieldsFuncSeq(name, func(r rune) bool { return strings.ContainsRune("[]*, ", r) }) {
		part = part[strings.LastIndexByte(part, '/')+1:]
		for piece := range strings.SplitSeq(part, ".") {
			b.WriteString(title(piece))
		}
	}
	return b.String()
}

func title(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// The API document and the page that shows it.
const (
	openAPIPath = "/api/v1/openapi.json"
	docsPath    = "/docs"
)

// docsPolicy lets the page load its own files and nothing else: no inline script, no other host.
const docsPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

const docsPage = `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>eprod API</title><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="` + docsPath + `/swagger-ui.css"><link rel="icon" href="` + docsPath + `/favicon-32x32.png"></head>
<body><div id="swagger-ui"></div>
<script src="` + docsPath + `/swagger-ui-bundle.js"></script><script src="` + docsPath + `/init.js"></script></body>
</html>
`

// docsScript starts Swagger UI without its online validator.
const docsScript = `SwaggerUIBundle({url: "` + openAPIPath + `", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis], layout: "BaseLayout"});
`

// addDocs serves the API document, written once when it is first asked for, and Swagger UI from embedded files.
func (s *Server) addDocs() {
	document := sync.OnceValues(func() ([]byte, error) {
		schemas := s.api.OpenAPI().Components.Schemas.Map()
		for _, unused := range []reflect.Type{reflect.TypeFor[huma.ErrorModel](), reflect.TypeFor[huma.ErrorDetail]()} {
			delete(schemas, schemaName(unused, "")) // huma adds its own form of error although no operation refers to it
		}
		return json.Marshal(s.api.OpenAPI())
	})
	s.engine.GET(openAPIPath, func(c *gin.Context) {
		body, err := document()
		if err != nil {
			WriteProblem(c, fmt.Errorf("write the API document: %w", err))
			return
		}
		c.Data(http.StatusOK, "application/openapi+json", body)
	})
	s.engine.GET(docsPath, func(c *gin.Context) {
		c.Header("Content-Security-Policy", docsPolicy)
		c.Data(http.StatusOK, "text/html; charset=utf-8", []byte(docsPage))
	})
	s.engine.GET(docsPath+"/:file", func(c *gin.Context) {
		c.Header("Content-Security-Policy", docsPolicy)
		serveDocsFile(c, c.Param("file"))
	})
}

func serveDocsFile(c *gin.Context, name string) {
	var file, kind string
	switch name {
	case "init.js":
		c.Data(http.StatusOK, "text/javascript; charset=utf-8", []byte(docsScript))
		return
	case "swagger-ui-bundle.js":
		file, kind = name+".gz", "text/javascript; charset=utf-8"
	case "swagger-ui.css":
		file, kind = name+".gz", "text/css; charset=utf-8"
	case "favicon-32x32.png":
		file, kind = name, "image/png"
	default:
		writeStatus(c, http.StatusNotFound, "not_found", "there is nothing at this path")
		return
	}
	content, err := static.FS.ReadFile(file)
	if err != nil {
		WriteProblem(c, fmt.Errorf("embedded file %s: %w", file, err))
		return
	}
	c.Header("Cache-Control", "public, max-age=3600")
	if strings.HasSuffix(file, ".gz") {
		c.Header("Vary", "Accept-Encoding")
		if strings.Contains(c.GetHeader("Accept-Encoding"), "gzip") {
			c.Header("Content-Encoding", "gzip")
		} else if content, err = gunzip(content); err != nil {
			WriteProblem(c, fmt.Errorf("embedded file %s: %w", file, err))
			return
		}
	}
	c.Data(http.StatusOK, kind, content)
}

func gunzip(b []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(r, 16<<20))
}

// CheckDocument holds the API document against the routes: every route has its operation and every operation its route. The document's
// own routes are left out. For a test of the whole program.
func (s *Server) CheckDocument() error {
	documented := map[routeID]bool{}
	for path, item := range s.api.OpenAPI().Paths {
		for method, op := range map[string]*huma.Operation{http.MethodGet: item.Get, http.MethodPut: item.Put, http.MethodPost: item.Post,
			http.MethodDelete: item.Delete, http.MethodPatch: item.Patch, http.MethodHead: item.Head, http.MethodOptions: item.Options} {
			if op != nil {
				documented[routeID{method, ginPath(path)}] = true
			}
		}
	}
	var problems []error
	for _, r := range s.engine.Routes() {
		id := routeID{r.Method, r.Path}
		if !documented[id] && r.Path != openAPIPath && r.Path != docsPath && r.Path != docsPath+"/:file" {
			problems = append(problems, fmt.Errorf("route %s %s has no operation in the API document", r.Method, r.Path))
		}
		delete(documented, id)
	}
	for id := range documented {
		problems = append(problems, fmt.Errorf("operation %s %s has no route", id.method, id.path))
	}
	return errors.Join(problems...)
}
