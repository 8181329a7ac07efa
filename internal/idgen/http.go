package idgen

import (
	"context"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/web"
)

// Generator issues ids; Snowflake and Sequence do.
type Generator interface {
	Next() (int64, error)
	NextN(n int) ([]int64, error)
}

// maxIDs is the most ids that one request gets.
const maxIDs = 1000

// Routes adds GET /api/id/get. Authorize refuses everyone but services and administrators; it is called on every request.
func Routes(s *web.Server, gen Generator, authorize func(context.Context) error) {
	const path = "/api/id/get"
	s.Gin().GET(path, func(c *gin.Context) {
		if err := authorize(c.Request.Context()); err != nil {
			web.WriteProblem(c, err)
			return
		}
		body, err := answer(gen, c.Query("n"))
		if err != nil {
			web.WriteProblem(c, err)
			return
		}
		c.Data(http.StatusOK, "application/json", body)
	})
	text := &huma.Schema{Type: huma.TypeString, Pattern: "^[1-9][0-9]{0,18}$"}
	lowest, highest := 1.0, float64(maxIDs)
	web.Describe(s.API(), huma.Operation{
		OperationID: "get-ids", Method: http.MethodGet, Path: path, Tags: []string{"ids"},
		Summary:  "Get one Snowflake id, or n of them",
		Metadata: map[string]any{web.RouteKey: web.Route{Hot: true}},
		Parameters: []*huma.Param{{Name: "n", In: "query", Description: "how many ids; without it the answer holds one, as number and as string",
			Schema: &huma.Schema{Type: huma.TypeInteger, Minimum: &lowest, Maximum: &highest}}},
		Responses: map[string]*huma.Response{"200": {
			Description: "Ids that no other call has returned, ascending. Prefer the strings: browsers round numbers above 2^53.",
			Content: map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{OneOf: []*huma.Schema{
				{Type: huma.TypeObject, Required: []string{"id", "idStr"}, Properties: map[string]*huma.Schema{
					"id": {Type: huma.TypeInteger, Format: "int64"}, "idStr": text}},
				{Type: huma.TypeObject, Required: []string{"ids"}, Properties: map[string]*huma.Schema{
					"ids": {Type: huma.TypeArray, Items: text}}},
			}}}},
		}},
	})
}

// answer is written by hand because the route is hot.
func answer(gen Generator, n string) ([]byte, error) {
	if n == "" {
		id, err := gen.Next()
		if err != nil {
			return nil, err
		}
		b := make([]byte, 0, 64)
		b = strconv.AppendInt(append(b, `{"id":`...), id, 10)
		b = strconv.AppendInt(append(b, `,"idStr":"`...), id, 10)
		return append(b, `"}`...), nil
	}
	count, err := strconv.Atoi(n)
	if err != nil || count < 1 || count > maxIDs {
		return nil, errs.InvalidParameter("n", "must be a number between 1 and "+strconv.Itoa(maxIDs))
	}
	ids, err := gen.NextN(count)
	if err != nil {
		return nil, err
	}
	b := append(make([]byte, 0, 16+22*count), `{"ids":[`...)
	for i, id := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(strconv.AppendInt(append(b, '"'), id, 10), '"')
	}
	return append(b, `]}`...), nil
}
