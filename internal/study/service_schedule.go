package study

import (
	"context"
	"slices"
	"time"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/task"
)

// PutSchedule checks rules and makes them the study's next schedule version. Two at once: the later is errs.Stale.
func (s *Service) PutSchedule(ctx context.Context, study int64, rules []task.Rule) (task.Schedule, error) {
	who, was, err := s.design(ctx, study, auth.StudyDesign)
	if err != nil {
		return task.Schedule{}, err
	}
	schedule, err := s.checked(ctx, study, was.ScheduleVersion+1, rules)
	if err != nil {
		return task.Schedule{}, err
	}
	var before any
	if was.ScheduleVersion > 0 {
		old, err := s.Shelf.Rules(ctx, study, was.ScheduleVersion)
		if err != nil {
			return task.Schedule{}, err
		}
		before = scheduleOf(was.ScheduleVersion, old)
	}
	a, err := s.begin(ctx, who)
	if err != nil {
		return task.Schedule{}, err
	}
	entry := a.entry("schedule.put", "schedule", study, study, before, scheduleOf(schedule.Version, schedule.Rules))
	err = s.Shelf.PutSchedule(ctx, was, schedule.Rules, who.ID, a.at, entry)
	s.Catalog.Forget(ctx, study)
	return schedule, err
}

// scheduleOf is a schedule as the audit entry shows it.
func scheduleOf(version int64, rules []task.Rule) map[string]any {
	return map[string]any{"version": version, "rules": rules}
}

// checked holds rules against what the study has: its arms and its active questionnaire versions.
func (s *Service) checked(ctx context.Context, study, version int64, rules []task.Rule) (task.Schedule, error) {
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
	schedule, findings := task.NewSchedule(version, rules, task.Known{
		Arm:           func(code string) bool { return hasArm(arms, code) },
		Questionnaire: func(canonical string) bool { return active[canonical] },
	})
	if len(findings) > 0 {
		return task.Schedule{}, errs.New(errs.Unprocessable, "invalid_schedule", "the schedule breaks a rule; see errors").WithFindings(findings)
	}
	return schedule, nil
}

func hasArm(arms []Arm, code string) bool {
	return slices.ContainsFunc(arms, func(a Arm) bool { return a.Code == code })
}

// Schedule returns a study's current schedule; errs.NotFound where there is none.
func (s *Service) Schedule(ctx context.Context, study int64) (task.Schedule, error) {
	if _, err := s.Guard.Study(ctx, study, auth.StudyRead); err != nil {
		return task.Schedule{}, err
	}
	st, err := s.Shelf.ByID(ctx, study)
	if err != nil {
		return task.Schedule{}, err
	}
	return s.current(ctx, st)
}

func (s *Service) current(ctx context.Context, st Study) (task.Schedule, error) {
	if st.ScheduleVersion == 0 {
		return task.Schedule{}, errs.Absent("schedule")
	}
	rules, err := s.Shelf.Rules(ctx, st.ID, st.ScheduleVersion)
	return task.Schedule{Version: st.ScheduleVersion, Rules: rules}, err
}

// Preview computes the tasks of an imagined participant by given rules, or by the current ones where rules is nil. It writes
// nothing.
func (s *Service) Preview(ctx context.Context, study int64, rules []task.Rule, p task.Person, from, to time.Time) ([]task.Task, error) {
	if _, err := s.Guard.Study(ctx, study, auth.StudyRead); err != nil {
		return nil, err
	}
	st, err := s.Shelf.ByID(ctx, study)
	if err != nil {
		return nil, err
	}
	schedule := task.Schedule{Version: st.ScheduleVersion + 1, Rules: rules}
	if rules == nil {
		if schedule, err = s.current(ctx, st); err != nil {
			return nil, err
		}
	}
	schedule, err = s.checked(ctx, study, schedule.Version, schedule.Rules)
	if err != nil {
		return nil, err
	}
	p.ID, p.Study = 1, study
	if err := s.previewable(ctx, schedule, p, from, to); err != nil {
		return nil, err
	}
	return s.Engine.Generate(schedule, p, from, to), nil
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
	for i := range schedule.Rules {
		windows += len(schedule.Rules[i].Windows)
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
