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
		"NoNumber":         {errAddress(SMS), true, true},
		"NoTemplate":       {errTemplate("x"), true, true},
		"NoMailAddress":    {errAddress(Email), true, true},
		"NoChannel":        {errAddress("pigeon"), true, true},
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
		"Good":          {Message{Channel: SMS, To: "+8613800138000", Template: "task_due", Params: good}, ""},
		"NoPlus":        {Message{Channel: SMS, To: "8613800138000", Template: "task_due", Params: good}, "sms_number"},
		"LeadingZero":   {Message{Channel: SMS, To: "+013800138000", Template: "task_due", Params: good}, "sms_number"},
		"TooLong":       {Message{Channel: SMS, To: "+1234567890123456", Template: "task_due", Params: good}, "sms_number"},
		"TrailingLine":  {Message{Channel: SMS, To: "+8613800138000\n", Template: "task_due", Params: good}, "sms_number"},
		"NoTemplate":    {Message{Channel: SMS, To: "+8613800138000", Template: "free_text", Params: good}, "sms_template"},
		"HealthData":    {Message{Channel: SMS, To: "+8613800138000", Template: "task_due", Params: map[string]string{"until": "20:00", "diagnosis": "x"}}, "sms_parameter"},
		"Missing":       {Message{Channel: SMS, To: "+8613800138000", Template: "task_due"}, "sms_parameter"},
		"Empty":         {Message{Channel: SMS, To: "+8613800138000", Template: "task_due", Params: map[string]string{"until": ""}}, "sms_parameter"},
		"TooMuch":       {Message{Channel: SMS, To: "+8613800138000", Template: "task_due", Params: map[string]string{"until": strings.Repeat("好", 101)}}, "sms_parameter"},
		"JustFits":      {Message{Channel: SMS, To: "+8613800138000", Template: "task_due", Params: map[string]string{"until": strings.Repeat("好", 100)}}, ""},
		"Line":          {Message{Channel: SMS, To: "+8613800138000", Template: "task_due", Params: map[string]string{"until": "a\nb"}}, "sms_parameter"},
		"Braces":        {Message{Channel: SMS, To: "+8613800138000", Template: "task_due", Params: map[string]string{"until": "${x}"}}, "sms_parameter"},
		"BrokenEncoded": {Message{Channel: SMS, To: "+8613800138000", Template: "task_due", Params: map[string]string{"until": "\xff"}}, "sms_parameter"},
		"Mail":          {Message{Channel: Email, To: "a.b+c@mail.example.org", Template: "task_due", Params: good}, ""},
		"MailLongest":   {Message{Channel: Email, To: "a@" + strings.Repeat("b.", 124) + "cdef", Template: "task_due", Params: good}, ""},
		"MailTooLong":   {Message{Channel: Email, To: "a@" + strings.Repeat("b.", 124) + "cdefg", Template: "task_due", Params: good}, "email_address"},
		"MailName":      {Message{Channel: Email, To: "A <a@example.org>", Template: "task_due", Params: good}, "email_address"},
		"MailBrackets":  {Message{Channel: Email, To: "<a@example.org>", Template: "task_due", Params: good}, "email_address"},
		"MailTwo":       {Message{Channel: Email, To: "a@example.org,b@example.org", Template: "task_due", Params: good}, "email_address"},
		"MailLine":      {Message{Channel: Email, To: "a@example.org\r\nBcc:b@example.org", Template: "task_due", Params: good}, "email_address"},
		"MailComment":   {Message{Channel: Email, To: "a@example.org(x)", Template: "task_due", Params: good}, "email_address"},
		"MailQuoted":    {Message{Channel: Email, To: `"a b"@example.org`, Template: "task_due", Params: good}, "email_address"},
		"MailForeign":   {Message{Channel: Email, To: "用户@example.org", Template: "task_due", Params: good}, "email_address"},
		"MailNumber":    {Message{Channel: Email, To: "+8613800138000", Template: "task_due", Params: good}, "email_address"},
		"NumberMail":    {Message{Channel: SMS, To: "a@example.org", Template: "task_due", Params: good}, "sms_number"},
		"NoChannel":     {Message{To: "+8613800138000", Template: "task_due", Params: good}, "message_channel"},
		"Separator":     {Message{Channel: SMS, To: "+8613800138000", Template: "task_due", Params: map[string]string{"until": "a\u2028b"}}, "sms_parameter"},
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
	set, err := NewTemplates([]Template{{Key: "t", Params: []string{"a", "b"}, Text: map[string]string{"en": "{a} to {b}", "zh": "{a}到{b}", "zh-TW": "{a}至{b}"},
		Subject: map[string]string{"en": "a", "zh": "甲"}}})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, language := range []string{"", "en-GB", "zh", "zh-CN", "zh-tw", "fr"} {
		text, err := set.Render(Message{Channel: SMS, To: "+441632960000", Template: "t", Language: language, Params: map[string]string{"a": "1", "b": "2"}})
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

// TestTextsHoldNothingOfHealth: all that can enter a text of ours is who (for staff, by number), when, where to click and how
// soon somebody must act.
func TestTextsHoldNothingOfHealth(t *testing.T) {
	want := map[string][]string{"task_due": {"until"}, "task_closing": {"until"}, "task_missed": {"study", "number", "until"}, "invitation": {"link"},
		"alert": {"study", "number", "severity"}}
	got := map[string][]string{}
	for _, template := range DefaultTemplates() {
		got[template.Key] = template.Params
		for _, language := range []string{"en", "zh"} {
			if template.Text[language] == "" || template.Subject[language] == "" {
				t.Errorf("%s has no text or subject in %s", template.Key, language)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSubjectTakesTheNearestLanguage(t *testing.T) {
	set, err := NewTemplates(DefaultTemplates())
	if err != nil {
		t.Fatal(err)
	}
	for language, want := range map[string]string{"zh-CN": "您有一份问卷待填写", "fr": "Your questionnaire is ready"} {
		got, err := set.Subject(Message{Channel: Email, To: "a@example.org", Template: "task_due", Language: language, Params: map[string]string{"until": "20:00"}})
		if got != want || err != nil {
			t.Errorf("%s: %q, %v", language, got, err)
		}
	}
	if _, err := set.Subject(Message{Channel: Email, To: "a@example.org", Template: "task_due"}); !Undeliverable(err) {
		t.Errorf("a message that may not be sent has a subject: %v", err)
	}
}

func TestBadTemplatesAreNamed(t *testing.T) {
	_, err := NewTemplates([]Template{
		{Key: "Bad Key", Params: []string{"a", "a"}, Text: map[string]string{"zh": "{b}"}},
		{Key: "long", Params: strings.Split("abcdefghi", ""), Text: map[string]string{"en": strings.Repeat("x", 301)}},
		{Key: "long", Text: map[string]string{"en": "x"}, Subject: map[string]string{"en": "x\r\nBcc: y", "zh": "{a}"}},
	})
	for _, want := range []string{"Bad Key: the key", `parameter "a"`, "English is missing", "{b} is not among", "9 parameters", "301 characters", "twice", "subject in English is missing", "en: the subject must", "zh: the subject must"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in %v", want, err)
		}
	}
}
