package web

import (
	"errors"
	"net"
	"net/url"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/eprod/eprod/internal/errs"
)

// ID is a Snowflake id at the door: a decimal string in JSON, in paths and in queries, because browsers round numbers above 2^53.
type ID int64

var errID = errors.New("must be an id: a decimal number above zero, written as a string")

// String returns the decimal form.
func (id ID) String() string { return strconv.FormatInt(int64(id), 10) }

// MarshalText makes JSON write the id as a string.
func (id ID) MarshalText() ([]byte, error) { return strconv.AppendInt(nil, int64(id), 10), nil }

// UnmarshalText reads the decimal form; zero, signs, leading zeros and numbers above 2^63-1 are refused.
func (id *ID) UnmarshalText(text []byte) error {
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || n <= 0 || text[0] < '1' || text[0] > '9' {
		return errID
	}
	*id = ID(n)
	return nil
}

// Schema describes the id in the OpenAPI document.
func (ID) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Pattern: "^[1-9][0-9]{0,18}$", PatternDescription: "an id: a decimal number above zero", Examples: []any{"7301444403200000001"}}
}

// InTheClear reports whether whatever is sent to an address could be read on the way: by http:// to another machine.
func InTheClear(u *url.URL) bool {
	host := u.Hostname()
	ip := net.ParseIP(host)
	return u.Scheme == "http" && host != "localhost" && (ip == nil || !ip.IsLoopback())
}

// idParam lets huma parse a parameter through UnmarshalText: it would take ID itself for a number and then find that its schema
// wants a string.
type idParam struct{ id *ID }

// UnmarshalText writes through to the id.
func (p *idParam) UnmarshalText(text []byte) error { return p.id.UnmarshalText(text) }

// Receiver implements huma.ParamWrapper.
func (id *ID) Receiver() reflect.Value { return reflect.ValueOf(&idParam{id}).Elem() }

// Page is one page of a list, in id order. NextCursor is null on the last page.
type Page[T any] struct {
	Items      []T     `json:"items"`
	NextCursor *string `json:"nextCursor" doc:"pass as cursor to get the next page; null on the last"`
}

// ETag returns the strong entity tag of a version (RFC 9110, 8.8.3).
func ETag(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

// IfMatch reads the version that a client edited from its If-Match header. A missing header is 428, anything but one tag made by ETag
// is 400.
func IfMatch(header string) (int64, error) {
	tag := strings.TrimSpace(header)
	if tag == "" {
		return 0, errs.New(errs.PreconditionRequired, "precondition_required", "send If-Match with the ETag of the version that you edited")
	}
	if len(tag) > 2 && tag[0] == '"' && tag[len(tag)-1] == '"' {
		if v, err := strconv.ParseInt(tag[1:len(tag)-1], 10, 64); err == nil && v >= 0 {
			return v, nil
		}
	}
	return 0, errs.InvalidParameter("If-Match", `must be the ETag of the version that you edited, such as "3"`)
}

// NoneMatch reports whether an If-None-Match header names the tag, by the weak comparison of RFC 9110, 13.1.2: the answer is then 304.
func NoneMatch(header, etag string) bool {
	for candidate := range strings.SplitSeq(header, ",") {
		candidate = strings.TrimSpace(candidate)
		if candidate == "*" || candidate != "" && strings.TrimPrefix(candidate, "W/") == strings.TrimPrefix(etag, "W/") {
			return true
		}
	}
	return false
}

// Bearer is the security requirement of an operation that needs a token; Register and Describe assume it where an operation
// names none.
func Bearer() []map[string][]string { return []map[string][]string{{"bearer": {}}} }

// Public is the security requirement of an operation that anyone may call.
func Public() []map[string][]string { return []map[string][]string{} }
