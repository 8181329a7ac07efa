package db

// TableKind says what a table of a shard is to the studies and participants in it.
type TableKind int

// The kinds.
const (
	// StudyData is what a study is made of: it stays as it is once the study is locked, goes into the archive, and moves with its participant.
	StudyData TableKind = iota
	// Passing goes with its participant, but is no data of the study: sessions, wishes, what came too late.
	Passing
	// Local belongs to the shard itself: it is not archived, and moves only where it says PerBucket.
	Local
)

// ShardTable describes a table of the shards.
type ShardTable struct {
	Name        string
	Kind        TableKind
	Key         []string // primary key, in its order
	Participant string   // column of the participant's id; "" where rows belong to nobody
	Study       string   // column of the study's id; "" where only the participant's row tells
	PerBucket   bool     // rows belong to a bucket, in the column bucket, and move with it
	ByStudy     bool     // an index leads from the study to the rows, by id: else from the participant, in the order of the key
}

// ShardTables returns every table of the shards: whoever locks, archives or moves data goes by it, and a test holds it against the
// schema. The participant's own row comes first.
func ShardTables() []ShardTable {
	id, participant := []string{"id"}, []string{"participant_id"}
	with := func(columns ...string) []string { return append([]string{"participant_id"}, columns...) }
	return []ShardTable{
		{Name: "participant", Key: id, Participant: "id", Study: "study_id", ByStudy: true},
		{Name: "participant_account", Key: participant, Participant: "participant_id", Study: "study_id"},
		{Name: "participant_consent", Key: with("channel"), Participant: "participant_id"},
		{Name: "participant_contact", Key: participant, Participant: "participant_id"},
		{Name: "participant_facts", Key: with("until_at"), Participant: "participant_id"},
		{Name: "participant_zone", Key: with("from_at"), Participant: "participant_id"},
		{Name: "record", Key: participant, Participant: "participant_id"},
		{Name: "record_version", Key: with("version"), Participant: "participant_id"},
		{Name: "task", Key: with("id"), Participant: "participant_id", Study: "study_id"},
		{Name: "task_completion", Key: with("task_id"), Participant: "participant_id", Study: "study_id"},
		{Name: "receipt", Key: with("submission"), Participant: "participant_id", Study: "study_id"},
		{Name: "response", Key: id, Participant: "participant_id", Study: "study_id", ByStudy: true},
		{Name: "conflict", Key: id, Participant: "participant_id", Study: "study_id"},
		{Name: "quarantine", Key: id, Participant: "participant_id", Study: "study_id", ByStudy: true},
		{Name: "reminder", Key: with("task_id", "rung", "channel"), Participant: "participant_id", Study: "study_id"},
		{Name: "message", Key: id, Participant: "participant_id", Study: "study_id"},
		{Name: "assessment", Key: id, Participant: "participant_id", Study: "study_id", ByStudy: true},
		{Name: "alert", Key: id, Participant: "participant_id", Study: "study_id", ByStudy: true},
		{Name: "audit", Key: []string{"study_id", "id"}, Participant: "participant_id", Study: "study_id", ByStudy: true},

		{Name: "late_record", Kind: Passing, Key: with("submission", "sha256"), Participant: "participant_id", Study: "study_id"},
		{Name: "participant_session", Kind: Passing, Key: id, Participant: "account_id", Study: "study_id"},
		{Name: "task_refresh", Kind: Passing, Key: participant, Participant: "participant_id", Study: "study_id"},

		{Name: "archive_fence", Kind: Local, Key: []string{"study_id"}, Study: "study_id"},
		{Name: "bucket", Kind: Local, Key: []string{"bucket"}},
		{Name: "bucket_lease", Kind: Local, Key: []string{"bucket", "purpose"}},
		{Name: "outbox", Kind: Local, Key: id},
		{Name: "participant_change", Kind: Local, Key: []string{"bucket", "participant_id"}, Participant: "participant_id"},
		{Name: "spool", Kind: Local, Key: id, Participant: "participant_id", Study: "study_id"},
		{Name: "study_standing", Kind: Local, Key: []string{"study_id"}, Study: "study_id"},
		{Name: "task_horizon", Kind: Local, Key: []string{"bucket", "study_id"}, Study: "study_id", PerBucket: true},
	}
}
