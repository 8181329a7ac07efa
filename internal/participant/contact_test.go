package participant

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/web"
)

const (
	canaryPhone = "+8613912345678"
	canaryEmail = "canary.bird@example.org"
)

func TestContactFindings(t *testing.T) {
	long := strings.Repeat("a", 64) + "@" + strings.Repeat("b", 60) + "." + strings.Repeat("c", 60) + "." + strings.Repeat("d", 60) + ".example"
	for name, c := range map[string]struct {
		contact Contact
		want    string
	}{
		"nothing":            {Contact{}, ""},
		"all":                {Contact{Phone: canaryPhone, Email: canaryEmail, Consents: map[string]bool{"sms": true, "email": false}}, ""},
		"shortest number":    {Contact{Phone: "+1234567"}, ""},
		"longest number":     {Contact{Phone: "+123456789012345"}, ""},
		"number too short":   {Contact{Phone: "+123456"}, "/phone invalid_phone"},
		"number too long":    {Contact{Phone: "+1234567890123456"}, "/phone invalid_phone"},
		"number without +":   {Contact{Phone: "8613912345678"}, "/phone invalid_phone"},
		"national number":    {Contact{Phone: "+0139123456"}, "/phone invalid_phone"},
		"number with spaces": {Contact{Phone: "+86 139 1234 5678"}, "/phone invalid_phone"},
		"other digits":       {Contact{Phone: "+٨٦١٣٩١٢٣٤"}, "/phone invalid_phone"},
		"plus only":          {Contact{Phone: "+"}, "/phone invalid_phone"},
		"address of a dot":   {Contact{Email: "a.b+c@d-e.example"}, ""},
		"named address":      {Contact{Email: "Canary <canary@example.org>"}, "/email invalid_email"},
		"in brackets":        {Contact{Email: "<canary@example.org>"}, "/email invalid_email"},
		"with a comment":     {Contact{Email: "canary@example.org(x)"}, "/email invalid_email"},
		"two addresses":      {Contact{Email: "a@example.org,b@example.org"}, "/email invalid_email"},
		"no domain":          {Contact{Email: "canary"}, "/email invalid_email"},
		"header injection":   {Contact{Email: "canary@example.org\r\nBcc: x@example.org"}, "/email invalid_email"},
		"not ASCII":          {Contact{Email: "金丝雀@example.org"}, "/email invalid_email"},
		"address too long":   {Contact{Email: long}, "/email invalid_email"},
		"unknown channel":    {Contact{Consents: map[string]bool{"pigeon": true, "sms": true}}, "/consents/pigeon unknown_channel"},
		"everything wrong":   {Contact{Phone: "1", Email: "1", Consents: map[string]bool{"": false}}, "/phone invalid_phone, /email invalid_email, /consents/ unknown_channel"},
	} {
		if got := pointers(c.contact.findings()); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if len(long) <= maxEmail {
		t.Errorf("the long address has only %d bytes", len(long))
	}
}

// TestContactForms: what is accepted has the form that messages need, whatever comes.
func TestContactForms(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		phone := rapid.OneOf(rapid.String(), rapid.StringMatching(`\+?[0-9]{5,17}`)).Draw(t, "phone")
		if phoneNumber(phone) && (len(phone) < 8 || len(phone) > 16 || phone[0] != '+' || phone[1] == '0' || strings.Trim(phone[1:], "0123456789") != "") {
			t.Errorf("accepted number %q", phone)
		}
		email := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z<>" .,()\\]{1,8}@[a-z. ,()\r\n]{1,8}`)).Draw(t, "email")
		if mailAddress(email) && (len(email) > maxEmail || strings.ContainsAny(email, "\r\n \t<>") || !strings.Contains(email, "@")) {
			t.Errorf("accepted address %q", email)
		}
	})
}

func TestContactChange(t *testing.T) {
	was := &Contact{Phone: canaryPhone, Email: canaryEmail, Consents: map[string]bool{"sms": true, "email": false}, Version: 3}
	for name, c := range map[string]struct {
		is            Contact
		before, after string
	}{
		"nothing": {Contact{was.Phone, was.Email, was.Consents, 4}, `{"version":"3"}`, `{"version":"4"}`},
		"number":  {Contact{"+1234567", was.Email, was.Consents, 4}, `{"version":"3"}`, `{"version":"4","changed":["phone"]}`},
		"all":     {Contact{Consents: map[string]bool{"email": true}, Version: 4}, `{"version":"3","consents":{"email":false,"sms":true}}`, `{"version":"4","changed":["email","phone"],"consents":{"email":true,"sms":false}}`},
	} {
		before, after, err := contactChange(was, &c.is)
		if err != nil || string(before) != c.before || string(after) != c.after {
			t.Errorf("%s: %s → %s, %v", name, before, after, err)
		}
	}
}

func TestContactOpensOnlyAtItsPlace(t *testing.T) {
	ring, err := keyring.New([]keyring.MasterKey{{ID: 1, Secret: bytes.Repeat([]byte{7}, 32)}}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key := func(owner int64) *keyring.DataKey {
		wrapped, err := ring.NewDataKey(owner)
		if err != nil {
			t.Fatal(err)
		}
		k, err := ring.DataKey(owner, wrapped)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	mine := key(1)
	c := Contact{Phone: canaryPhone, Email: canaryEmail, Consents: agreed(nil), Version: 1}
	sealed, err := c.seal(1, mine)
	if err != nil {
		t.Fatal(err)
	}
	got, err := sealed.open(mine)
	if diff := cmp.Diff(c, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	moved := sealed
	moved.Participant = 2
	if _, err := moved.open(mine); err == nil {
		t.Error("it opens as somebody else's")
	}
	if _, err := sealed.open(key(1)); err == nil {
		t.Error("another key opens it")
	}
}

// TestContactVersions: staff and participant change contact data; every change has its version and its evidence.
func TestContactVersions(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		id, ctx := w.patient(t), as(t.Context(), coordinator)
		c, err := w.Contact(ctx, theStudy, id)
		if diff := cmp.Diff(Contact{Consents: agreed(nil)}, c); diff != "" || err != nil {
			t.Errorf("before the first: %v\n%s", err, diff)
		}
		if got, err := w.Contacts(ctx, []int64{id, 4711}); err != nil || len(got) != 0 {
			t.Errorf("nobody stated anything: %v, %v", got, err)
		}
		first := Contact{Phone: canaryPhone, Email: canaryEmail, Consents: map[string]bool{"sms": true}}
		c, err = w.PutContact(ctx, theStudy, id, 0, first, "on paper", "request-1")
		want1 := Contact{canaryPhone, canaryEmail, map[string]bool{"sms": true, "email": false}, 1}
		if diff := cmp.Diff(want1, c); diff != "" || err != nil {
			t.Fatalf("%v\n%s", err, diff)
		}
		_, err = w.PutContact(ctx, theStudy, id, 0, first, "", "")
		want(t, "stale", err, "stale")
		c, err = w.Consent(asParticipant(t.Context(), id), map[string]bool{"sms": false, "email": true}, "request-2")
		if err != nil || c.Version != 2 || c.Consents["sms"] || !c.Consents["email"] || c.Phone != canaryPhone {
			t.Errorf("by the participant: %+v, %v", c, err)
		}
		if c, err = w.Consent(asParticipant(t.Context(), id), map[string]bool{"sms": false}, ""); err != nil || c.Version != 2 {
			t.Errorf("what is so already: %+v, %v", c, err)
		}
		_, err = w.PutContact(ctx, theStudy, id, 1, first, "", "")
		want(t, "staff who have not seen the withdrawal", err, "stale")
		now, err := w.Contacts(ctx, []int64{id, 4711})
		if diff := cmp.Diff(map[int64]Contact{id: {canaryPhone, canaryEmail, map[string]bool{"sms": false, "email": true}, 2}}, now); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}
		if c, err = w.PutContact(ctx, theStudy, id, 2, Contact{}, "", ""); err != nil || c.Version != 3 {
			t.Errorf("emptied: %+v, %v", c, err)
		}
		mine, err := w.MyContact(asParticipant(t.Context(), id))
		if diff := cmp.Diff(Contact{Consents: agreed(nil), Version: 3}, mine); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}
		w.contactEvidence(t, id, []string{
			`contact.update staff 2 {"consents":{"sms":false}}→{"version":"1","changed":["email","phone"],"consents":{"sms":true}} on paper request-1`,
			fmt.Sprintf(`contact.update participant %d {"version":"1","consents":{"email":false,"sms":true}}→{"version":"2","consents":{"email":true,"sms":false}}  request-2`, id),
			`contact.update staff 2 {"version":"2","consents":{"email":true}}→{"version":"3","changed":["email","phone"],"consents":{"email":false}}  `,
		})
	})
}

func (w *world) contactEvidence(t *testing.T, id int64, wanted []string) {
	t.Helper()
	entries, err := audit.List(t.Context(), w.store.Shards.For(id), audit.Filter{Record: "contact", RecordID: id})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		line := fmt.Sprintf("%s %s %d %s→%s %s %s", e.Action, e.ActorKind, e.Actor, e.Old, e.New, e.Reason, e.Source)
		got = append([]string{line}, got...)
	}
	if diff := cmp.Diff(wanted, got); diff != "" {
		t.Error(diff)
	}
}

func TestContactFromEnrolment(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := as(t.Context(), admin)
		e := anna()
		e.Contact = Contact{Phone: canaryPhone, Consents: map[string]bool{"sms": true}}
		o, err := w.Enrol(ctx, theStudy, e, "")
		if err != nil {
			t.Fatal(err)
		}
		got, err := w.Contact(ctx, theStudy, o.ID)
		if diff := cmp.Diff(Contact{canaryPhone, "", map[string]bool{"sms": true, "email": false}, 1}, got); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}
		entries, err := audit.List(ctx, w.store.Shards.For(o.ID), audit.Filter{Study: theStudy})
		if err != nil || len(entries) != 1 || !strings.Contains(string(entries[0].New), `"contact":["phone"],"consents":{"sms":true}`) {
			t.Errorf("%+v, %v", entries, err)
		}
		e = anna()
		e.Number, e.Contact.Phone = "0002", "1"
		_, err = w.Enrol(ctx, theStudy, e, "")
		want(t, "a wrong number", err, "invalid_field")
	})
}

// TestLeavingEndsConsents: who leaves is not written to, and nobody can consent for them any more.
func TestLeavingEndsConsents(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := as(t.Context(), admin)
		id := w.patient(t)
		c := Contact{Phone: canaryPhone, Consents: map[string]bool{"sms": true, "email": true}}
		if _, err := w.PutContact(ctx, theStudy, id, 0, c, "", "r1"); err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.Update(ctx, theStudy, id, 1, Change{Status: text(Withdrawn), Reason: "moved away"}, "r2"); err != nil {
			t.Fatal(err)
		}
		got, err := w.Contacts(ctx, []int64{id})
		if diff := cmp.Diff(map[int64]Contact{id: {canaryPhone, "", agreed(nil), 2}}, got); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}
		_, err = w.PutContact(ctx, theStudy, id, 2, c, "", "")
		want(t, "consent by staff", err, "participant_withdrawn")
		_, err = w.Consent(asParticipant(t.Context(), id), map[string]bool{"sms": true}, "")
		want(t, "consent by the participant", err, "participant_withdrawn")
		_, err = w.Consent(asParticipant(t.Context(), id), map[string]bool{"sms": false}, "")
		want(t, "no consent", err, "ok")
		_, err = w.PutContact(ctx, theStudy, id, 2, Contact{}, "erased on request", "r3")
		want(t, "forgotten", err, "ok")
		w.contactEvidence(t, id, []string{
			`contact.update staff 1 {"consents":{"email":false,"sms":false}}→{"version":"1","changed":["phone"],"consents":{"email":true,"sms":true}}  r1`,
			`contact.update staff 1 {"consents":{"email":true,"sms":true}}→{"consents":{"email":false,"sms":false}} moved away r2`,
			`contact.update staff 1 {"version":"2"}→{"version":"3","changed":["phone"]} erased on request r3`,
		})
		other := anna()
		other.Number = "0002"
		o, err := w.Enrol(ctx, theStudy, other, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.Update(ctx, theStudy, o.ID, 1, Change{Status: text(Withdrawn)}, ""); err != nil {
			t.Errorf("without any consent: %v", err)
		}
		w.contactEvidence(t, o.ID, nil)
	})
}

// TestLeavingAgainstConsenting: whichever comes first, in the end nobody who has left has a consent.
func TestLeavingAgainstConsenting(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := as(t.Context(), admin)
		for n := range 6 {
			e := anna()
			e.Number = fmt.Sprint(n)
			o, err := w.Enrol(ctx, theStudy, e, "")
			if err != nil {
				t.Fatal(err)
			}
			var racing sync.WaitGroup
			racing.Go(func() {
				if _, err := w.Consent(asParticipant(t.Context(), o.ID), map[string]bool{"sms": true}, ""); err != nil && code(err) != "participant_withdrawn" && code(err) != "stale" {
					t.Error(err)
				}
			})
			racing.Go(func() {
				if _, _, err := w.Update(ctx, theStudy, o.ID, 1, Change{Status: text(Withdrawn)}, ""); err != nil {
					t.Error(err)
				}
			})
			racing.Wait()
			if got, err := w.Contacts(ctx, []int64{o.ID}); err != nil || anyConsent(got[o.ID].Consents) {
				t.Errorf("%+v, %v", got, err)
			}
		}
	})
}

func TestContactRights(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		id := w.patient(t)
		elsewhere := anna()
		elsewhere.Number, elsewhere.Site = "0002", "S02"
		o, err := w.Enrol(as(t.Context(), admin), theStudy, elsewhere, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			who, of     int64
			read, write string
		}{
			{coordinator, id, "ok", "ok"}, {coordinator, o.ID, "not_found", "not_found"}, {monitor, id, "forbidden", "forbidden"},
			{99, id, "not_found", "not_found"}, {admin, id, "ok", "stale"}, {admin, 4711, "not_found", "not_found"},
		} {
			ctx := as(t.Context(), c.who)
			_, err := w.Contact(ctx, theStudy, c.of)
			want(t, fmt.Sprintf("%d reads %d", c.who, c.of), err, c.read)
			_, err = w.PutContact(ctx, theStudy, c.of, 0, Contact{}, "", "")
			want(t, fmt.Sprintf("%d writes %d", c.who, c.of), err, c.write)
		}
		w.studies.status = "locked"
		_, err = w.PutContact(as(t.Context(), coordinator), theStudy, id, 1, Contact{}, "", "")
		want(t, "a locked study", err, "study_locked")
		_, err = w.Consent(asParticipant(t.Context(), id), map[string]bool{"email": true}, "")
		want(t, "the participant's own, in a locked study", err, "ok")
		_, err = w.Consent(as(t.Context(), admin), nil, "")
		want(t, "consent by staff as if the participant", err, "forbidden")
		_, err = w.Consent(asParticipant(t.Context(), id), map[string]bool{"pigeon": true}, "")
		want(t, "unknown channel", err, "invalid_field")
		_, err = w.PutContact(as(t.Context(), admin), theStudy, id, 2, Contact{}, strings.Repeat("x", maxReason+1), "")
		want(t, "reason", err, "study_locked")
	})
}

func TestContactsOfMany(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := as(t.Context(), admin)
		wanted := make(map[int64]Contact)
		var ids []int64
		number := func(i int) string { return fmt.Sprintf("+861390000%04d", i) }
		err := w.Import(ctx, theStudy, lines(40, func(i int, l *Line) {
			l.Contact = Contact{Phone: number(i), Consents: map[string]bool{"sms": i%2 == 0}}
		}), "", func(fates []Outcome) error {
			for _, o := range fates {
				wanted[o.ID] = Contact{Phone: number(o.Line - 1), Consents: map[string]bool{"sms": o.Line%2 == 1, "email": false}, Version: 1}
				ids = append(ids, o.ID)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		broken := ids[7]
		if err := w.store.Shards.For(broken).Read(ctx).Exec("UPDATE participant_contact SET sealed = ? WHERE participant_id = ?", []byte("garbage that does not open"), broken).Error; err != nil {
			t.Fatal(err)
		}
		delete(wanted, broken)
		got, err := w.Contacts(ctx, append(ids, 4711))
		if diff := cmp.Diff(wanted, got); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}
		_, err = w.Contact(ctx, theStudy, broken)
		if err == nil || errs.KindOf(err) != errs.Internal {
			t.Errorf("what does not open: %v", err)
		}
	})
}

func TestContactAtTheDoor(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		door := w.door(t).Handler()
		const people, me = "/api/v1/studies/77/participants", "staff 2"
		made := call(t, door, "POST", people, me, `{"number":"0001","site":"S01","arm":"A","phone":"`+canaryPhone+`","consents":{"sms":true}}`)
		made.want(t, "enrol", 201, "")
		id := fmt.Sprint(made.body["id"])
		path, self := people+"/"+id+"/contact", "participant "+id
		r := call(t, door, "GET", path, me, "")
		if r.want(t, "get", 200, ""); r.header.Get("ETag") != `"1"` || r.header.Get("Cache-Control") != "no-store" ||
			fmt.Sprint(r.body) != "map[consents:map[email:false sms:true] email: phone:"+canaryPhone+" version:1]" {
			t.Errorf("%v %v", r.header, r.body)
		}
		call(t, door, "PUT", path, me, `{}`).want(t, "without If-Match", 428, "precondition_required")
		call(t, door, "PUT", path, me, `{}`, "If-Match", "x").want(t, "If-Match", 400, "invalid_parameter")
		call(t, door, "PUT", path, me, `{}`, "If-Match", `"0"`).want(t, "stale", 412, "stale")
		call(t, door, "PUT", path, me, `{"phone":"12"}`, "If-Match", `"1"`).want(t, "number", 422, "invalid_field")
		call(t, door, "PUT", path, me, `{"consents":{"sms":"yes"}}`, "If-Match", `"1"`).want(t, "type", 422, "invalid_field")
		call(t, door, "PUT", path, me, `{"consents":{"pigeon":true}}`, "If-Match", `"1"`).want(t, "channel", 400, "unknown_member")
		call(t, door, "PUT", path, me, `{"fax":"1"}`, "If-Match", `"1"`).want(t, "unknown member", 400, "unknown_member")
		r = call(t, door, "PUT", path, me, `{"email":"`+canaryEmail+`","consents":{"email":true},"reason":"new address"}`, "If-Match", `"1"`)
		if r.want(t, "put", 200, ""); r.header.Get("ETag") != `"2"` || fmt.Sprint(r.body) != "map[consents:map[email:true sms:false] email:"+canaryEmail+" phone: version:2]" {
			t.Errorf("%v %v", r.header, r.body)
		}
		call(t, door, "GET", path, "staff 3", "").want(t, "a monitor", 403, "forbidden")
		call(t, door, "GET", path, self, "").want(t, "the participant through staff's door", 403, "forbidden")
		call(t, door, "GET", path, "", "").want(t, "nobody", 401, "unauthenticated")
		call(t, door, "GET", people+"/4711/contact", me, "").want(t, "of nobody", 404, "not_found")

		r = call(t, door, "PUT", "/api/v1/me/consents", self, `{"email":false}`)
		if r.want(t, "withdraw", 200, ""); fmt.Sprint(r.body) != "map[consents:map[email:false sms:false]]" {
			t.Errorf("%v", r.body)
		}
		r = call(t, door, "GET", "/api/v1/me/contact", self, "")
		if r.want(t, "mine", 200, ""); fmt.Sprint(r.body) != "map[consents:map[email:false sms:false] email:"+canaryEmail+" phone: version:3]" {
			t.Errorf("%v", r.body)
		}
		call(t, door, "PUT", "/api/v1/me/consents", self, `{"pigeon":true}`).want(t, "channel", 400, "unknown_member")
		call(t, door, "PUT", "/api/v1/me/consents", me, `{"sms":true}`).want(t, "staff", 403, "forbidden")
		call(t, door, "GET", "/api/v1/me/contact", "", "").want(t, "nobody", 401, "unauthenticated")
		line := readLine(1, []byte(`{"number":"1","site":"S01","phone":"`+canaryPhone+`","email":"`+canaryEmail+`","consents":{"sms":true,"email":false}}`), 512)
		if diff := cmp.Diff(Contact{canaryPhone, canaryEmail, map[string]bool{"sms": true, "email": false}, 0}, line.Contact); diff != "" || line.Err != nil {
			t.Errorf("%v\n%s", line.Err, diff)
		}
	})
}

// TestContactsAreNowhereInClear does everything that contact data take part in, also what fails, and then looks for them in the
// log and in every column of every table.
func TestContactsAreNowhereInClear(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		var log bytes.Buffer
		var mu sync.Mutex
		w.Logger = slog.New(slog.NewJSONHandler(lockedWriter{&mu, &log}, &slog.HandlerOptions{Level: slog.LevelDebug}))
		door := w.doorOf(t, web.Deps{Log: w.Logger}).Handler()
		const people, me = "/api/v1/studies/77/participants", "staff 2"
		with := `"site":"S01","arm":"A","phone":"` + canaryPhone + `","email":"` + canaryEmail + `","consents":{"sms":true}`
		made := call(t, door, "POST", people, me, `{"number":"0001",`+with+`}`)
		made.want(t, "enrol", 201, "")
		id := fmt.Sprint(made.body["id"])
		path := people + "/" + id + "/contact"
		var replies []reply
		try := func(method, path, body string, header ...string) {
			replies = append(replies, call(t, door, method, path, me, body, header...))
		}
		try("POST", people, `{"number":"0001",`+with+`}`)
		try("POST", people, `{"number":"0002",`+strings.Replace(with, "+86", "x86", 1)+`}`)
		try("POST", people, `{"number":"0002",`+strings.Replace(with, "@", " @", 1)+`}`)
		try("PUT", path, `{"phone":["`+canaryPhone+`"]}`, "If-Match", `"1"`)
		try("PUT", path, `{"phone":"`+canaryPhone+`","email":"<`+canaryEmail+`>"}`, "If-Match", `"1"`)
		try("PUT", path, `{"phone":"`+canaryPhone+`"`, "If-Match", `"1"`)
		try("PUT", path, `{"phone":"`+canaryPhone+`"}`, "If-Match", `"9"`)
		for i, r := range replies {
			if r.status < 400 || hasCanary([]byte(fmt.Sprint(r.body))) {
				t.Errorf("refusal %d: %d %v", i, r.status, r.body)
			}
		}
		call(t, door, "PUT", path, me, `{"phone":"`+canaryPhone+`","email":"new.`+canaryEmail+`","reason":"new"}`, "If-Match", `"1"`).want(t, "put", 200, "")
		if err := w.Import(as(t.Context(), admin), theStudy, lines(9, func(_ int, l *Line) {
			l.Contact = Contact{Phone: canaryPhone, Email: canaryEmail}
		}), "", func([]Outcome) error { return nil }); err != nil {
			t.Fatal(err)
		}
		w.store.Shards.For(1).Read(t.Context()).Exec("UPDATE participant_contact SET sealed = 'x'")
		var read web.ID
		if err := read.UnmarshalText([]byte(id)); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Contacts(t.Context(), []int64{int64(read)}); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if hasCanary(log.Bytes()) {
			t.Errorf("the log holds contact data:\n%s", log.Bytes())
		}
		rows := 0
		for _, d := range append(w.store.Shards.All(), w.store.Meta) {
			rows += searchDatabase(t, d)
		}
		if rows < 50 {
			t.Errorf("only %d rows were searched", rows)
		}
	})
}

type lockedWriter struct {
	mu *sync.Mutex
	to *bytes.Buffer
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(p)
}

func hasCanary(b []byte) bool {
	return bytes.Contains(b, []byte(canaryPhone[3:])) || bytes.Contains(b, []byte("canary"))
}

// searchDatabase looks for the canary in every column of every table and returns how many rows there were.
func searchDatabase(t *testing.T, d *db.DB) (rows int) {
	t.Helper()
	names := "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"
	if d.Dialect == db.SQLite {
		names = "SELECT name FROM sqlite_master WHERE type = 'table'"
	}
	var tables []string
	if err := d.Read(t.Context()).Raw(names).Scan(&tables).Error; err != nil {
		t.Fatal(err)
	}
	if len(tables) == 0 {
		t.Fatal("no tables")
	}
	for _, table := range tables {
		var found []map[string]any
		if err := d.Read(t.Context()).Table(table).Find(&found).Error; err != nil {
			t.Fatal(err)
		}
		rows += len(found)
		for _, row := range found {
			for column, value := range row {
				b, isBytes := value.([]byte)
				if !isBytes {
					b = []byte(fmt.Sprint(value))
				}
				if hasCanary(b) {
					t.Errorf("%s.%s holds contact data in clear", table, column)
				}
			}
		}
	}
	return rows
}
