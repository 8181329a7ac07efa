package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"
)

// SandboxConfig holds the settings of the local gateway. Start from DefaultSandboxConfig.
type SandboxConfig struct {
	Listen  string         `koanf:"listen"` // host:port; never a public address: the inbox shows numbers
	Aliyun  SandboxAccount `koanf:"aliyun"`
	Tencent SandboxAccount `koanf:"tencent"`
	Twilio  SandboxAccount `koanf:"twilio"`
	Inbox   int            `koanf:"inbox"` // messages kept; the oldest is forgotten
}

// SandboxAccount is the one account that the sandbox knows at a gateway.
type SandboxAccount struct {
	ID       string `koanf:"id"`       // AccessKeyID, SecretID or AccountSID
	Secret   string `koanf:"secret"`   // AccessKeySecret, SecretKey or AuthToken
	Callback string `koanf:"callback"` // where receipts go, with ?token=; Twilio's come with each message
}

// DefaultSandboxConfig returns accounts that everybody knows: nothing behind the sandbox is worth protecting.
func DefaultSandboxConfig() SandboxConfig {
	return SandboxConfig{
		Listen:  "127.0.0.1:8099",
		Aliyun:  SandboxAccount{ID: "sandbox", Secret: "sandbox-secret"},
		Tencent: SandboxAccount{ID: "sandbox", Secret: "sandbox-secret"},
		Twilio:  SandboxAccount{ID: "AC00000000000000000000000000000000", Secret: "sandbox-secret"},
		Inbox:   1000,
	}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c SandboxConfig) Validate() error {
	var p problems
	if c.Inbox < 1 || c.Inbox > 100_000 {
		p.add("inbox: %d: must be between 1 and 100000", c.Inbox)
	}
	for name, account := range c.accounts() {
		if account.ID == "" || account.Secret == "" {
			p.add("%s: id and secret must be set", name)
		}
		u, err := url.Parse(account.Callback)
		if account.Callback != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
			p.add("%s.callback: must be an http or https address", name)
		}
	}
	return errors.Join(p...)
}

func (c SandboxConfig) accounts() map[string]SandboxAccount {
	return map[string]SandboxAccount{AliyunName: c.Aliyun, TencentName: c.Tencent, TwilioName: c.Twilio}
}

// What a sandbox does with calls.
const (
	ModeNormal   = "normal"   // takes messages and answers as the gateway does
	ModeThrottle = "throttle" // refuses every call as too many
	ModeHang     = "hang"     // says nothing until the caller leaves or the next command
	ModeFail     = "fail"     // answers 500
	ModeGarbage  = "garbage"  // answers 200 with something that is no answer
)

// SandboxCommand is the body of POST /command. It replaces what was commanded before for the provider.
type SandboxCommand struct {
	Mode     string          `json:"mode"`     // empty: normal
	Provider string          `json:"provider"` // empty: all three
	Accept   bool            `json:"accept"`   // in the modes hang, fail and garbage: the message is taken all the same
	Receipts SandboxReceipts `json:"receipts"`
}

// SandboxReceipts says how delivery receipts are sent.
type SandboxReceipts struct {
	DelayMs   int64  `json:"delayMs"`   // between message and receipt, at most an hour
	Duplicate bool   `json:"duplicate"` // each is sent twice
	Reorder   bool   `json:"reorder"`   // each pair is swapped; one without a partner goes after a second
	Outcome   string `json:"outcome"`   // delivered (also empty), failed, or none: delivered, but no receipt is sent
}

// SandboxMessage is a message that the sandbox took.
type SandboxMessage struct {
	Provider   string    `json:"provider"`
	Reference  string    `json:"reference"`
	OutID      string    `json:"outId"` // for Twilio the id in the callback address
	To         string    `json:"to"`
	Template   string    `json:"template"` // the gateway's code; empty where the text came whole
	Params     string    `json:"params"`   // as they came
	Text       string    `json:"text"`
	ReceivedAt time.Time `json:"receivedAt"`
	State      State     `json:"state"`

	due      time.Time // from then on the outcome is known
	outcome  State
	callback string
}

// Bounds of the sandbox.
const (
	maxPending = 4096
	maxNonces  = 10_000
	maxRequest = 64 << 10
	hangLimit  = 2 * time.Minute
)

// Sandbox is a local gateway that speaks the wire forms of all three vendors, verifies their signatures, keeps what it took in an inbox
// and sends delivery receipts. Safe for concurrent use.
type Sandbox struct {
	config SandboxConfig
	now    func() time.Time
	log    *slog.Logger
	client *http.Client
	wake   chan struct{}

	mu      sync.Mutex
	orders  map[string]SandboxCommand
	inbox   []*SandboxMessage // oldest first
	pending []*delivery
	late    map[string]*delivery // by provider: waits for a partner to swap with
	nonces  map[string]bool
	recent  []string // nonces, oldest first
	last    int64    // of the references
	changed chan struct{}
	ended   bool
}

// NewSandbox returns a sandbox in normal mode. The config must be valid. Receipts are sent while Run runs.
func NewSandbox(config SandboxConfig, now func() time.Time, log *slog.Logger) *Sandbox {
	s := &Sandbox{config: config, now: now, log: log, client: &http.Client{Timeout: 5 * time.Second, Transport: http.DefaultTransport.(*http.Transport).Clone()},
		wake: make(chan struct{}, 1), orders: map[string]SandboxCommand{}, late: map[string]*delivery{}, nonces: map[string]bool{},
		last: now().UnixMilli() << 20, changed: make(chan struct{})}
	for name := range config.accounts() {
		s.orders[name] = SandboxCommand{Mode: ModeNormal, Provider: name}
	}
	return s
}

// Handler serves the gateways at /, the inbox page at GET /, its content as JSON at GET /inbox, and commands at POST /command.
func (s *Sandbox) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page)
	mux.HandleFunc("GET /inbox", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, s.Inbox()) })
	mux.HandleFunc("POST /command", s.command)
	mux.HandleFunc("POST /{$}", s.rpc)
	mux.HandleFunc("POST /2010-04-01/Accounts/{account}/Messages.json", s.twilioSend)
	mux.HandleFunc("GET /2010-04-01/Accounts/{account}/Messages.json", s.twilioList)
	mux.HandleFunc("GET /2010-04-01/Accounts/{account}/Messages/{file}", s.twilioFetch)
	return mux
}

// Inbox returns the messages taken, newest first.
func (s *Sandbox) Inbox() []SandboxMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	out := make([]SandboxMessage, 0, len(s.inbox))
	for _, m := range slices.Backward(s.inbox) {
		out = append(out, m.at(now))
	}
	return out
}

// at returns a copy with the state as it is known then.
func (m *SandboxMessage) at(now time.Time) SandboxMessage {
	c := *m
	c.State = Accepted
	if !now.Before(m.due) {
		c.State = m.outcome
	}
	return c
}

// Command changes the behaviour from now on; calls that hang are let go. It refuses what it does not know with an error for people.
func (s *Sandbox) Command(c SandboxCommand) error {
	if c.Mode == "" {
		c.Mode = ModeNormal
	}
	if c.Receipts.Outcome == "" {
		c.Receipts.Outcome = string(Delivered)
	}
	_, known := s.config.accounts()[c.Provider]
	switch {
	case !slices.Contains([]string{ModeNormal, ModeThrottle, ModeHang, ModeFail, ModeGarbage}, c.Mode):
		return fmt.Errorf("mode: %q: must be normal, throttle, hang, fail or garbage", c.Mode)
	case c.Provider != "" && !known:
		return fmt.Errorf("provider: %q: must be aliyun, tencent, twilio or empty for all", c.Provider)
	case c.Receipts.DelayMs < 0 || c.Receipts.DelayMs > time.Hour.Milliseconds():
		return fmt.Errorf("receipts.delayMs: %d: must be between 0 and 3600000", c.Receipts.DelayMs)
	case !slices.Contains([]string{string(Delivered), string(Failed), "none"}, c.Receipts.Outcome):
		return fmt.Errorf("receipts.outcome: %q: must be delivered, failed or none", c.Receipts.Outcome)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.orders {
		if c.Provider == "" || c.Provider == name {
			order := c
			order.Provider = name
			s.orders[name] = order
		}
	}
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

func (s *Sandbox) command(w http.ResponseWriter, r *http.Request) {
	var c SandboxCommand
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&c)
	if err == nil {
		err = s.Command(c)
	}
	if err != nil {
		answer(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return
	}
	answer(w, http.StatusOK, s.behaviour())
}

// behaviour returns what is commanded, by provider.
func (s *Sandbox) behaviour() map[string]SandboxCommand {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]SandboxCommand, len(s.orders))
	for name, c := range s.orders {
		out[name] = c
	}
	return out
}

// take puts a message into the inbox and its receipts into the queue. It gives the message its reference in the given format.
func (s *Sandbox) take(m SandboxMessage, format string) SandboxMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	order := s.orders[m.Provider]
	s.last++
	m.Reference = fmt.Sprintf(format, s.last)
	m.ReceivedAt = s.now()
	m.due = m.ReceivedAt.Add(time.Duration(order.Receipts.DelayMs) * time.Millisecond)
	m.outcome = Delivered
	if order.Receipts.Outcome == string(Failed) {
		m.outcome = Failed
	}
	s.inbox = append(s.inbox, &m)
	if over := len(s.inbox) - s.config.Inbox; over > 0 {
		s.inbox = slices.Delete(s.inbox, 0, over)
	}
	if m.callback != "" && order.Receipts.Outcome != "none" {
		s.schedule(m, order.Receipts)
	}
	return m.at(m.ReceivedAt)
}

// misbehave does what the command says instead of answering, and reports whether it did.
func (s *Sandbox) misbehave(w http.ResponseWriter, r *http.Request, order SandboxCommand, throttle func()) bool {
	switch order.Mode {
	case ModeThrottle:
		throttle()
	case ModeFail:
		http.Error(w, "the sandbox was told to fail", http.StatusInternalServerError)
	case ModeGarbage:
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html><body>Welcome to the airport's network")
	case ModeHang:
		s.hang(r.Context())
		panic(http.ErrAbortHandler) // net/http's way to break the connection without an answer
	default:
		return false
	}
	return true
}

// hang waits until the caller leaves, the next command, the end of Run, or two minutes.
func (s *Sandbox) hang(ctx context.Context) {
	s.mu.Lock()
	changed, ended := s.changed, s.ended
	s.mu.Unlock()
	if ended {
		return
	}
	limit := time.NewTimer(hangLimit)
	defer limit.Stop()
	select {
	case <-ctx.Done():
	case <-changed:
	case <-limit.C:
	}
}

func answer(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "the sandbox cannot encode its answer", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
