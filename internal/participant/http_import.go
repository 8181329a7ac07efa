package participant

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/web"
)

const ndjson = "application/x-ndjson"

// importMedia are the names under which clients send one JSON value a line.
var importMedia = []string{ndjson, "application/ndjson", "application/jsonl", "application/json-lines", "application/jsonlines", "text/plain"}

func (s *Service) importRoute(server *web.Server) {
	text := func(what string) map[string]*huma.MediaType {
		return map[string]*huma.MediaType{ndjson: {Schema: &huma.Schema{Type: huma.TypeString, Description: what}}}
	}
	server.Gin().POST(strings.NewReplacer("{", ":", "}", "").Replace(base)+"/import", s.importLines)
	web.Describe(server.API(), huma.Operation{
		OperationID: "import-participants", Method: http.MethodPost, Path: base + "/import", Tags: []string{"participants"},
		Summary: "Enrol many participants, one JSON object a line",
		Description: fmt.Sprintf("Each line is the body of one enrolment, at most %d lines. Each gets one line of answer, in order, as soon as it is durable. "+
			"A line that fails does not stop the others. Sending the same lines again is safe.", s.config.ImportLines),
		MaxBodyBytes: s.config.ImportBytes,
		Metadata:     map[string]any{web.RouteKey: web.Route{Timeout: s.config.ImportTimeout}},
		Parameters:   []*huma.Param{{Name: "id", In: "path", Required: true, Schema: web.ID(0).Schema(nil)}},
		RequestBody:  &huma.RequestBody{Required: true, Content: text("enrolments, one a line")},
		Responses: map[string]*huma.Response{"200": {
			Description: "What became of each line",
			Content:     text(`{"line":1,"id","number","activationCode"} or {"line":2,"number","problem":{…}}, one a line`),
		}},
	})
}

// importLines takes an import. The whole body is read before the first line is written: so a file that is too long changes
// nothing, and a client that only begins to read when it has sent everything cannot block.
func (s *Service) importLines(c *gin.Context) {
	if err := s.takeImport(c); err != nil {
		web.WriteProblem(c, err)
	}
}

func (s *Service) takeImport(c *gin.Context) error {
	var study web.ID
	if err := study.UnmarshalText([]byte(c.Param("id"))); err != nil {
		return errs.InvalidParameter("id", err.Error())
	}
	media, _, err := mime.ParseMediaType(c.GetHeader("Content-Type"))
	if c.GetHeader("Content-Type") != "" && (err != nil || !slices.Contains(importMedia, media)) {
		return errs.New(errs.UnsupportedMedia, "unsupported_media_type", "send the lines as "+ndjson)
	}
	release, err := s.admitImport()
	if err != nil {
		return err
	}
	defer release()
	body, err := io.ReadAll(c.Request.Body)
	if err != nil {
		return bodyError(err)
	}
	if err := s.countLines(body); err != nil {
		return err
	}
	out := bufio.NewWriter(c.Writer)
	return s.Import(c.Request.Context(), int64(study), s.lines(body), web.RequestID(c.Request.Context()), func(fates []Outcome) error {
		if !c.Writer.Written() {
			c.Header("Content-Type", ndjson)
		}
		for i := range fates {
			if err := json.MarshalWrite(out, answerOf(c, &fates[i])); err != nil {
				return fmt.Errorf("write line: %w", err)
			}
			if err := out.WriteByte('\n'); err != nil {
				return fmt.Errorf("write line: %w", err)
			}
		}
		if err := out.Flush(); err != nil {
			return fmt.Errorf("write lines: %w", err)
		}
		c.Writer.Flush()
		return nil
	})
}

func bodyError(err error) error {
	var long *http.MaxBytesError
	if errors.As(err, &long) {
		return errs.New(errs.TooLarge, "too_large", fmt.Sprintf("an import has at most %d bytes; split the file", long.Limit)).WithCause(err)
	}
	return errs.New(errs.Invalid, "invalid_json", "the body ended before it was complete").WithCause(err)
}

func (s *Service) countLines(body []byte) error {
	n := 0
	for line := range bytes.Lines(body) {
		if len(bytes.TrimSpace(line)) > 0 {
			n++
		}
	}
	if n > s.config.ImportLines {
		return errs.New(errs.TooLarge, "too_large", fmt.Sprintf("an import has at most %d lines, this one has %d; split the file", s.config.ImportLines, n))
	}
	if n == 0 {
		return errs.InvalidJSON("the body is empty; send one JSON object a line")
	}
	return nil
}

// lines reads the body line by line; blank ones are skipped but counted.
func (s *Service) lines(body []byte) iter.Seq[Line] {
	return func(yield func(Line) bool) {
		n := 0
		for text := range bytes.Lines(body) {
			n++
			if text = bytes.TrimSpace(text); len(text) == 0 {
				continue
			}
			if !yield(readLine(n, text, s.config.ImportLine)) {
				return
			}
		}
	}
}

func readLine(n int, text []byte, longest int) Line {
	if len(text) > longest {
		return Line{Line: n, Err: errs.New(errs.TooLarge, "too_large", fmt.Sprintf("a line has at most %d bytes", longest))}
	}
	var e enrolment
	err := json.Unmarshal(text, &e, json.RejectUnknownMembers(true))
	line := Line{Line: n, Enrolment: e.enrolment()}
	if err != nil {
		line.Err = lineError(err)
	}
	return line
}

// lineError says what is wrong with a line, without its values.
func lineError(err error) error {
	if semantic, ok := errors.AsType[*json.SemanticError](err); ok {
		if errors.Is(err, json.ErrUnknownName) {
			return errs.UnknownMember(string(semantic.JSONPointer))
		}
		return errs.InvalidField(errs.Finding{Pointer: string(semantic.JSONPointer), Code: "wrong_type", Detail: "the value has the wrong type"})
	}
	detail := "the line is not one JSON object"
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		detail = fmt.Sprintf("at byte %d: %s", syntax.ByteOffset, strings.TrimPrefix(syntax.Err.Error(), "jsontext: "))
	}
	return errs.InvalidJSON(detail)
}

// answer is one line of the answer.
type answer struct {
	Line    int          `json:"line"`
	ID      web.ID       `json:"id,omitzero"`
	Number  string       `json:"number,omitzero"`
	Code    string       `json:"activationCode,omitzero"`
	Problem *web.Problem `json:"problem,omitzero"`
}

func answerOf(c *gin.Context, o *Outcome) answer {
	a := answer{Line: o.Line, ID: web.ID(o.ID), Number: o.Number, Code: o.Code}
	if o.Err != nil {
		a.Problem = web.NewProblem(c.Request.Context(), o.Err)
	}
	return a
}
