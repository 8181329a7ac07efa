package web

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-json-experiment/json"

	"github.com/eprod/eprod/internal/errs"
)

// Problem is the body of every error (RFC 9457). It holds only what a client may see.
type Problem struct {
	Type      string         `json:"type"`
	Title     string         `json:"title"`
	Status    int            `json:"status"`
	Detail    string         `json:"detail"`
	Code      string         `json:"code"`
	RequestID string         `json:"requestId,omitzero"`
	Errors    []errs.Finding `json:"errors,omitempty"`
	Members   map[string]any `json:",embed"`

	retryAfter int // seconds; 0: no header
}

// Error makes a problem an error, so that huma writes it as one.
func (p *Problem) Error() string { return p.Code + ": " + p.Detail }

// GetStatus tells huma the status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType tells huma the media type.
func (p *Problem) ContentType(string) string { return problemType }

// GetHeaders tells huma the headers.
func (p *Problem) GetHeaders() http.Header {
	if p.retryAfter == 0 {
		return nil
	}
	return http.Header{"Retry-After": {strconv.Itoa(p.retryAfter)}}
}

const (
	problemType = "application/problem+json"
	jsonType    = "application/json"
)

// NewProblem returns what a client is told about err. It never shows the text of an error that is not an *errs.Error.
func NewProblem(ctx context.Context, err error) *Problem {
	e, ok := errs.As(err)
	var tooLarge *http.MaxBytesError
	switch {
	case ok:
	case errors.As(err, &tooLarge):
		e = errTooLarge(tooLarge.Limit)
	case errs.KindOf(err) == errs.Unavailable:
		e = errs.Away("a service behind this request", err)
	default:
		e = errs.New(errs.Internal, "internal", "the server failed; the operators can find this request by its requestId")
	}
	p := &Problem{Type: "about:blank", Status: errs.Status(e.Kind), Code: e.Code, Detail: e.Detail, Errors: e.Findings, RequestID: RequestID(ctx)}
	if e.Kind == errs.Internal {
		p.Code, p.Errors = "internal", nil
		p.Detail = "the server failed; the operators can find this request by its requestId"
	} else {
		p.Members = freeMembers(e.Members)
	}
	p.Title = http.StatusText(p.Status)
	if p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests {
		p.retryAfter = retrySeconds(e.RetryAfter, p.RequestID)
	}
	return p
}

// freeMembers drops members that would collide with those of the standard.
func freeMembers(members map[string]any) map[string]any {
	for _, name := range [...]string{"type", "title", "status", "detail", "code", "requestId", "errors"} {
		if _, taken := members[name]; taken {
			free := make(map[string]any, len(members))
			for k, v := range members {
				free[k] = v
			}
			delete(free, name)
			members = free
		}
	}
	return members
}

// retrySeconds spreads clients over [d, 2d], at least one second, so that those refused together do not come back together.
// The spread follows from the request id, which is random already.
func retrySeconds(d time.Duration, requestID string) int {
	d = max(d, time.Second)
	hash := uint64(14695981039346656037) // FNV-1a
	for i := range len(requestID) {
		hash = (hash ^ uint64(requestID[i])) * 1099511628211
	}
	spread := time.Duration(hash % uint64(d))
	return int((d + spread + time.Second - 1) / time.Second)
}

// WriteProblem answers a plain gin request with err and ends its handler chain; the cause is kept for the access log. It does nothing
// but note the cause when the answer has begun already.
func WriteProblem(c *gin.Context, err error) {
	c.Abort()
	note(c.Request.Context(), err)
	if c.Writer.Written() {
		return
	}
	p := NewProblem(c.Request.Context(), err)
	if p.retryAfter > 0 {
		c.Writer.Header().Set("Retry-After", strconv.Itoa(p.retryAfter))
	}
	writeJSON(c.Writer, p.Status, problemType, p)
}

// writeJSON writes a small value whole, so that a value that cannot be written does not leave half an answer.
func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	var body bytes.Buffer
	if err := json.MarshalWrite(&body, v, jsonOut); err != nil {
		status, contentType = http.StatusInternalServerError, problemType
		body.Reset()
		body.WriteString(`{"type":"about:blank","title":"Internal Server Error","status":500,"detail":"the server failed","code":"internal"}`)
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(body.Len()))
	w.WriteHeader(status)
	_, _ = io.Copy(w, &body) // the client may be gone; there is nobody left to tell
}

// writeStatus answers with a status that has no kind of failure behind it, such as 405.
func writeStatus(c *gin.Context, status int, code, detail string) {
	c.Abort()
	writeJSON(c.Writer, status, problemType, &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail,
		Code: code, RequestID: RequestID(c.Request.Context())})
}

func errTooLarge(limit int64) *errs.Error {
	return errs.New(errs.TooLarge, "too_large", "the body is larger than "+strconv.FormatInt(limit, 10)+" bytes")
}

func errMediaType(want string) *errs.Error {
	return errs.New(errs.UnsupportedMedia, "unsupported_media_type", "send the body as "+want)
}
