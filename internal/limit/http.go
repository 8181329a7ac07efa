package limit

import (
	"github.com/gin-gonic/gin"

	"github.com/eprod/eprod/internal/web"
)

// Middleware answers 429 rate_limited with Retry-After when the bucket of the request's key is empty. An empty key is not limited.
func (b *Buckets) Middleware(key func(*gin.Context) string) gin.HandlerFunc {
	return func(c *gin.Context) {
		k := key(c)
		if k == "" {
			return
		}
		if err := b.Check(k); err != nil {
			web.WriteProblem(c, err)
		}
	}
}
