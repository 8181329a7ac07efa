package risk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/eprod/eprod/internal/errs"
)

// Contract names the form of what is sent and answered; docs/risk.md describes it.
const Contract = "eprod-risk-1"

const maxAnswer = 64 << 10 // bytes

// Guarded runs a call, unless too many have failed lately.
type Guarded interface {
	Do(ctx context.Context, call func(ctx context.Context) error) error
}

// Remote is a sponsor's own model behind HTTP. It is safe for concurrent use.
type Remote struct {
	URL     string
	Token   string // bearer; empty: none
	Name    Model  // what must answer
	Client  *http.Client
	Timeout time.Duration
	Breaker Guarded // around each call
}

type question struct {
	Contract string `json:"contract"`
	Input    Input  `json:"input"`
}

type reply struct {
	Model       string   `json:"model"`
	Version     string   `json:"version"`
	Level       string   `json:"level"`
	Probability *float64 `json:"probability"`
	Reasons     []string `json:"reasons"`
}

var reason = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// Model implements Assessor.
func (r *Remote) Model() Model { return r.Name }

// Assess implements Assessor: one POST, bounded in time and size, whose answer is held against the contract. Only what the model itself
// refuses is Permanent. An answer that breaks the contract is errs.Unavailable like none at all: it comes from a model that was changed
// before the settings were, and what it would have said of this input is not known.
func (r *Remote) Assess(ctx context.Context, in Input, _ *Setting) (Result, error) {
	var out Result
	var refused error
	err := r.Breaker.Do(ctx, func(ctx context.Context) error {
		result, err := r.call(ctx, in)
		if Permanent(err) { // the model works; this input does not
			refused = err
			return nil
		}
		out = result
		return err
	})
	if err == nil {
		err = refused
	}
	return out, err
}

func (r *Remote) call(ctx context.Context, in Input) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	body, err := json.Marshal(question{Contract, in})
	if err != nil {
		return Result{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL, bytes.NewReader(body))
	if err != nil {
		return Result{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	if r.Token != "" {
		req.Header.Set("Authorization", "Bearer "+r.Token)
	}
	res, err := r.Client.Do(req)
	if err != nil {
		var at *url.Error
		if errors.As(err, &at) {
			err = at.Err // without the address
		}
		return Result{}, errs.Away("the risk model", err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return Result{}, errs.Away("the risk model", err)
	case res.StatusCode == http.StatusUnprocessableEntity || res.StatusCode == http.StatusBadRequest:
		return Result{}, permanent("refused_by_model")
	case res.StatusCode != http.StatusOK:
		return Result{}, errs.Away("the risk model", fmt.Errorf("status %d", res.StatusCode))
	case len(raw) > maxAnswer:
		return Result{}, broken("answer_too_large")
	}
	return r.read(raw)
}

// broken says how an answer breaks the contract, never in the words of the answer.
func broken(how string) error { return errs.Away("the risk model", errors.New(how)) }

func (r *Remote) read(raw []byte) (Result, error) {
	var a reply
	if err := json.Unmarshal(raw, &a, json.RejectUnknownMembers(true), json.MatchCaseInsensitiveNames(false)); err != nil {
		return Result{}, broken("answer_malformed")
	}
	switch {
	case a.Model != r.Name.Name || a.Version != r.Name.Version:
		return Result{}, broken("answer_of_another_model")
	case !slices.Contains([]string{LevelNone, LevelLow, LevelModerate, LevelHigh}, a.Level):
		return Result{}, broken("answer_without_level")
	case a.Probability != nil && (*a.Probability < 0 || *a.Probability > 1):
		return Result{}, broken("answer_probability")
	case len(a.Reasons) > 20 || slices.ContainsFunc(a.Reasons, func(s string) bool { return !reason.MatchString(s) }):
		return Result{}, broken("answer_reasons")
	}
	return Result{Level: a.Level, Probability: a.Probability, Reasons: append([]string{}, a.Reasons...)}, nil
}
