package task

// Design is a schedule as staff write it: the JSON of PUT …/schedule.
type Design struct {
	Rules    []Rule    `json:"rules"`
	Policies *Policies `json:"policies,omitempty" doc:"where sponsors differ; what is absent has its default"`
	Messages *Messages `json:"messages,omitempty" doc:"when reminders may go out"`
}

// Rule says which questionnaire is due when. Schedule holds it in a form that computes.
type Rule struct {
	ID            string     `json:"id" doc:"unique in the schedule; part of the identity of its tasks"`
	Questionnaire string     `json:"questionnaire" doc:"canonical url|version; the url alone means the version that is the newest when the task opens"`
	Arms          []string   `json:"arms,omitempty" doc:"codes; empty means every arm"`
	Anchor        string     `json:"anchor" doc:"the event whose date is counted from, such as enrolment"`
	Offset        string     `json:"offset" doc:"ISO 8601 period from the anchor to the first day, such as P0D or P1M"`
	Repeat        *Repeat    `json:"repeat,omitempty"`
	Burst         *Burst     `json:"burst,omitempty" doc:"several days in place of each day of the series"`
	Weekdays      []string   `json:"weekdays,omitempty" doc:"only these days: MO TU WE TH FR SA SU"`
	Windows       []Window   `json:"windows,omitempty" doc:"at least one, unless the rule is for any time"`
	Anytime       *Anytime   `json:"anytime,omitempty" doc:"can be answered at any time of its days, and need not be"`
	Reminders     []Reminder `json:"reminders,omitempty"`
}

// PerDay returns how many tasks a day of the rule has.
func (r *Rule) PerDay() int {
	if r.Anytime != nil {
		return r.Anytime.PerDay
	}
	return len(r.Windows)
}

// Repeat says how a rule goes on after its first day: until a day, for a number of times, or until an event.
type Repeat struct {
	Every      string `json:"every" doc:"ISO 8601 period, such as P1D, P1W or P1M"`
	Until      string `json:"until,omitempty" doc:"ISO 8601 period from the anchor to the last possible day, which counts"`
	Count      int    `json:"count,omitempty" doc:"how many times, the first included" minimum:"0"`
	UntilEvent string `json:"untilEvent,omitempty" doc:"the event on whose day the series ends; that day counts"`
}

// Burst is a block of days, repeated wherever the rule has a day: a diary for seven days every three months.
type Burst struct {
	Every string `json:"every" doc:"ISO 8601 period of days from one day of the block to the next, such as P1D"`
	Count int    `json:"count" doc:"days of the block" minimum:"1"`
}

// Anytime makes a questionnaire that participants may answer when they want to, such as after a fall.
type Anytime struct {
	PerDay int `json:"perDay" doc:"answers that a day takes" minimum:"1" maximum:"24"`
}

// Window is a time of the day in the participant's local time.
type Window struct {
	Opens  string `json:"opens" doc:"HH:MM"`
	Due    string `json:"due" doc:"HH:MM"`
	Closes string `json:"closes" doc:"HH:MM; at or before opens means the next day"`
	Grace  string `json:"grace,omitempty" doc:"ISO 8601 duration after closes in which an answer still counts, as late"`
}

// Reminder is a message relative to a window. It is one rung of the ladder of its tasks.
type Reminder struct {
	At       string   `json:"at" enum:"opens,due,closes,missed" doc:"missed is the end of the grace"`
	After    string   `json:"after" doc:"ISO 8601 duration, may be negative, such as -PT1H"`
	To       string   `json:"to,omitempty" enum:"participant,site" doc:"absent: the participant, or the site once it is missed"`
	Channels []string `json:"channels,omitempty" doc:"sms, email; absent: sms to participants, email to sites"`
}

// Policies settle what a protocol may settle either way.
type Policies struct {
	SkippedHour  string `json:"skippedHour,omitempty" enum:"after,shift" doc:"a wall time that the clocks skip: the first instant after (default), or as late after the change as it stands after the hour's begin"`
	RepeatedHour string `json:"repeatedHour,omitempty" enum:"wide,first,second" doc:"a wall time that comes twice: opens at the first and closes at the second (default), or both at one of them"`
	MonthEnd     string `json:"monthEnd,omitempty" enum:"clamp,skip" doc:"the 31st of a shorter month: its last day (default), or none"`
	Travel       string `json:"travel,omitempty" enum:"unopened,home" doc:"a change of zone moves the windows that have not opened (default), or none"`
	Offline      string `json:"offline,omitempty" doc:"ISO 8601 duration after closes in which an answer that was given inside the window by the device's clock counts as in time; PT0S by default"`
}

// Messages bound the reminders of a study.
type Messages struct {
	Quiet    *Quiet         `json:"quiet,omitempty" doc:"no message goes out then"`
	Holidays []string       `json:"holidays,omitempty" doc:"local dates YYYY-MM-DD on which no message goes out"`
	Budget   map[string]int `json:"budget,omitempty" doc:"messages per channel and day (UTC) of the whole study; absent: no limit"`
	Spread   string         `json:"spread,omitempty" doc:"ISO 8601 duration over which the messages of one moment are spread, PT50S by default, PT10M at most"`
}

// Quiet is a time of the day in the participant's local time; until at or before from means the next day.
type Quiet struct {
	From  string `json:"from" doc:"HH:MM"`
	Until string `json:"until" doc:"HH:MM"`
}
