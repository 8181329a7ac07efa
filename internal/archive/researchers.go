package archive

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/parquet-go/parquet-go"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/submission"
)

// answers writes the next part of the researchers' rows: one file of responses and one of answers per questionnaire and month. It
// first looks which responses of the part go where, and then fills one pair of files after the other: however many questionnaires and
// months there are, one pair is in memory.
func (w *worker) answers(ctx context.Context, shard *db.DB, s *shape, l lane) (part, error) {
	heads, err := s.some("id", "participant_id", "study_id", "questionnaire", "received_at")
	if err != nil {
		return part{}, err
	}
	walk, err := w.walk(shard, heads, l.mark)
	if err != nil {
		return part{}, err
	}
	keys := make(map[partition][]row)
	for done := 0; done < w.Config.PartRows && !l.ended; {
		rows, err := walk.next(ctx, min(maxKeys, w.Config.PartRows-done))
		if err != nil {
			return part{}, err
		}
		for _, r := range rows {
			if placed(w.view, w.Shards, heads, r, shard.Name) == shard {
				of := partitionOf(heads, r)
				keys[of] = append(keys[of], r)
			}
		}
		done += len(rows)
		l.ended = len(rows) == 0
	}
	if l.mark, err = appendRow(nil, walk.at); err != nil {
		return part{}, err
	}
	number := l.parts
	l.parts++
	var entries []Entry
	for of, rows := range keys {
		two, err := w.partition(ctx, shard, s, heads, of, number, rows)
		if err != nil {
			return part{}, err
		}
		entries = append(entries, two...)
	}
	return part{l, entries}, nil
}

// partition names a folder of the researchers' files.
type partition struct{ questionnaire, month string }

func partitionOf(s *shape, r row) partition {
	url, _ := r[s.place("questionnaire")].(string)
	received, _ := r[s.place("received_at")].(int64)
	return partition{url, monthOf(received)}
}

// pair is the two files of a partition.
type pair struct {
	responses *sheet[Response]
	answers   *sheet[Answer]
	withheld  int64
}

// partition writes the two files of one partition of a part. The rows are the heads of its responses.
func (w *worker) partition(ctx context.Context, shard *db.DB, s, heads *shape, of partition, number int, rows []row) ([]Entry, error) {
	p, err := w.pair(ctx, shard, of, number)
	if err != nil {
		return nil, err
	}
	defer p.responses.abort()
	defer p.answers.abort()
	for piece := range slices.Chunk(rows, w.Config.BlockRows) {
		full, err := rowsOf(ctx, shard, s, heads, piece)
		if err != nil {
			return nil, err
		}
		if len(full) != len(piece) {
			return nil, differs("%d of %d responses on shard %s are gone while they are being read", len(piece)-len(full), len(piece), shard.Name)
		}
		if err := w.fill(ctx, shard, s, p, full); err != nil {
			return nil, err
		}
	}
	p.responses.entry.Withheld = p.withheld
	first, err := p.responses.finish()
	if err != nil {
		return nil, err
	}
	second, err := p.answers.finish()
	return []Entry{first, second}, err
}

// fill writes responses and their answers.
func (w *worker) fill(ctx context.Context, shard *db.DB, s *shape, p *pair, rows []row) error {
	list := make([]submission.Response, len(rows))
	ids := make([]int64, len(rows))
	for i, r := range rows {
		list[i] = responseRow(s, r)
		ids[i] = list[i].Participant
	}
	keys, err := keysOf(ctx, shard, ids)
	if err != nil {
		return err
	}
	open := make(map[int64]*keyring.DataKey)
	for i := range list {
		if err := w.one(ctx, p, &list[i], w.bodyOf(&list[i], keys, open)); err != nil {
			return err
		}
	}
	return nil
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
func (w *worker) one(ctx context.Context, p *pair, r *submission.Response, body *questionnaire.Response) error {
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

// pair begins the files of a partition.
func (w *worker) pair(ctx context.Context, shard *db.DB, of partition, number int) (*pair, error) {
	place := fmt.Sprintf("study=%d/questionnaire=%s/month=%s/%s", w.run.Study, folderOf(of.questionnaire), of.month, w.fileName(shard, number))
	p := &pair{}
	e := Entry{Shard: shard.Name, Questionnaire: of.questionnaire, Month: of.month}
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
