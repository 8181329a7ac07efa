package archive

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// Format is the version of the manifest and of all that it lists.
const Format = "eprod-archive/1"

// Manifest says what an archive is made of. It holds numbers, hashes and names of design, and the data key wrapped: nothing of a
// participant.
type Manifest struct {
	Format    string        `json:"format"`
	Study     int64         `json:"study,string"`
	Run       int64         `json:"run,string"`
	Protocol  string        `json:"protocol"`
	At        time.Time     `json:"at"`
	By        ManifestActor `json:"by"`
	Reason    string        `json:"reason"`
	DataKey   string        `json:"dataKey"`  // base64, wrapped by a master key of the installation; it opens the evidence
	FreeText  bool          `json:"freeText"` // whether text that participants wrote stands in the researchers' files
	Versions  []VersionSum  `json:"definitions"`
	Schedules []int64       `json:"schedules"` // versions
	Rows      int64         `json:"rows"`      // of all tables of the shards
	Digest    string        `json:"digest"`    // SHA-256 over the tables' names, counts and digests
	Tables    []TableSum    `json:"tables"`
	Months    []MonthSum    `json:"months"`
	Files     []Entry       `json:"files"`
}

// ManifestActor is who asked for the archive.
type ManifestActor struct {
	Kind string `json:"kind"`
	ID   int64  `json:"id,string"`
}

// VersionSum is a questionnaire version of the study.
type VersionSum struct {
	URL     string `json:"url"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"`
	Folder  string `json:"folder"` // the value of the partition column questionnaire
}

// TableSum is a table of the shards in the evidence.
type TableSum struct {
	Name    string   `json:"name"`
	Columns []string `json:"columns"`
	Rows    int64    `json:"rows"`
	Digest  string   `json:"digest"` // of all rows, whatever their order
}

// MonthSum is a partition of the researchers' files.
type MonthSum struct {
	Questionnaire string `json:"questionnaire"`
	Month         string `json:"month"`
	Responses     int64  `json:"responses"`
	Unopened      int64  `json:"unopened"` // responses whose answers are in the evidence only, since no key opened them
	Answers       int64  `json:"answers"`
	Withheld      int64  `json:"withheld"` // answers whose text is in the evidence only
}

func manifestPath(study, run int64) string {
	return fmt.Sprintf("manifests/study=%d/manifest-%d.json", study, run)
}

func sum256(b []byte) [32]byte { return sha256.Sum256(b) }

const maxManifest = 256 << 20

// get reads a small file whole.
func (s *Service) get(ctx context.Context, path string) ([]byte, error) {
	f, err := s.Destination.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if f.Size() > maxManifest {
		return nil, errors.New("archive: the manifest is too large")
	}
	raw := make([]byte, f.Size())
	if _, err := f.ReadAt(raw, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("archive: %w", err)
	}
	return raw, nil
}

// manifest puts together what has been written.
func (w *worker) manifest(ctx context.Context) (*Manifest, error) {
	design, err := w.Studies.Design(ctx, w.run.Study)
	if err != nil {
		return nil, err
	}
	m := &Manifest{Format: Format, Study: w.run.Study, Run: w.run.ID, Protocol: design.Protocol, At: w.now(), By: ManifestActor{w.run.Actor.Kind, w.run.Actor.ID},
		Reason: w.run.Reason, DataKey: base64.StdEncoding.EncodeToString(w.run.Key), FreeText: w.Config.FreeText, Schedules: design.Schedules, Versions: design.Versions}
	for i := range m.Versions {
		m.Versions[i].Folder = folderOf(m.Versions[i].URL)
	}
	shapes, err := shapesOf(ctx, w.Shards.All()[0])
	if err != nil {
		return nil, err
	}
	sums := make(map[string]*TableSum)
	for _, s := range shapes {
		m.Tables = append(m.Tables, TableSum{Name: s.table.Name, Columns: s.names()})
	}
	digests := make(map[string]*Digest)
	for i := range m.Tables {
		sums[m.Tables[i].Name], digests[m.Tables[i].Name] = &m.Tables[i], &Digest{}
	}
	months := make(map[string]*MonthSum)
	err = w.eachFile(ctx, func(*Entry) bool { return true }, func(e *Entry) error {
		m.Files = append(m.Files, *e)
		if !e.verified {
			return differs("the file %s was not read back", e.Path)
		}
		if e.Kind != KindEvidence {
			addMonth(months, e)
			return nil
		}
		raw, err := hex.DecodeString(e.Digest)
		if err != nil || sums[e.Table] == nil || len(raw) != len(Digest{}) {
			return errors.Join(differs("the file %s is of a table that is not carried", e.Path), err)
		}
		digests[e.Table].Add(Digest(raw))
		sums[e.Table].Rows += e.Rows
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, month := range months {
		m.Months = append(m.Months, *month)
	}
	slices.SortFunc(m.Months, func(a, b MonthSum) int {
		return cmp.Or(cmp.Compare(a.Questionnaire, b.Questionnaire), cmp.Compare(a.Month, b.Month))
	})
	all := sha256.New()
	for i := range m.Tables {
		t := &m.Tables[i]
		t.Digest = hex.EncodeToString(digests[t.Name][:])
		m.Rows += t.Rows
		fmt.Fprintf(all, "%s %d %s\n", t.Name, t.Rows, t.Digest)
	}
	m.Digest = hex.EncodeToString(all.Sum(nil))
	return m, w.complete(m)
}

// complete refuses a manifest whose researchers' rows are not those of the evidence.
func (w *worker) complete(m *Manifest) error {
	var responses int64
	for _, month := range m.Months {
		responses += month.Responses
	}
	for _, t := range m.Tables {
		if t.Name == "response" && t.Rows != responses {
			return differs("%d responses are in the evidence, and %d in the researchers' files", t.Rows, responses)
		}
	}
	return nil
}

func addMonth(months map[string]*MonthSum, e *Entry) {
	key := e.Questionnaire + " " + e.Month
	m := months[key]
	if m == nil {
		m = &MonthSum{Questionnaire: e.Questionnaire, Month: e.Month}
		months[key] = m
	}
	if e.Kind == KindResponses {
		m.Responses += e.Rows
		m.Unopened += e.Withheld
	} else {
		m.Answers += e.Rows
		m.Withheld += e.Withheld
	}
}
