package study

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/questionnaire"
)

// Published is a questionnaire version as it is served.
type Published struct {
	Study int64
	ETag  string // names the bytes
	Body  []byte
}

const (
	maxBodies = 500       // versions whose bytes are kept in memory
	maxBody   = 128 << 10 // bytes of each; larger ones come from the cache each time
)

func etag(sha [sha256.Size]byte) string { return `"` + hex.EncodeToString(sha[:]) + `"` }

// version returns an active version of a study. It is on the way of every submission, so it does without look's closure,
// which would be allocated.
func (c *Catalog) version(ctx context.Context, study int64, canonical string) (*Questionnaire, error) {
	v, err := c.view(ctx, study)
	if err != nil {
		return nil, err
	}
	q := v.active[canonical]
	if q == nil {
		q = c.again(ctx, v).active[canonical]
	}
	if q == nil {
		return nil, errs.Absent("questionnaire")
	}
	return q, nil
}

// QuestionnaireID returns the id of an active version.
func (c *Catalog) QuestionnaireID(ctx context.Context, study int64, canonical string) (int64, error) {
	q, err := c.version(ctx, study, canonical)
	if err != nil {
		return 0, err
	}
	return q.ID, nil
}

// Definition returns the compiled form of an active version. A canonical that is none is errs.Unprocessable with the code
// invalid_response.
func (c *Catalog) Definition(ctx context.Context, study int64, canonical string) (*questionnaire.Definition, error) {
	q, err := c.version(ctx, study, canonical)
	if err != nil {
		if errs.KindOf(err) == errs.NotFound {
			err = errUnknownVersion()
		}
		return nil, err
	}
	if d, ok := c.definitions.Get(q.ID); ok {
		return d, nil
	}
	return c.compile(ctx, q.ID)
}

func (c *Catalog) compile(ctx context.Context, id int64) (*questionnaire.Definition, error) {
	return shared(ctx, c, "definition:"+strconv.FormatInt(id, 10), func(ctx context.Context) (*questionnaire.Definition, error) {
		p, err := c.Published(ctx, id)
		if err != nil {
			return nil, err
		}
		d, findings := questionnaire.Compile(p.Body, c.limits)
		if len(findings) > 0 {
			return nil, fmt.Errorf("published questionnaire %d does not compile: %s %s", id, findings[0].Code, findings[0].Pointer)
		}
		c.definitions.Add(id, d)
		return d, nil
	})
}

// Published returns a published version's bytes; a draft or an unknown one is errs.NotFound. The bytes are shared.
func (c *Catalog) Published(ctx context.Context, id int64) (Published, error) {
	if p, ok := c.bodies.Get(id); ok {
		return p, nil
	}
	read := func(ctx context.Context) ([]byte, error) {
		q, body, err := c.reader.Questionnaire(ctx, id)
		if err != nil {
			return nil, err
		}
		if q.Status != Active {
			return nil, errs.Absent("questionnaire")
		}
		return packed(q, body), nil
	}
	value, err := c.versions.Fetch(ctx, "questionnaire:"+strconv.FormatInt(id, 10), read)
	if err != nil {
		return Published{}, err
	}
	p, ok := unpacked(value)
	if !ok { // whatever the cache holds there, it is not what was published
		if value, err = read(ctx); err != nil {
			return Published{}, err
		}
		if p, ok = unpacked(value); !ok {
			return Published{}, fmt.Errorf("stored questionnaire %d does not have the bytes of its hash", id)
		}
	}
	if len(p.Body) <= maxBody {
		c.bodies.Add(id, p)
	}
	return p, nil
}

// packed puts study and hash before the body, so that one fetch answers everything.
func packed(q Questionnaire, body []byte) []byte {
	return append(fmt.Appendf(make([]byte, 0, len(body)+96), "%d %x ", q.Study, q.SHA256), body...)
}

// unpacked reads what packed wrote, and reports whether the bytes are those of the hash.
func unpacked(value []byte) (Published, bool) {
	study, rest, _ := bytes.Cut(value, []byte(" "))
	hash, body, _ := bytes.Cut(rest, []byte(" "))
	id, err := strconv.ParseInt(string(study), 10, 64)
	sum := sha256.Sum256(body)
	if err != nil || string(hash) != hex.EncodeToString(sum[:]) {
		return Published{}, false
	}
	return Published{Study: id, ETag: etag(sum), Body: body}, true
}
