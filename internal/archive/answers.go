package archive

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/submission"
)

// Response is a row of the researchers' table of responses: one per stored response, without anything that a participant wrote.
// Instants are microseconds since 1970 UTC.
type Response struct {
	Part          string `parquet:"part,dict"` // the file's own name within the archive: what has been loaded can be told by it
	StudyID       int64  `parquet:"study_id"`
	ResponseID    int64  `parquet:"response_id"`
	ParticipantID int64  `parquet:"participant_id"` // the pseudonym; the participant's number is in the evidence only
	SiteID        int64  `parquet:"site_id,dict"`
	TaskID        int64  `parquet:"task_id"`
	URL           string `parquet:"questionnaire_url,dict"`
	Version       string `parquet:"questionnaire_version,dict"`
	Status        string `parquet:"status,dict"`
	Authored      string `parquet:"authored"` // as the device wrote it, with its offset
	Zone          string `parquet:"zone,dict"`
	Late          bool   `parquet:"late"`
	ReceivedAt    int64  `parquet:"received_at,timestamp(microsecond)"`
	StoredAt      int64  `parquet:"stored_at,timestamp(microsecond)"`
	Answers       int32  `parquet:"answers"` // rows of this response in the table of answers
	Opened        bool   `parquet:"opened"`  // false: its body could not be opened with the keys that there are; it is in the evidence as it was
}

// Answer is a row of the researchers' table of answers: one value of one item. Position counts from 1 within the response, in the
// order of the document; (response_id, position) is the key.
type Answer struct {
	Part          string   `parquet:"part,dict"`
	StudyID       int64    `parquet:"study_id"`
	ResponseID    int64    `parquet:"response_id"`
	Position      int32    `parquet:"position"`
	ParticipantID int64    `parquet:"participant_id"`
	SiteID        int64    `parquet:"site_id,dict"`
	TaskID        int64    `parquet:"task_id"`
	URL           string   `parquet:"questionnaire_url,dict"`
	Version       string   `parquet:"questionnaire_version,dict"`
	LinkID        string   `parquet:"link_id,dict"`
	Type          string   `parquet:"value_type,dict"` // boolean, integer, decimal, date, dateTime, time, quantity, coding, string, uri, attachment, reference
	Boolean       *bool    `parquet:"value_boolean,optional"`
	Number        *float64 `parquet:"value_number,optional"` // of integer, decimal and quantity
	Text          *string  `parquet:"value_text,optional"`   // digits, dates and times as they were written; what a person wrote only where the setting allows it
	System        *string  `parquet:"value_system,optional,dict"`
	Code          *string  `parquet:"value_code,optional,dict"`
	Unit          *string  `parquet:"value_unit,optional,dict"`
	Withheld      bool     `parquet:"withheld"` // the value, or a part of it, is in the evidence only
	AuthoredAt    *int64   `parquet:"authored_at,optional,timestamp(microsecond)"`
	ReceivedAt    int64    `parquet:"received_at,timestamp(microsecond)"`
}

// offering says which values a questionnaire version names itself; questionnaire.Definition is one.
type offering interface {
	Offers(linkID string, v questionnaire.Value) bool
}

// flattener makes rows of answers out of one response.
type flattener struct {
	like     Answer // what all rows of the response share
	known    offering
	freeText bool
	out      []Answer
}

// flatten returns a response's answers in the order of the document.
func flatten(like Answer, body *questionnaire.Response, known offering, freeText bool) []Answer {
	f := &flattener{like: like, known: known, freeText: freeText}
	if !body.AuthoredAt.IsZero() {
		at := body.AuthoredAt.UnixMicro()
		f.like.AuthoredAt = &at
	}
	f.items(body.Items)
	return f.out
}

func (f *flattener) items(items []questionnaire.Item) {
	for i := range items {
		for _, a := range items[i].Answers {
			if a.Value.Name != "" {
				f.answer(items[i].LinkID, a.Value)
			}
			f.items(a.Items)
		}
		f.items(items[i].Items)
	}
}

// answer adds one value. What stands in the clear is what a questionnaire's author could have written down beforehand: numbers,
// booleans, dates and times, and the codes and units that the version offers. Everything else was written by a person.
func (f *flattener) answer(linkID string, v questionnaire.Value) {
	a := f.like
	a.Position, a.LinkID = int32(len(f.out)+1), strings.Clone(linkID)
	a.Type = typeWord(v.Name)
	offered := f.known != nil && f.known.Offers(linkID, v)
	switch v.Name {
	case "valueBoolean":
		yes := v.Text == "true"
		a.Boolean = &yes
	case "valueInteger", "valueDecimal":
		a.Number, a.Text = number(v.Text), text(v.Text)
	case "valueQuantity":
		a.Number, a.Text = number(v.Text), text(v.Text)
		if offered || f.freeText {
			a.System, a.Code = text(v.System), text(v.Code)
		} else {
			a.Withheld = v.System != "" || v.Code != "" || v.Unit != ""
		}
		if f.freeText || offered && v.Code == "" {
			a.Unit = text(v.Unit)
		}
	case "valueDate", "valueDateTime", "valueTime":
		a.Text = text(v.Text)
	case "valueCoding":
		if offered || f.freeText {
			a.System, a.Code = text(v.System), text(v.Code)
		} else {
			a.Withheld = true
		}
		if f.freeText {
			a.Text = text(v.Text)
		}
	default: // string, uri, attachment, reference
		if offered || f.freeText && v.Name != "valueAttachment" {
			a.Text = text(v.Text)
		} else {
			a.Withheld = true
		}
	}
	f.out = append(f.out, a)
}

func typeWord(name string) string {
	word := strings.TrimPrefix(name, "value")
	if word == "" {
		return "unknown"
	}
	return strings.ToLower(word[:1]) + word[1:]
}

// text copies, since what is read shares one copy of the whole response.
func text(s string) *string {
	if s == "" {
		return nil
	}
	s = strings.Clone(s)
	return &s
}

func number(s string) *float64 {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// responseOf returns a stored response's row, without its count of answers.
func responseOf(r *submission.Response) Response {
	return Response{StudyID: r.Study, ResponseID: r.ID, ParticipantID: r.Participant, SiteID: r.Site, TaskID: r.Task, URL: r.Questionnaire,
		Version: r.Version, Status: r.Status, Authored: r.Authored, Zone: r.Zone, Late: r.Late,
		ReceivedAt: r.ReceivedAt.UnixMicro(), StoredAt: r.StoredAt.UnixMicro()}
}

// answerOf returns what all answers of a response share.
func answerOf(r *submission.Response) Answer {
	return Answer{StudyID: r.Study, ResponseID: r.ID, ParticipantID: r.Participant, SiteID: r.Site, TaskID: r.Task, URL: r.Questionnaire,
		Version: r.Version, ReceivedAt: r.ReceivedAt.UnixMicro()}
}

// folderOf returns the value of the partition column questionnaire: letters and digits of the url's end, for people, and the
// beginning of its SHA-256, so that two urls never share a folder. No tool has to unescape it.
func folderOf(url string) string {
	end := url[strings.LastIndexByte(url, '/')+1:]
	var b strings.Builder
	for _, r := range strings.ToLower(end) {
		if b.Len() >= 40 {
			break
		}
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			b.WriteRune(r)
		} else if b.Len() > 0 {
			b.WriteByte('-')
		}
	}
	sum := sha256.Sum256([]byte(url))
	return strings.Trim(b.String(), "-") + "-" + hex.EncodeToString(sum[:4])
}

// monthOf returns the value of the partition column month: that of the receipt, in UTC.
func monthOf(micros int64) string { return time.UnixMicro(micros).UTC().Format("2006-01") }

// The encodings that the digests of the researchers' rows are made of. Part is left out: it says where a row is, not what it is.

func (r *Response) encode(b []byte) []byte {
	for _, n := range [...]int64{r.StudyID, r.ResponseID, r.ParticipantID, r.SiteID, r.TaskID, r.ReceivedAt, r.StoredAt, int64(r.Answers)} {
		b = binary.AppendVarint(b, n)
	}
	for _, s := range [...]string{r.URL, r.Version, r.Status, r.Authored, r.Zone} {
		b = appendName(b, s)
	}
	return append(b, truth(r.Late), truth(r.Opened))
}

func (a *Answer) encode(b []byte) []byte {
	for _, n := range [...]int64{a.StudyID, a.ResponseID, int64(a.Position), a.ParticipantID, a.SiteID, a.TaskID, a.ReceivedAt} {
		b = binary.AppendVarint(b, n)
	}
	for _, s := range [...]string{a.URL, a.Version, a.LinkID, a.Type} {
		b = appendName(b, s)
	}
	for _, s := range [...]*string{a.Text, a.System, a.Code, a.Unit} {
		if s == nil {
			b = append(b, tagNull)
		} else {
			b = appendName(append(b, tagText), *s)
		}
	}
	if a.Boolean == nil {
		b = append(b, tagNull)
	} else {
		b = append(b, tagInt, truth(*a.Boolean))
	}
	if a.Number == nil {
		b = append(b, tagNull)
	} else {
		b = appendFloat(append(b, tagFloat), *a.Number)
	}
	if a.AuthoredAt == nil {
		b = append(b, tagNull)
	} else {
		b = binary.AppendVarint(append(b, tagInt), *a.AuthoredAt)
	}
	return append(b, truth(a.Withheld))
}

func truth(b bool) byte {
	if b {
		return 1
	}
	return 0
}
