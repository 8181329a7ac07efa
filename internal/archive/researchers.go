package archive

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/parquet-go/parquet-go"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/submission"
)

// answers writes the next part of the researchers' rows: one file of responses and one of answers per questionnaire and month.
func (w *worker) answers(ctx context.Context, shard *db.DB, s *shape, l lane) (part, error) {
	walk, err := w.walk(shard, s, l.mark)
	if err != nil {
		return part{}, err
	}
	t := &tables{worker: w, shard: shard, number: l.parts, pairs: make(map[string]*pair)}
	at := walk.at
	for done := 0; done < w.Config.PartRows && !t.full; {
		rows, err := walk.next(ctx, min(w.Config.BlockRows, w.Config.PartRows-done))
		if err == nil && len(rows) == 0 {
			l.ended = true
			break
		}
		var took int
		if err == nil {
			took, err = t.add(ctx, s, rows)
		}
		if err != nil {
			t.abort()
			return part{}, err
		}
		if done += took; took > 0 {
			at = s.mark(rows[took-1])
		}
	}
	if l.mark, err = appendRow(nil, at); err != nil {
		t.abort()
		return part{}, err
	}
	l.parts++
	entries, err := t.finish()
	return part{l, entries}, err
}

// pair is the two files of a questionnaire and month.
type pair struct {
	responses *sheet[Response]
	answers   *sheet[Answer]
	withheld  int64
}

// tables fills the researchers' files of one part.
type tables struct {
	worker *worker
	shard  *db.DB
	number int
	pairs  map[string]*pair
	full   bool // one more file would be one too many
}

// add takes rows of the table of responses, as long as there is room for their files, and returns how many it took.
func (t *tables) add(ctx context.Context, s *shape, rows []row) (int, error) {
	w := t.worker
	list := make([]submission.Response, len(rows))
	var ids []int64
	for i, r := range rows {
		list[i] = responseRow(s, r)
		ids = append(ids, list[i].Participant)
	}
	keys, err := keysOf(ctx, t.shard, ids)
	if err != nil {
		return 0, err
	}
	open := make(map[int64]*keyring.DataKey)
	for i := range list {
		r := &list[i]
		if placed(w.view, w.Shards, s, rows[i], t.shard.Name) != t.shard {
			continue
		}
		p, err := t.pair(ctx, r)
		if err != nil || p == nil {
			return i, err
		}
		if err := t.one(ctx, p, r, w.bodyOf(r, keys, open)); err != nil {
			return i, err
		}
	}
	return len(rows), nil
}

// bodyOf opens a response; nil where no key does.
func (w *worker) bodyOf(r *submission.Response, wrapped map[int64][]byte, open map[int64]*keyring.DataKey) *questionnaire.Response {
	key := w.Keys.Intake()
	if r.Key == submission.KeyParticipant {
		var known bool
		if key, known = open[r.Participant]; !known {
			if k, err := w.Keys.DataKey(r.Participant, wrapped[r.Participant]); err == nil {
				key = k
			} else {
				key = nil
			}
			open[r.Participant] = key
		}
	}
	if key == nil {
		return nil
	}
	body, err := r.Open(key)
	if err != nil {
		return nil
	}
	parsed, err := questionnaire.ParseResponse(body)
	if err != nil {
		return nil
	}
	return parsed
}

// one writes a response and its answers.
func (t *tables) one(ctx context.Context, p *pair, r *submission.Response, body *questionnaire.Response) error {
	w := t.worker
	like := responseOf(r)
	like.Opened = body != nil
	var list []Answer
	if body != nil {
		known, err := w.offers(ctx, r.Questionnaire+"|"+r.Version)
		if err != nil {
			return err
		}
		list = flatten(answerOf(r), body, known, w.Config.FreeText)
	}
	like.Answers, like.Part = int32(len(list)), p.responses.entry.Path
	if !like.Opened {
		p.withheld++
	}
	if err := p.responses.add(like); err != nil {
		return fmt.Errorf("parquet: %w", err)
	}
	for _, a := range list {
		if a.Part = p.answers.entry.Path; a.Withheld {
			p.answers.entry.Withheld++
		}
		if err := p.answers.add(a); err != nil {
			return fmt.Errorf("parquet: %w", err)
		}
	}
	return nil
}

// pair returns the files of a response, or nil where they would be too many.
func (t *tables) pair(ctx context.Context, r *submission.Response) (*pair, error) {
	w := t.worker
	month := monthOf(r.ReceivedAt.UnixMicro())
	place := fmt.Sprintf("study=%d/questionnaire=%s/month=%s/%s", w.run.Study, folderOf(r.Questionnaire), month, w.fileName(t.shard, t.number))
	if p := t.pairs[place]; p != nil {
		return p, nil
	}
	if 2*len(t.pairs)+2 > max(w.Config.OpenFiles, 2) {
		t.full = true
		return nil, nil
	}
	p := &pair{}
	e := Entry{Shard: t.shard.Name, Questionnaire: r.Questionnaire, Month: month}
	var err error
	e.Kind, e.Path = KindResponses, KindResponses+"/"+place
	if p.responses, err = researchers(ctx, w, e, (*Response).encode); err != nil {
		return nil, err
	}
	e.Kind, e.Path = KindAnswers, KindAnswers+"/"+place
	if p.answers, err = researchers(ctx, w, e, (*Answer).encode); err != nil {
		p.responses.abort()
		return nil, err
	}
	t.pairs[place] = p
	return p, nil
}

func researchers[T any](ctx context.Context, w *worker, e Entry, encode func(*T, []byte) []byte) (*sheet[T], error) {
	if err := w.Store.plan(ctx, w.run, e); err != nil {
		return nil, err
	}
	s, err := newSheet[T](ctx, w.Destination, e, w.Config.GroupRows, parquet.Compression(&parquet.Zstd))
	if err == nil {
		s.encode = encode
	}
	return s, err
}

func (t *tables) abort() {
	for _, p := range t.pairs {
		p.responses.abort()
		p.answers.abort()
	}
}

func (t *tables) finish() ([]Entry, error) {
	var entries []Entry
	for _, p := range t.pairs {
		p.responses.entry.Withheld = p.withheld
		e, err := p.responses.finish()
		if err != nil {
			t.abort()
			return nil, err
		}
		entries = append(entries, e)
		if e, err = p.answers.finish(); err != nil {
			t.abort()
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// responseRow reads a row of the table of responses.
func responseRow(s *shape, r row) submission.Response {
	number := func(name string) int64 { n, _ := r[s.place(name)].(int64); return n }
	word := func(name string) string { t, _ := r[s.place(name)].(string); return t }
	raw := func(name string) []byte { b, _ := r[s.place(name)].([]byte); return b }
	out := submission.Response{Site: number("site_id"), Questionnaire: word("questionnaire"), Version: word("version"), Status: word("status"),
		Authored: word("authored"), Zone: word("zone"), Late: number("late") != 0, StoredAt: db.Time(number("stored_at"))}
	out.Record = submission.Record{ID: number("id"), Participant: number("participant_id"), Study: number("study_id"), Task: number("task_id"),
		Submission: uuid.UUID(append(raw("submission"), make([]byte, 16)...)[:16]), ReceivedAt: db.Time(number("received_at")),
		Key: submission.Key(number("sealed_key")), Sealed: raw("sealed")}
	copy(out.SHA256[:], raw("sha256"))
	return out
}
