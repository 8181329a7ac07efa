package submission

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/kafka"
)

func record(id, participant int64, n byte) Record {
	return Record{ID: id, Participant: participant, Study: 3, Task: 40 + int64(n), Submission: uuid.UUID{0: 9, 15: n}, ReceivedAt: time.Date(2026, 11, 23, 20, 0, 0, 123456000, time.UTC),
		SHA256: [32]byte{n}, Key: KeyParticipant, Source: "request", Sealed: []byte{1, 2, n}}
}

// TestRecordSurvivesTheLog: what goes into the log comes out, whatever the values.
func TestRecordSurvivesTheLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Record{ID: rapid.Int64().Draw(t, "id"), Participant: rapid.Int64().Draw(t, "participant"), Study: rapid.Int64().Draw(t, "study"), Task: rapid.Int64().Draw(t, "task"),
			ReceivedAt: time.UnixMicro(rapid.Int64Range(0, 1<<52).Draw(t, "at")).UTC(), Key: rapid.SampledFrom([]Key{KeyParticipant, KeyIntake}).Draw(t, "key"),
			Source: rapid.StringN(0, 16, 64).Draw(t, "source"), Sealed: rapid.SliceOf(rapid.Byte()).Draw(t, "sealed"),
			Trace: rapid.SampledFrom([]string{"", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}).Draw(t, "trace")}
		copy(want.Submission[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid"))
		copy(want.SHA256[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "sum"))
		got, err := FromMessage(want.Message(0))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestSourceFitsItsColumn(t *testing.T) {
	r := record(1, 2, 3)
	r.Source = strings.Repeat("ä", 100)
	got, err := FromMessage(r.Message(0))
	if err != nil || len(got.Source) > 64 || !utf8.ValidString(got.Source) {
		t.Errorf("%d bytes, %v", len(got.Source), err)
	}
}

func TestDamagedRecords(t *testing.T) {
	good := record(1, 2, 3)
	change := func(f func(h []byte) []byte) kafka.Message {
		m := good.Message(0)
		m.Headers[0].Value = f(m.Headers[0].Value)
		return m
	}
	for name, m := range map[string]kafka.Message{
		"NoHeader":     {Value: []byte("x")},
		"Short":        change(func(h []byte) []byte { return h[:len(h)-1] }),
		"OtherVersion": change(func(h []byte) []byte { h[0] = 2; return h }),
		"UnknownKey":   change(func(h []byte) []byte { h[len(h)-1] = 9; return h }),
	} {
		if _, err := FromMessage(m); err == nil {
			t.Errorf("%s is taken for a record", name)
		}
	}
}

func TestAssociatedBindsIdentity(t *testing.T) {
	seen := map[string]bool{}
	for _, study := range []int64{1, 2} {
		for _, participant := range []int64{1, 2} {
			for _, id := range []uuid.UUID{{1}, {2}} {
				seen[string(Associated(study, participant, id))] = true
			}
		}
	}
	if len(seen) != 8 {
		t.Errorf("%d different bindings of 8 identities", len(seen))
	}
}

func TestPartitionsFollowBuckets(t *testing.T) {
	for _, partitions := range []int{1, 2, 8, 256} {
		used := map[int32]bool{}
		for id := range int64(5000) {
			p := Partition(id, partitions)
			if p < 0 || int(p) >= partitions {
				t.Fatalf("partition %d of %d", p, partitions)
			}
			used[p] = true
		}
		if len(used) != partitions {
			t.Errorf("%d of %d partitions are used", len(used), partitions)
		}
	}
}

func TestParseUUID(t *testing.T) {
	const plain = "6f1c3a5e-8d6e-4b62-9c5c-1a2b3c4d5e6f"
	for _, good := range []string{plain, "urn:uuid:" + plain} {
		if id, err := ParseUUID(good); err != nil || id.String() != plain {
			t.Errorf("%s: %v %v", good, id, err)
		}
	}
	for _, bad := range []string{"", "1", "{" + plain + "}", "6f1c3a5e8d6e4b629c5c1a2b3c4d5e6f", uuid.Nil.String(), plain + "0"} {
		if _, err := ParseUUID(bad); errs.KindOf(err) != errs.Unprocessable {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestReceiptMemoryForm(t *testing.T) {
	r := record(7, 8, 9)
	want := r.Receipt()
	entries := map[string][]byte{memoryKey(want.Participant, want.Submission): encodeReceipt(want)}
	m := NewMemory(fakeEntries(entries), nil)
	got, ok := m.Receipt(t.Context(), want.Participant, want.Submission)
	if diff := cmp.Diff(want, got); !ok || diff != "" {
		t.Errorf("%v %s", ok, diff)
	}
	if _, ok := m.Receipt(t.Context(), want.Participant+1, want.Submission); ok {
		t.Error("another participant's receipt is shown")
	}
}
