package web

import (
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"
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

func (s *Server) addDocs() {}
