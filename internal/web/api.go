package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	jsonv1 "github.com/go-json-experiment/json/v1"

	"github.com/eprod/eprod/internal/errs"
)

// The JSON rules of the door; both values are immutable. Empty lists are [], and omitempty drops zero numbers as Go programmers expect.
var (
	jsonOut = json.JoinOptions(jsonv1.OmitEmptyWithLegacySemantics(true), jsontext.EscapeForHTML(false))
	jsonIn  = json.JoinOptions(json.RejectUnknownMembers(true), jsonv1.OmitEmptyWithLegacySemantics(true))
)

// adapter is humagin's, and remembers which server it belongs to.
type adapter struct {
	huma.Adapter
	server *Server
}

// newAPI puts huma on the engine. Its error model is replaced by a transformer and a context wrapper, so that no package variable
// of huma's is touched.
func (s *Server) newAPI(version string) huma.API {
	format := huma.Format{
		Marshal:   func(w io.Writer, v any) error { return json.MarshalWrite(w, v, jsonOut) },
		Unmarshal: unmarshal,
	}
	registry := huma.NewMapRegistry("#/components/schemas/", schemaName)
	registry.Map()["Problem"] = problemSchema()
	config := huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info:    &huma.Info{Title: "eprod", Version: version, Description: "Electronic patient-reported outcomes for clinical trials."},
			Components: &huma.Components{
				Schemas: registry,
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"bearer": {Type: "http", Scheme: "bearer", Description: "an access token of /api/v1/auth"},
				},
			},
		},
		Formats:       map[string]huma.Format{jsonType: format, "json": format},
		DefaultFormat: jsonType,
		Transformers:  []huma.Transformer{transform},
	}
	inner := humagin.New(s.engine, config).Adapter()
	api := huma.NewAPI(config, &adapter{Adapter: inner, server: s})
	api.UseMiddleware(guard)
	return api
}

// Register adds a typed operation: it is described in the API document, its input is checked against its struct, and what h
// returns becomes the answer. An error of h becomes problem+json. A RawBody field gets the bytes as sent, checked to be well-formed where
// they are JSON, and valid only until h returns. It panics on a wrong declaration, at start.
func Register[I, O any](api huma.API, op huma.Operation, h func(ctx context.Context, in *I) (*O, error)) {
	for _, f := range reflect.VisibleFields(reflect.TypeFor[I]()) {
		if !f.IsExported() {
			panic(fmt.Sprintf("%s: huma would leave %s of the input empty, because it is not exported", op.OperationID, f.Name))
		}
	}
	prepare(api, &op)
	op.MaxBodyBytes = -1 // the middleware bounds the body already; huma's own bound refuses a body of exactly the limit
	if _, raw := reflect.TypeFor[I]().FieldByName("RawBody"); raw {
		if _, typed := reflect.TypeFor[I]().FieldByName("Body"); !typed {
			op.SkipValidateBody = true // huma would hold the bytes against the schema of a string
		}
	}
	huma.Register(api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := h(ctx, in)
		if err != nil {
			note(ctx, err)
			return nil, NewProblem(ctx, err)
		}
		return out, nil
	})
}

// Describe adds the operation of a plain gin handler to the API document and gives its route the settings of the operation. The
// handler itself is added to Gin() by the caller, with the same method and path.
func Describe(api huma.API, op huma.Operation) {
	prepare(api, &op)
	api.OpenAPI().AddOperation(&op)
}

// prepare fills what every operation has and tells the middleware about its route.
func prepare(api huma.API, op *huma.Operation) {
	if op.Security == nil {
		op.Security = Bearer()
	}
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	if op.Responses["default"] == nil {
		op.Responses["default"] = &huma.Response{
			Description: "An error, as RFC 9457 problem details",
			Content:     map[string]*huma.MediaType{problemType: {Schema: &huma.Schema{Ref: "#/components/schemas/Problem"}}},
		}
	}
	a, ok := api.Adapter().(*adapter)
	if !ok {
		return // somebody else's API, as in a test of a context
	}
	rt := &route{maxBody: a.server.cfg.MaxBodyBytes}
	rt.Route, _ = op.Metadata[RouteKey].(Route)
	if op.MaxBodyBytes > 0 {
		rt.maxBody = op.MaxBodyBytes
	}
	a.server.routes[routeID{op.Method, ginPath(op.Path)}] = rt
}

func ginPath(path string) string {
	return strings.NewReplacer("{", ":", "}", "").Replace(path)
}

// humaContext is embedded under another name than its method Context.
type humaContext = huma.Context

// guarded is huma's view of a request whose body was read and checked here. It also carries the status of an answer that
// transform has rewritten, for huma has chosen its own by then.
type guarded struct {
	humaContext
	body   io.Reader
	status int
}

// Unwrap lets humagin find the gin context.
func (g *guarded) Unwrap() huma.Context { return g.humaContext }

// BodyReader returns the checked body.
func (g *guarded) BodyReader() io.Reader {
	if g.body == nil {
		return g.humaContext.BodyReader()
	}
	return g.body
}

// SetReadDeadline does nothing: the body was read under the server's own time-outs, and a deadline set now would end a slow handler.
func (g *guarded) SetReadDeadline(time.Time) error { return nil }

// SetStatus prefers the rewritten status.
func (g *guarded) SetStatus(status int) {
	if g.status != 0 {
		status = g.status
	}
	g.humaContext.SetStatus(status)
}

// guard reads a body before huma does, where the reasons for refusing it are still typed errors.
func guard(ctx huma.Context, next func(huma.Context)) {
	g := &guarded{humaContext: ctx}
	if rb := ctx.Operation().RequestBody; rb != nil {
		body, err := readBody(ctx, rb)
		if err != nil {
			WriteProblem(humagin.Unwrap(ctx), err)
			return
		}
		g.body = bytes.NewReader(body)
	}
	next(g)
}

// readBody returns the whole body after checking its media type, its size and, for JSON, its form.
func readBody(ctx huma.Context, rb *huma.RequestBody) ([]byte, error) {
	isJSON, err := acceptMedia(ctx.Header("Content-Type"), rb)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(ctx.BodyReader())
	if err != nil {
		return nil, bodyError(err)
	}
	if len(body) == 0 && !rb.Required {
		return nil, nil
	}
	if isJSON {
		if err := wellFormed(body); err != nil {
			return nil, err
		}
	}
	return body, nil
}

// acceptMedia refuses a media type that the operation does not read. A missing one is taken for the operation's own.
func acceptMedia(header string, rb *huma.RequestBody) (isJSON bool, err error) {
	own := jsonType
	if rb.Content[own] == nil {
		for own = range rb.Content { //revive:disable-line — our operations declare one
		}
	}
	ownJSON := own == jsonType || strings.HasSuffix(own, "+json")
	if header == "" {
		return ownJSON, nil
	}
	media, params, err := mime.ParseMediaType(header)
	charset := strings.ToLower(params["charset"])
	if err != nil || charset != "" && charset != "utf-8" && charset != "utf8" {
		return false, errMediaType(own)
	}
	if media == own || rb.Content[media] != nil || ownJSON && (media == jsonType || strings.HasPrefix(media, "application/") && strings.HasSuffix(media, "+json")) {
		return ownJSON, nil
	}
	return false, errMediaType(own)
}

// bodyError names why a body could not be read.
func bodyError(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return errTooLarge(tooLarge.Limit).WithCause(err)
	}
	detail := "the body ended before its announced length"
	if slow, ok := errors.AsType[net.Error](err); ok && slow.Timeout() {
		detail = "the body did not arrive in time"
	}
	return errs.New(errs.Invalid, "incomplete_body", detail).WithCause(err)
}
