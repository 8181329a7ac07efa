package participant

import (
	"context"
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/task"
)

// Profile is what the way of a submission needs to know about a participant. It is immutable and shared.
type Profile struct {
	ID, Study, Site               int64
	Number, Arm, Language, Status string
	Person                        task.Person
	Key                           *keyring.DataKey
	WrappedKey                    []byte
}

// Zone returns the time zone that applies at an instant.
func (p *Profile) Zone(at time.Time) string {
	zone := ""
	for i, z := range p.Person.Zones {
		if i == 0 || !z.From.After(at) {
			zone = z.Zone
		}
	}
	return zone
}

// Records reads participants from the shards.
type Records interface {
	// ByID returns those of the ids that exist. An error is errs.Unavailable when a shard does not answer.
	ByID(ctx context.Context, ids []int64) (map[int64]*Participant, error)
}

// Keys opens wrapped data keys.
type Keys interface {
	DataKey(owner int64, wrapped []byte) (*keyring.DataKey, error)
}

// ProfileConfig bounds the profiles in memory.
type ProfileConfig struct {
	Size        int           `koanf:"size"`        // participants
	TTL         time.Duration `koanf:"ttl"`         // how old a profile may be: the delay until a change reaches another process
	LoadTimeout time.Duration `koanf:"loadTimeout"` // for one read of a profile from its shard
}

// Profiles keeps profiles in memory. It is safe for concurrent use.
type Profiles struct {
	records Records
	keys    Keys
	config  ProfileConfig
	now     func() time.Time
	known   *lru.Cache[int64, remembered]
	flights singleflight.Group
}

type remembered struct {
	profile *Profile
	until   time.Time
}

// NewProfiles returns an empty memory of profiles.
func NewProfiles(config ProfileConfig, records Records, keys Keys, now func() time.Time) (*Profiles, error) {
	known, err := lru.New[int64, remembered](config.Size)
	if err != nil {
		return nil, fmt.Errorf("profiles: %w", err)
	}
	return &Profiles{records: records, keys: keys, config: config, now: now, known: known}, nil
}

// Get returns a participant's profile, at most TTL old, or older while its shard does not answer: errs.NotFound if there is no such participant, errs.Unavailable if
// its shard does not answer. Callers that ask for the same participant at once share one read.
func (p *Profiles) Get(ctx context.Context, id int64) (*Profile, error) {
	if profile, ok := p.Remembered(id); ok {
		return profile, nil
	}
	flight := p.flights.DoChan(fmt.Sprint(id), func() (any, error) {
		// The read belongs to all who wait for it, so the first caller's end does not end it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.config.LoadTimeout)
		defer cancel()
		found, err := p.load(ctx, []int64{id})
		if err != nil {
			return nil, err
		}
		if profile, ok := found[id]; ok {
			return profile, nil
		}
		return nil, errs.Absent("participant")
	})
	select {
	case <-ctx.Done():
		return nil, errs.Away("the participant's record", ctx.Err())
	case r := <-flight:
		if old, ok := p.known.Get(id); ok && r.Err != nil && errs.KindOf(r.Err) == errs.Unavailable {
			return old.profile, nil // intake must not suffer from a shard that is away
		}
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*Profile), nil
	}
}

// GetMany returns the profiles of those ids that exist, with one read per table and shard for what is not in memory.
func (p *Profiles) GetMany(ctx context.Context, ids []int64) (map[int64]*Profile, error) {
	out := make(map[int64]*Profile, len(ids))
	var missing []int64
	for _, id := range ids {
		if _, done := out[id]; done {
			continue
		}
		profile, ok := p.Remembered(id)
		if !ok {
			missing = append(missing, id)
			continue
		}
		out[id] = profile
	}
	if len(missing) == 0 {
		return out, nil
	}
	found, err := p.load(ctx, missing)
	if err != nil {
		return nil, err
	}
	for id, profile := range found {
		out[id] = profile
	}
	return out, nil
}

// Put remembers a profile that was just made or read.
func (p *Profiles) Put(profile *Profile) {
	p.known.Add(profile.ID, remembered{profile: profile, until: p.now().Add(p.config.TTL)})
}

// Forget drops what this process remembers of a participant.
func (p *Profiles) Forget(id int64) { p.known.Remove(id) }

// activated follows a first sign-in without reading the participant again.
func (p *Profiles) activated(id int64) {
	if known, ok := p.Remembered(id); ok && known.Status == Enrolled {
		next := *known
		next.Status = ActiveStatus
		p.Put(&next)
	}
}

// Person returns the participant as the schedule engine sees it; errors as of Get.
func (p *Profiles) Person(ctx context.Context, id int64) (task.Person, error) {
	profile, err := p.Get(ctx, id)
	if err != nil {
		return task.Person{}, err
	}
	return profile.Person, nil
}

// Site returns a participant's study and site; errors as of Get.
func (p *Profiles) Site(ctx context.Context, id int64) (study, site int64, err error) {
	profile, err := p.Get(ctx, id)
	if err != nil {
		return 0, 0, err
	}
	return profile.Study, profile.Site, nil
}

// Numbers returns the participant numbers of those ids that exist.
func (p *Profiles) Numbers(ctx context.Context, ids []int64) (map[int64]string, error) {
	profiles, err := p.GetMany(ctx, ids)
	if err != nil {
		return nil, err
	}
	out := make(map[int64]string, len(profiles))
	for id, profile := range profiles {
		out[id] = profile.Number
	}
	return out, nil
}

// Number returns a participant's study and number, and leaves the profile in memory for the requests that follow.
func (p *Profiles) Number(ctx context.Context, id int64) (study int64, number string, err error) {
	profile, err := p.Get(ctx, id)
	if err != nil {
		return 0, "", err
	}
	return profile.Study, profile.Number, nil
}

// Key returns a participant's data key; errors as of Get.
func (p *Profiles) Key(ctx context.Context, id int64) (*keyring.DataKey, error) {
	profile, err := p.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	return profile.Key, nil
}

// Remembered returns a participant's profile if it is in memory and at most TTL old.
func (p *Profiles) Remembered(id int64) (*Profile, bool) {
	entry, ok := p.known.Get(id)
	if !ok || !p.now().Before(entry.until) {
		return nil, false
	}
	return entry.profile, true
}

func (p *Profiles) load(ctx context.Context, ids []int64) (map[int64]*Profile, error) {
	records, err := p.records.ByID(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("profiles: %w", err)
	}
	out := make(map[int64]*Profile, len(records))
	for id, r := range records {
		profile, err := p.profile(r)
		if err != nil {
			return nil, err
		}
		p.Put(profile)
		out[id] = profile
	}
	return out, nil
}

func (p *Profiles) profile(r *Participant) (*Profile, error) {
	key, err := p.keys.DataKey(r.ID, r.WrappedKey)
	if err != nil {
		return nil, fmt.Errorf("data key of participant %d: %w", r.ID, err)
	}
	return &Profile{
		ID: r.ID, Study: r.Study, Site: r.Site, Number: r.Number, Arm: r.Arm, Language: r.Language, Status: r.Status,
		Person: r.Person(), Key: key, WrappedKey: r.WrappedKey,
	}, nil
}
