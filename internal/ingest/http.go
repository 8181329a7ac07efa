package ingest

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strconv"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/submission"
	"github.com/eprod/eprod/internal/web"
)

// Door is the HTTP face of the service.
type Door struct {
	Service *Service
	Slots   web.Slots // bound how many submissions are inside the server at once; other requests cannot take these places
	bodies  sync.Pool // *bytes.Buffer; a buffer goes back when its request is answered
}

// Routes registers POST /api/v1/submissions on the engine itself: it is the hot path, and every microsecond of a general
// request decoder would be paid at the worst minute of the day.
func (d *Door) Routes(router gin.IRouter, api huma.API) {
	router.POST("/api/v1/submissions", d.post)
	web.Describe(api, huma.Operation{
		OperationID: "submit", Method: http.MethodPost, Path: "/api/v1/submissions", Tags: []string{"submissions"},
		Summary:      "Submit a completed questionnaire",
		Metadata:     map[string]any{web.RouteKey: web.Route{Hot: true, Slots: d.Slots, Refused: d.Service.Meter.Refused}},
		MaxBodyBytes: d.Service.config.MaxBodyBytes,
		Description:  "Answers 202 once the submission is durable. The identifier of the response is a UUID made by the device: sending the same body again is always safe.",
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{
			Type: huma.TypeObject, Required: []string{"task", "response"}, AdditionalProperties: false,
			Properties: map[string]*huma.Schema{
				"task":     {Type: huma.TypeString, Description: "id of the task that is answered"},
				"response": {Type: huma.TypeObject, Description: "FHIR R4 QuestionnaireResponse with identifier.value set to a UUID", AdditionalProperties: true},
			}}}}},
		Responses: map[string]*huma.Response{"202": {Description: "durable", Content: map[string]*huma.MediaType{
			"application/json": {Schema: api.OpenAPI().Components.Schemas.Schema(receiptType(), true, "Receipt")}}}},
	})
}

func (d *Door) post(c *gin.Context) {
	buffer, err := d.read(c)
	if buffer != nil {
		defer d.bodies.Put(buffer)
	}
	if err != nil {
		d.refuse(c, err)
		return
	}
	receipt, err := d.Service.Accept(c.Request.Context(), buffer.Bytes(), web.RequestID(c.Request.Context()))
	if err != nil {
		web.WriteProblem(c, err)
		return
	}
	c.Data(http.StatusAccepted, "application/json", appendReceipt(make([]byte, 0, 320), receipt))
}

func (d *Door) refuse(c *gin.Context, err error) {
	if e, ok := errs.As(err); ok {
		d.Service.Meter.Refused(e.Code)
	}
	web.WriteProblem(c, err)
}

// read takes the body into a pooled buffer. What announced too large a length did not come here.
func (d *Door) read(c *gin.Context) (*bytes.Buffer, error) {
	limit := d.Service.config.MaxBodyBytes
	tooLarge := errs.New(errs.TooLarge, "too_large", "a submission may have at most "+strconv.FormatInt(limit, 10)+" bytes")
	if kind := c.Request.Header.Get("Content-Type"); kind != "application/json" {
		if media, _, err := mime.ParseMediaType(kind); err != nil || media != "application/json" {
			return nil, errs.New(errs.UnsupportedMedia, "unsupported_media_type", "send the submission as application/json")
		}
	}
	buffer, ok := d.bodies.Get().(*bytes.Buffer)
	if !ok {
		buffer = bytes.NewBuffer(make([]byte, 0, 8<<10))
	}
	buffer.Reset()
	_, err := buffer.ReadFrom(io.LimitReader(c.Request.Body, limit+1))
	var capped *http.MaxBytesError
	switch {
	case errors.As(err, &capped), err == nil && int64(buffer.Len()) > limit:
		return buffer, tooLarge
	case err != nil:
		return buffer, errs.InvalidJSON("the body ended before it was whole").WithCause(err)
	}
	return buffer, nil
}

// appendReceipt writes a receipt that is not processed yet; every part of it is plain ASCII.
func appendReceipt(b []byte, r submission.Receipt) []byte {
	b = append(b, `{"id":"`...)
	b = strconv.AppendInt(b, r.ID, 10)
	b = append(b, `","submission":"`...)
	b = append(b, r.Submission.String()...)
	b = append(b, `","sha256":"`...)
	b = append(b, r.Hash()...)
	b = append(b, `","receivedAt":"`...)
	b = append(b, submission.Timestamp(r.ReceivedAt)...)
	b = append(b, `","state":"`...)
	b = append(b, r.State...)
	if !r.ProcessedAt.IsZero() {
		b = append(b, `","storedAt":"`...)
		b = append(b, submission.Timestamp(r.ProcessedAt)...)
	}
	return append(b, `"}`...)
}

func receiptType() reflect.Type { return reflect.TypeFor[submission.ReceiptBody]() }
