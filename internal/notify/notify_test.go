package notify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/limit"
)

func TestUnsentOnlyWhenCertain(t *testing.T) {
	broken := errors.New("connection reset")
	for name, c := range map[string]struct {
		err                   error
		unsent, undeliverable bool
	}{
		"Nil":              {nil, false, false},
		"Plain":            {broken, false, false},
		"Deadline":         {context.DeadlineExceeded, false, false},
		"OutcomeUnknown":   {errOutcomeUnknown("x", broken), false, false},
		"Away":             {errs.Away("x", broken), false, false},
		"Internal":         {errs.New(errs.Internal, "x", "x"), false, false},
		"NoNumber":         {errNumber(), true, true},
		"NoTemplate":       {errTemplate("x"), true, true},
		"BadParameter":     {errParameter("x", "y", "z"), true, true},
		"NumberRefused":    {errNumberRefused("x", "1"), true, false},
		"TemplateRefused":  {errTemplateRefused("x", "1"), true, false},
		"SenderRefused":    {errSenderRefused("x", "1"), true, false},
		"Throttled":        {errThrottled("x", "1"), true, false},
		"Unreachable":      {errUnreachable("x", context.DeadlineExceeded), true, false},
		"BreakerOpen":      {errs.Away("x", limit.ErrOpen), true, false},
		"WrappedThrottled": {fmt.Errorf("send: %w", errThrottled("x", "1")), true, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Unsent(c.err); got != c.unsent {
				t.Errorf("Unsent(%v) = %v", c.err, got)
			}
			if got := Undeliverable(c.err); got != c.undeliverable {
				t.Errorf("Undeliverable(%v) = %v", c.err, got)
			}
		})
	}
}

func TestGatewaysWordsAreFitForLogs(t *testing.T) {
	got := errNumberRefused("aliyun", "isv.MOBILE\n+8613800138000 {\"a\"}"+strings.Repeat("x", 100)).Error()
	if strings.ContainsAny(got, "\n+{\"") || len(got) > 150 {
		t.Errorf("got %q", got)
	}
}

func TestTemplatesGuard(t *testing.T) {
	set, err := NewTemplates(DefaultTemplates())
	if err != nil {
		t.Fatal(err)
	}
	good := map[string]string{"until": "20:00"}
	for name, c := range map[string]struct {
		m    Message
		want string // code of the refusal; empty: allowed
	}{
		"Good":          {Message{To: "+8613800138000", Template: "task_due", Params: good}, ""},
		"NoPlus":        {Message{To: "8613800138000", Template: "task_due", Params: good}, "sms_number"},
		"LeadingZero":   {Message{To: "+013800138000", Template: "task_due", Params: good}, "sms_number"},
		"TooLong":       {Message{To: "+1234567890123456", Template: "task_due", Params: good}, "sms_number"},
		"TrailingLine":  {Message{To: "+8613800138000\n", Template: "task_due", Params: good}, "sms_number"},
		"NoTemplate":    {Message{To: "+8613800138000", Template: "free_text", Params: good}, "sms_template"},
		"HealthData":    {Message{To: "+8613800138000", Template: "task_due", Params: map[string]string{"until": "20:00", "diagnosis": "x"}}, "sms_parameter"},
		"Missing":       {Message{To: "+8613800138000", Template: "task_due"}, "sms_parameter"},
		"Empty":         {Message{To: "+8613800138000", Template: "task_due", Params: map[string]string{"until": ""}}, "sms_parameter"},
		"TooMuch":       {Message{To: "+8613800138000", Template: "task_due", Params: map[string]string{"until": strings.Repeat("好", 101)}}, "sms_parameter"},
		"JustFits":      {Message{To: "+8613800138000", Template: "task_due", Params: map[string]string{"until": strings.Repeat("好", 100)}}, ""},
		"Line":          {Message{To: "+8613800138000", Template: "task_due", Params: map[string]string{"until": "a\nb"}}, "sms_parameter"},
		"Braces":        {Message{To: "+8613800138000", Template: "task_due", Params: map[string]string{"until": "${x}"}}, "sms_parameter"},
		"BrokenEncoded": {Message{To: "+8613800138000", Template: "task_due", Params: map[string]string{"until": "\xff"}}, "sms_parameter"},
	} {
		t.Run(name, func(t *testing.T) {
			err := set.Check(c.m)
			e, _ := errs.As(err)
			if c.want == "" && err != nil || c.want != "" && (e == nil || e.Code != c.want || !Undeliverable(err)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if _, again := set.Render(c.m); (again == nil) != (err == nil) {
				t.Errorf("Render allows what Check refuses: %v, %v", again, err)
			}
		})
	}
}

func TestRenderTakesTheNearestLanguage(t *testing.T) {
	set, err := NewTemplates([]Template{{Key: "t", Params: []string{"a", "b"}, Text: map[string]string{"en": "{a} to {b}", "zh": "{a}到{b}", "zh-TW": "{a}至{b}"}}})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, language := range []string{"", "en-GB", "zh", "zh-CN", "zh-tw", "fr"} {
		text, err := set.Render(Message{To: "+441632960000", Template: "t", Language: language, Params: map[string]string{"a": "1", "b": "2"}})
		if err != nil {
			t.Fatal(err)
		}
		got[language] = text
	}
	want := map[string]string{"": "1 to 2", "en-GB": "1 to 2", "zh": "1到2", "zh-CN": "1到2", "zh-tw": "1至2", "fr": "1 to 2"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestBadTemplatesAreNamed(t *testing.T) {
	_, err := NewTemplates([]Template{
		{Key: "Bad Key", Params: []string{"a", "a"}, Text: map[string]string{"zh": "{b}"}},
		{Key: "long", Params: strings.Split("abcdefghi", ""), Text: map[string]string{"en": strings.Repeat("x", 301)}},
		{Key: "long", Text: map[string]string{"en": "x"}},
	})
	for _, want := range []string{"Bad Key: the key", `parameter "a"`, "English is missing", "{b} is not among", "9 parameters", "301 characters", "twice"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in %v", want, err)
		}
	}
}
