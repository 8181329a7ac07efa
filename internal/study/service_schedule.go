package study

import (
	"context"
	"slices"
	"time"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/task"
)

// PutSchedule checks a design and makes it the study's next schedule version, which applies from an instant on; see begins. Two at
// once: the later is errs.Stale.
func (s *Service) PutSchedule(ctx context.Context, study int64, design task.Design, from time.Time) (ScheduleVersion, error) {
	who, was, err := s.design(ctx, study, auth.StudyDesign)
	if err != nil {
		return ScheduleVersion{}, err
	}
	if was.ScheduleVersion >= task.MaxVersions {
		return ScheduleVersion{}, errFull("versions of its schedule", task.MaxVersions)
	}
	if _, err := s.checked(ctx, study, was.ScheduleVersion+1, design); err != nil {
		return ScheduleVersion{}, err
	}
	var before any
	if was.ScheduleVersion > 0 {
		old, err := s.current(ctx, was)
		if err != nil {
			return ScheduleVersion{}, err
		}
		before = scheduleOf(old)
	}
	a, err := s.begin(ctx, who)
	if err != nil {
		return ScheduleVersion{}, err
	}
	v := ScheduleVersion{Version: was.ScheduleVersion + 1, Design: design, By: who.ID, At: a.at}
	if v.From, err = begins(was, from, a.at); err != nil {
		return ScheduleVersion{}, err
	}
	err = s.Shelf.PutSchedule(ctx, was, v, a.entry("schedule.put", "schedule", study, study, before, scheduleOf(v)))
	s.Catalog.Forget(ctx, study)
	return v, err
}

// Amended returns the study's plan as it is, and as it would be with a design that applies from an instant on, to one who may
// design the study. It writes nothing.
func (s *Service) Amended(ctx context.Context, study int64, design task.Design, from time.Time) (was, is task.Plan, at time.Time, err error) {
	_, st, err := s.design(ctx, study, auth.StudyDesign)
	if err != nil {
		return nil, nil, at, err
	}
	if _, err = s.checked(ctx, study, st.ScheduleVersion+1, design); err != nil {
		return nil, nil, at, err
	}
	now := s.Now().UTC().Truncate(time.Microsecond)
	if at, err = begins(st, from, now); err != nil {
		return nil, nil, at, err
	}
	list, err := s.Shelf.Schedules(ctx, study)
	if err != nil {
		return nil, nil, at, err
	}
	questionnaires, err := s.Shelf.Questionnaires(ctx, study)
	if err != nil {
		return nil, nil, at, err
	}
	if was, err = planOf(list, questionnaires); err == nil {
		is, err = planOf(append(list, ScheduleVersion{Version: st.ScheduleVersion + 1, From: at, Design: design}), questionnaires)
	}
	if at.IsZero() {
		at = now
	}
	return was, is, at, err
}

// scheduleOf is a schedule as the audit entry shows it.
func scheduleOf(v ScheduleVersion) map[string]any {
	out := map[string]any{"version": v.Version, "rules": v.Design.Rules}
	if v.Design.Policies != nil {
		out["policies"] = v.Design.Policies
	}
	if v.Design.Messages != nil {
		out["messages"] = v.Design.Messages
	}
	if !v.From.IsZero() {
		out["effectiveAt"] = v.From.Format(time.RFC3339Nano)
	}
	return out
}

// checked holds a design against what the study has: its arms and its active questionnaire versions.
func (s *Service) checked(ctx context.Context, study, version int64, design task.Design) (task.Schedule, error) {
	arms, err := s.Shelf.Arms(ctx, study)
	if err != nil {
		return task.Schedule{}, err
	}
	list, err := s.Shelf.Questionnaires(ctx, study)
	if err != nil {
		return task.Schedule{}, err
	}
	active := make(map[string]bool, len(list))
	for i := range list {
		active[list[i].Canonical()] = list[i].Status == Active
	}
	schedule, findings := task.NewSchedule(version, design, task.Known{
		Arm:           func(code string) bool { return hasArm(arms, code) },
		Questionnaire: func(canonical string) bool { return active[canonical] },
		Releases:      releases(list),
	})
	if len(findings) > 0 {
		return task.Schedule{}, errs.New(errs.Unprocessable, "invalid_schedule", "the schedule breaks a rule; see errors").WithFindings(findings)
	}
	return schedule, nil
}

func hasArm(arms []Arm, code string) bool {
	return slices.ContainsFunc(arms, func(a Arm) bool { return a.Code == code })
}

// Schedule returns the latest version of a study's schedule; errs.NotFound where there is none.
func (s *Service) Schedule(ctx context.Context, study int64) (ScheduleVersion, error) {
	if _, err := s.Guard.Study(ctx, study, auth.StudyRead); err != nil {
		return ScheduleVersion{}, err
	}
	st, err := s.Shelf.ByID(ctx, study)
	if err != nil {
		return ScheduleVersion{}, err
	}
	return s.current(ctx, st)
}

// Schedules returns every version of a study's schedule, ascending.
func (s *Service) Schedules(ctx context.Context, study int64) ([]ScheduleVersion, error) {
	if _, err := s.Guard.Study(ctx, study, auth.StudyRead); err != nil {
		return nil, err
	}
	return s.Shelf.Schedules(ctx, study)
}

func (s *Service) current(ctx context.Context, st Study) (ScheduleVersion, error) {
	list, err := s.Shelf.Schedules(ctx, st.ID)
	if err == nil && len(list) == 0 {
		err = errs.Absent("schedule")
	}
	if err != nil {
		return ScheduleVersion{}, err
	}
	return list[len(list)-1], nil
}

// Preview computes the tasks of an imagined participant by a given design, or by the current one where design is nil. It writes
// nothing.
func (s *Service) Preview(ctx context.Context, study int64, design *task.Design, p task.Person, from, to time.Time) ([]task.Task, error) {
	if _, err := s.Guard.Study(ctx, study, auth.StudyRead); err != nil {
		return nil, err
	}
	st, err := s.Shelf.ByID(ctx, study)
	if err != nil {
		return nil, err
	}
	version := st.ScheduleVersion + 1
	if design == nil {
		now, err := s.current(ctx, st)
		if err != nil {
			return nil, err
		}
		version, design = now.Version, &now.Design
	}
	schedule, err := s.checked(ctx, study, version, *design)
	if err != nil {
		return nil, err
	}
	p.ID, p.Study = 1, study
	if err := s.previewable(ctx, schedule, p, from, to); err != nil {
		return nil, err
	}
	return s.Engine.Generate(task.Plan{schedule}, p, from, to), nil
}

// previewable refuses an arm that the study has not, and what would take too long or answer too much.
func (s *Service) previewable(ctx context.Context, schedule task.Schedule, p task.Person, from, to time.Time) error {
	var findings []errs.Finding
	if p.Arm != "" {
		arms, err := s.Shelf.Arms(ctx, p.Study)
		if err != nil {
			return err
		}
		if !hasArm(arms, p.Arm) {
			findings = append(findings, errs.Finding{Pointer: "/arm", Code: "unknown_arm", Detail: "must be the code of an arm of this study"})
		}
	}
	windows := 0
	for i := range schedule.Design.Rules {
		windows += schedule.Design.Rules[i].PerDay()
	}
	days := int(to.Sub(from)/(24*time.Hour)) + 1
	switch {
	case !from.Before(to) || to.Sub(from) > task.MaxRange:
		findings = append(findings, errs.Finding{Pointer: "/to", Code: "invalid_range", Detail: "must be after from and at most 400 days later"})
	case windows*days > maxPreview:
		findings = append(findings, errs.Finding{Pointer: "/to", Code: "too_many", Detail: "so many windows need a shorter range of days"})
	}
	if len(findings) > 0 {
		return errs.InvalidField(findings...)
	}
	return nil
}
