package web

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/eprod/eprod/internal/errs"
)

// wellFormed refuses a body that is not exactly one JSON value in UTF-8 without duplicate member names (RFC 8259, I-JSON RFC 7493).
func wellFormed(body []byte) error {
	d := jsontext.NewDecoder(bytes.NewBuffer(body))
	if err := d.SkipValue(); err != nil {
		return malformed(err)
	}
	if _, err := d.ReadToken(); err != io.EOF {
		if err == nil {
			err = errors.New("something follows the first value")
		}
		return malformed(err)
	}
	return nil
}

func malformed(err error) error {
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		where := "at byte " + strconv.FormatInt(syntax.ByteOffset, 10)
		if syntax.JSONPointer != "" {
			where += ", within " + string(syntax.JSONPointer)
		}
		return errs.InvalidJSON(where + ": " + strings.TrimPrefix(syntax.Err.Error(), "jsontext: "))
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errs.InvalidJSON("the body ends before its JSON value does")
	}
	return errs.InvalidJSON("the body must be one JSON value: " + err.Error())
}

// unmarshal is huma's decoder. Its errors reach transform as text only, so they are written as "pointer: detail".
func unmarshal(data []byte, v any) error {
	err := json.Unmarshal(data, v, jsonIn)
	semantic, ok := errors.AsType[*json.SemanticError](err)
	if !ok {
		return err
	}
	if errors.Is(err, json.ErrUnknownName) {
		return errors.New(string(semantic.JSONPointer) + ": " + validation.MsgUnexpectedProperty)
	}
	detail := "the value has the wrong form"
	if semantic.Err != nil {
		detail = semantic.Err.Error()
	}
	return errors.New(string(semantic.JSONPointer) + ": " + detail)
}

// transform replaces huma's error model by ours, status included. Everything else passes unchanged.
func transform(ctx huma.Context, _ string, v any) (any, error) {
	model, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	err := refusal(model)
	note(ctx.Context(), err)
	p := NewProblem(ctx.Context(), err)
	if g, ok := ctx.(*guarded); ok {
		g.status = p.Status
	}
	return p, nil
}

// refusal says in our words what huma found wrong: parameters first, then members that do not exist, then fields that break rules.
func refusal(m *huma.ErrorModel) error {
	if m.Status >= http.StatusInternalServerError {
		return errors.New("huma: " + m.Detail)
	}
	if len(m.Errors) == 0 {
		if m.Status == http.StatusBadRequest {
			return errs.InvalidJSON("the body is missing; " + m.Detail)
		}
		return errs.New(errs.Invalid, "invalid_request", m.Detail)
	}
	var unknown, findings []errs.Finding
	for _, e := range m.Errors {
		if place, name, _ := strings.Cut(e.Location, "."); place != "body" {
			return parameterRefusal(place, name, e.Message)
		}
		f := finding(e)
		if f.Code == "unknown_member" {
			unknown = append(unknown, f)
		} else {
			findings = append(findings, f)
		}
	}
	if len(unknown) > 0 {
		return errs.UnknownMember(unknown[0].Pointer).WithFindings(unknown)
	}
	return errs.InvalidField(findings...)
}

func parameterRefusal(place, name, message string) error {
	if strings.EqualFold(name, "If-Match") && strings.Contains(message, "missing") {
		_, err := IfMatch("")
		return err
	}
	if place == "header" {
		name = "header " + name
	}
	return errs.InvalidParameter(name, strings.TrimPrefix(message, "invalid value: "))
}

// finding turns one of huma's error details into a finding. It leaves out the value, for it may be an answer or a password.
func finding(e *huma.ErrorDetail) errs.Finding {
	pointer, message := pointerOf(e.Location), e.Message
	if p, rest, ok := strings.Cut(message, ": "); ok && pointer == "" && (p == "" || p[0] == '/') {
		pointer, message = p, rest
	}
	var required, ignored string
	before, after, _ := strings.Cut(validation.MsgExpectedRequiredProperty, "%s")
	if rest, ok := strings.CutPrefix(message, before); ok {
		required, ignored, _ = strings.Cut(rest, after)
	}
	_ = ignored
	switch {
	case required != "":
		return errs.Finding{Pointer: pointer + "/" + escape(required), Code: "required", Detail: "this member is required"}
	case message == validation.MsgUnexpectedProperty:
		return errs.Finding{Pointer: pointer, Code: "unknown_member", Detail: "this member is not part of the request"}
	case message == validation.MsgExpectedBoolean, message == validation.MsgExpectedNumber, message == validation.MsgExpectedInteger,
		message == validation.MsgExpectedString, message == validation.MsgExpectedArray, message == validation.MsgExpectedObject:
		return errs.Finding{Pointer: pointer, Code: "wrong_type", Detail: message}
	default:
		return errs.Finding{Pointer: pointer, Code: "invalid_value", Detail: message}
	}
}

// pointerOf turns huma's "body.rules[0].id" into "/rules/0/id" (RFC 6901). Names with a dot or bracket in them come out in pieces; only
// the names of maps can have one.
func pointerOf(location string) string {
	path, ok := strings.CutPrefix(location, "body")
	if !ok || path == "" {
		return ""
	}
	var b strings.Builder
	for step := range strings.FieldsFuncSeq(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		b.WriteByte('/')
		b.WriteString(escape(step))
	}
	return b.String()
}

func escape(name string) string { return strings.NewReplacer("~", "~0", "/", "~1").Replace(name) }
