package notify

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Template is a text with named gaps. Gateways in China send only texts that they have approved, so what is passed around is the key and
// the parameters; how each gateway calls the text stands in the settings of its sender.
type Template struct {
	Key     string            // such as task_due
	Params  []string          // the only names allowed, in the order of the gateways that count them. None may carry health data
	Text    map[string]string // language → text with {name} for each gap; English is required and stands in for what is missing
	Subject map[string]string // language → subject of a mail, the same for everybody: it has no gaps. English is required
}

// fallback is the language of last resort: a text in a foreign language still says that something is due.
const fallback = "en"

// Bounds that keep a message within what every gateway sends.
const (
	maxParams = 8
	maxText   = 300 // characters of a text without its parameters
	maxValue  = 100 // characters of one parameter
	maxTitle  = 60  // characters of a subject
)

var (
	templateKey   = regexp.MustCompile(`^[a-z][a-z0-9_]{0,39}$`)
	parameterName = regexp.MustCompile(`^[a-z][A-Za-z0-9]{0,19}$`)
	gap           = regexp.MustCompile(`\{([^{}]*)\}`)
)

// Templates is a checked set. It never changes and is safe for concurrent use.
type Templates struct{ byKey map[string]Template }

// NewTemplates checks and takes the templates. Its error names every problem.
func NewTemplates(list []Template) (*Templates, error) {
	set := &Templates{byKey: make(map[string]Template, len(list))}
	var problems []error
	for _, t := range list {
		if _, twice := set.byKey[t.Key]; twice {
			problems = append(problems, fmt.Errorf("template %s: stands there twice", t.Key))
		}
		problems = append(problems, t.validate())
		set.byKey[t.Key] = Template{Key: t.Key, Params: slices.Clone(t.Params), Text: byLanguage(t.Text), Subject: byLanguage(t.Subject)}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return set, nil
}

func byLanguage(texts map[string]string) map[string]string {
	lower := make(map[string]string, len(texts))
	for language, text := range texts {
		lower[strings.ToLower(language)] = text
	}
	return lower
}

// DefaultTemplates are the texts that eprod sends. They say that something is waiting or was not done, never what or why: a message can be
// read by whoever holds the phone. Only the one for site staff says whose, by study and participant number.
func DefaultTemplates() []Template {
	return []Template{
		{Key: "task_due", Params: []string{"until"}, Text: map[string]string{
			"en": "Your questionnaire is ready. Please fill it in by {until}.",
			"zh": "您有一份问卷待填写，请在{until}之前完成。",
		}, Subject: map[string]string{"en": "Your questionnaire is ready", "zh": "您有一份问卷待填写"}},
		{Key: "task_closing", Params: []string{"until"}, Text: map[string]string{
			"en": "Your questionnaire can still be filled in until {until}.",
			"zh": "您的问卷尚未完成，将于{until}截止。",
		}, Subject: map[string]string{"en": "Your questionnaire closes soon", "zh": "您的问卷即将截止"}},
		{Key: "task_missed", Params: []string{"study", "number", "until"}, Text: map[string]string{ // to site staff
			"en": "Study {study}, participant {number}: a questionnaire was not filled in by {until}.",
			"zh": "研究{study}的受试者{number}未在{until}之前完成一份问卷。",
		}, Subject: map[string]string{"en": "A questionnaire was not filled in", "zh": "有问卷未按时完成"}},
		{Key: "alert", Params: []string{"study", "number", "severity"}, Text: map[string]string{ // to staff
			"en": "Study {study}, participant {number}: a safety alert ({severity}) is open. Please sign in and acknowledge it.",
			"zh": "研究{study}的受试者{number}有一条安全警报（{severity}）待处理，请登录确认。",
		}, Subject: map[string]string{"en": "A safety alert is open", "zh": "有安全警报待处理"}},
		{Key: "invitation", Params: []string{"link"}, Text: map[string]string{
			"en": "Your personal page is ready. Open {link} to begin.",
			"zh": "您的个人页面已准备好，请打开{link}开始使用。",
		}, Subject: map[string]string{"en": "Your personal page is ready", "zh": "您的个人页面已准备好"}},
	}
}

func (t Template) validate() error {
	var problems []error
	bad := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("template "+t.Key+": "+format, args...))
	}
	if !templateKey.MatchString(t.Key) {
		bad("the key must be up to 40 small letters, digits and underscores")
	}
	if len(t.Params) > maxParams {
		bad("%d parameters: at most %d", len(t.Params), maxParams)
	}
	for i, name := range t.Params {
		if !parameterName.MatchString(name) || slices.Contains(t.Params[:i], name) {
			bad("parameter %q: must be up to 20 letters and digits, once", name)
		}
	}
	if t.Text[fallback] == "" {
		bad("the text in English is missing")
	}
	if t.Subject[fallback] == "" {
		bad("the subject in English is missing")
	}
	for _, language := range slices.Sorted(maps.Keys(t.Subject)) {
		subject := t.Subject[language]
		if n := utf8.RuneCountInString(subject); n == 0 || n > maxTitle || strings.ContainsFunc(subject, unfit) {
			bad("%s: the subject must have 1 to %d characters, without gaps and control characters", language, maxTitle)
		}
	}
	for _, language := range slices.Sorted(maps.Keys(t.Text)) {
		text := t.Text[language]
		if n := utf8.RuneCountInString(text); n == 0 || n > maxText {
			bad("%s: %d characters: must be 1 to %d", language, n, maxText)
		}
		for _, found := range gap.FindAllStringSubmatch(text, -1) {
			if !slices.Contains(t.Params, found[1]) {
				bad("%s: {%s} is not among its parameters", language, found[1])
			}
		}
	}
	return errors.Join(problems...)
}

// unfit holds of characters that could end a line or open a gap.
func unfit(r rune) bool { return unicode.IsControl(r) || strings.ContainsRune("{}\u2028\u2029", r) }

// Check refuses what no sender may send: an address that is none of its channel's, an unknown template, a parameter that the template does not name, a
// missing one, and a value that is empty, longer than 100 characters or holds control characters or braces. All refusals are errs.Invalid.
func (s *Templates) Check(m Message) error {
	_, err := s.find(m)
	return err
}

// Render returns the text in the nearest language, with the parameters filled in. Refusals as in Check.
func (s *Templates) Render(m Message) (string, error) {
	t, err := s.find(m)
	if err != nil {
		return "", err
	}
	text := inLanguage(t.Text, m.Language)
	return gap.ReplaceAllStringFunc(text, func(g string) string { return m.Params[g[1:len(g)-1]] }), nil
}

// Subject returns the subject of a mail in the nearest language. Refusals as in Check.
func (s *Templates) Subject(m Message) (string, error) {
	t, err := s.find(m)
	if err != nil {
		return "", err
	}
	return inLanguage(t.Subject, m.Language), nil
}

// inLanguage returns the text in the nearest language.
func inLanguage(texts map[string]string, tag string) string {
	for _, language := range nearest(tag) {
		if text := texts[language]; text != "" {
			return text
		}
	}
	return ""
}

func (s *Templates) find(m Message) (Template, error) {
	t, known := s.byKey[m.Template]
	switch {
	case !m.Channel.fits(m.To):
		return t, errAddress(m.Channel)
	case !known:
		return t, errTemplate(m.Template)
	}
	for _, name := range slices.Sorted(maps.Keys(m.Params)) {
		if !slices.Contains(t.Params, name) {
			return t, errParameter(t.Key, name, "is not allowed; allowed are: "+strings.Join(t.Params, ", "))
		}
	}
	for _, name := range t.Params {
		value := m.Params[name]
		if n := utf8.RuneCountInString(value); n == 0 || n > maxValue || !utf8.ValidString(value) {
			return t, errParameter(t.Key, name, fmt.Sprintf("must be 1 to %d characters", maxValue))
		}
		if strings.ContainsFunc(value, unfit) {
			return t, errParameter(t.Key, name, "must not hold control characters or braces")
		}
	}
	return t, nil
}

// values returns the parameters in the template's order.
func (t Template) values(m Message) []string {
	out := make([]string, len(t.Params))
	for i, name := range t.Params {
		out[i] = m.Params[name]
	}
	return out
}

// nearest lists the languages to try for a tag: itself, its primary language, English (RFC 4647 lookup, two steps).
func nearest(tag string) []string {
	tag = strings.ToLower(tag)
	primary, _, _ := strings.Cut(tag, "-")
	return []string{tag, primary, fallback}
}
