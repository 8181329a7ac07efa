package archive

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/web"
)

// Kept lists the parts of a study that never leave the metadata database: what follows /api/v1/studies/{id}/ in routes that are
// answered as ever. Every other route of a study speaks of data, and is answered with study_archived once they are in the archive.
func Kept() []string {
	return []string{"", "archive", "arms", "lock", "publish", "questionnaires", "risk", "safety", "schedule", "sites", "staff", "unlock"}
}

const (
	studyRoutes       = "/api/v1/studies/:id"
	participantRoutes = "/api/v1/participants/:pid"
	ownRoutes         = "/api/v1/me"
)

// Answer is the middleware that answers requests for data of an archived study, once the caller is known: 409 study_archived with the
// place of the manifest, to those who may read the study. What others are told does not change.
func (s *Service) Answer() gin.HandlerFunc {
	return func(c *gin.Context) {
		if run := s.archived(c.Request.Context(), c.FullPath(), c.Param); run != nil {
			web.WriteProblem(c, ErrArchived(run))
			return
		}
		c.Next()
	}
}

// archived returns the run that took away what a request asks for; nil where nothing did.
func (s *Service) archived(ctx context.Context, route string, param func(string) string) *Run {
	var study web.ID
	who, known := auth.From(ctx)
	switch {
	case !known:
		return nil
	case who.Kind == auth.KindParticipant:
		if !under(route, ownRoutes) {
			return nil
		}
		return s.shelf(ctx)[who.Study]
	case under(route, studyRoutes):
		part, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(route, studyRoutes), "/"), "/")
		if slices.Contains(Kept(), part) || study.UnmarshalText([]byte(param("id"))) != nil {
			return nil
		}
	case under(route, participantRoutes):
		var participant web.ID
		if len(s.shelf(ctx)) == 0 || participant.UnmarshalText([]byte(param("pid"))) != nil {
			return nil
		}
		in, err := s.Store.StudyOf(ctx, int64(participant))
		if err != nil {
			return nil
		}
		study = web.ID(in)
	default:
		return nil
	}
	run := s.shelf(ctx)[int64(study)]
	if run == nil {
		return nil
	}
	if _, err := s.Guard.Study(ctx, int64(study), auth.StudyRead); err != nil {
		return nil
	}
	return run
}

// under reports whether a route is a path or lies below it.
func under(route, path string) bool {
	rest, ok := strings.CutPrefix(route, path)
	return ok && (rest == "" || rest[0] == '/')
}

// shelved is which studies are archived, as of a moment.
type shelved struct {
	until time.Time
	runs  map[int64]*Run
}

// shelfAge is how long a process may not notice that a study was archived or restored; meanwhile its reads find nothing, or are
// refused a little longer.
const shelfAge = 2 * time.Second

// shelf returns the runs of the studies that are archived. While the metadata database does not answer, what was known stays.
func (s *Service) shelf(ctx context.Context) map[int64]*Run {
	was := s.known.Load()
	if was != nil && s.Now().Before(was.until) {
		return was.runs
	}
	if !s.looking.TryLock() {
		if was == nil {
			return nil
		}
		return was.runs
	}
	defer s.looking.Unlock()
	next := &shelved{until: s.Now().Add(shelfAge)}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var err error
	if next.runs, err = s.Store.archived(ctx); err != nil {
		if next.runs = nil; was != nil {
			next.runs = was.runs
		}
	}
	s.known.Store(next)
	return next.runs
}
