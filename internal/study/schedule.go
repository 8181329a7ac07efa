package study

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/task"
)

// ScheduleVersion is one version of a study's schedule. Versions are never changed or removed; a later one replaces those that
// would have begun to apply at the same time or after it.
type ScheduleVersion struct {
	Version int64
	From    time.Time // it applies from then on; zero: from the beginning
	Design  task.Design
	By      int64
	At      time.Time
}

// applied returns those versions that apply at some time, ascending.
func applied(list []ScheduleVersion) []ScheduleVersion {
	var out []ScheduleVersion
	for _, v := range list {
		for len(out) > 0 && !out[len(out)-1].From.Before(v.From) {
			out = out[:len(out)-1]
		}
		out = append(out, v)
	}
	return out
}

// planOf compiles the versions that apply. They were checked against the study when they were put; what has changed since, such as
// an arm's code, does not matter to what they say.
func planOf(list []ScheduleVersion, questionnaires []Questionnaire) (task.Plan, error) {
	var plan task.Plan
	for _, v := range applied(list) {
		s, findings := task.NewSchedule(v.Version, v.Design, task.Known{Releases: releases(questionnaires)})
		if len(findings) > 0 {
			return nil, fmt.Errorf("stored schedule version %d: %s: %s", v.Version, findings[0].Pointer, findings[0].Detail)
		}
		s.From = v.From
		plan = append(plan, s)
	}
	return plan, nil
}

// releases tells which versions of a questionnaire are active, and since when.
func releases(list []Questionnaire) func(url string) []task.Release {
	return func(url string) []task.Release {
		var out []task.Release
		for i := range list {
			if list[i].URL == url && list[i].Status == Active {
				out = append(out, task.Release{Version: list[i].Version, From: list[i].PublishedAt})
			}
		}
		slices.SortFunc(out, func(a, b task.Release) int { return cmp.Or(a.From.Compare(b.From), cmp.Compare(a.Version, b.Version)) })
		return out
	}
}

// begins returns from when on a new version applies: in a draft from the beginning; later from now on, or from a stated instant
// that has not come yet, because what has opened stays as it was.
func begins(st Study, wanted, now time.Time) (time.Time, error) {
	switch {
	case st.Status == Draft && !wanted.IsZero():
		return time.Time{}, errs.InvalidField(errs.Finding{Pointer: "/effectiveAt", Code: "invalid_instant",
			Detail: "must be absent while the study is a draft: its schedule applies from the beginning"})
	case st.Status == Draft:
		return time.Time{}, nil
	case wanted.IsZero():
		return now, nil
	case wanted.Before(now):
		return time.Time{}, errs.InvalidField(errs.Finding{Pointer: "/effectiveAt", Code: "invalid_instant",
			Detail: "must not be in the past: what has opened by then stays as it was"})
	}
	return wanted.UTC().Truncate(time.Microsecond), nil
}
