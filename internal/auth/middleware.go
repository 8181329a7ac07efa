package auth

import (
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/web"
)

// Verifier proves who holds an access token; its refusals are errs.Unauthenticated.
type Verifier interface {
	Verify(token string) (Principal, error)
}

// signIn is where clients come with another proof than an access token. An ended token that a client still sends along
// must not keep it from getting a new one.
const signIn = "/api/v1/auth/"

// Middleware puts the caller into the request's context. A request without an Authorization header stays anonymous; one
// with a bad token is refused, except under the sign-in routes, where it counts as anonymous (RFC 6750, section 2.1).
func Middleware(v Verifier) gin.HandlerFunc {
	return func(c *gin.Context) {
		header := c.GetHeader("Authorization")
		if header == "" {
			return
		}
		p, err := bearer(v, header)
		if err == nil {
			c.Request = c.Request.WithContext(With(c.Request.Context(), p))
			return
		}
		if strings.HasPrefix(c.Request.URL.Path, signIn) {
			return
		}
		c.Header("WWW-Authenticate", `Bearer error="invalid_token"`)
		web.WriteProblem(c, err)
	}
}

func bearer(v Verifier, header string) (Principal, error) {
	scheme, token, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return Principal{}, errs.NoCredentials("the Authorization header must be: Bearer, a space, the access token")
	}
	return v.Verify(strings.TrimSpace(token))
}
