package web_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"
	"go.uber.org/goleak"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/web"
)

// lines collects log lines; a handler's line may be written after its answer was read.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.buf.Write(p) }

func (l *lines) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.buf.String() }

func TestRunDrains(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	s := newServer(t, web.Deps{})
	started, finish := make(chan struct{}), make(chan struct{})
	s.Gin().GET("/slow", func(c *gin.Context) {
		close(started)
		<-finish
		if err := c.Request.Context().Err(); err != nil {
			c.String(500, err.Error())
			return
		}
		c.String(200, "done")
	})
	if err := s.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	answer := make(chan string, 1)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	go func() {
		res, err := client.Get("http://" + s.Addr() + "/slow")
		if err != nil {
			answer <- err.Error()
			return
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		answer <- fmt.Sprint(res.StatusCode, " ", string(body))
	}()
	<-started
	if s.Draining() {
		t.Error("draining before the stop")
	}
	stop()
	for refused := false; !refused; { // until the listener has closed
		conn, err := net.Dial("tcp", s.Addr())
		if err == nil {
			conn.Close()
		}
		refused = err != nil
	}
	if !s.Draining() {
		t.Error("not draining after the stop")
	}
	select {
	case err := <-ran:
		t.Fatalf("Run returned %v with a request in flight", err)
	default:
	}
	close(finish)
	if got := <-answer; got != "200 done" {
		t.Error(got)
	}
	if err := <-ran; err != nil {
		t.Error(err)
	}
}

func TestRunCutsOffAtTheLimit(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	cfg := web.DefaultConfig()
	cfg.Listen, cfg.DrainDelay, cfg.RequestTimeout = "127.0.0.1:0", 0, 20*time.Millisecond
	cfg.ReadTimeout, cfg.WriteTimeout, cfg.ShutdownTimeout = 30*time.Millisecond, 40*time.Millisecond, 50*time.Millisecond
	s, err := web.New(cfg, web.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	started, left := make(chan struct{}), make(chan struct{})
	s.Gin().GET("/stuck", func(c *gin.Context) {
		close(started)
		<-c.Request.Context().Done()
		close(left)
	})
	web.Describe(s.API(), huma.Operation{Method: "GET", Path: "/stuck", Metadata: map[string]any{web.RouteKey: web.Route{Timeout: time.Hour}}})
	if err := s.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	go func() {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		if res, err := client.Get("http://" + s.Addr() + "/stuck"); err == nil {
			res.Body.Close()
		}
	}()
	<-started
	stop()
	if err := <-ran; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want an error that tells of the requests cut off", err)
	}
	<-left
}

func TestTakenPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := web.DefaultConfig()
	cfg.Listen = l.Addr().String()
	s, err := web.New(cfg, web.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(t.Context()); err == nil || !strings.Contains(err.Error(), cfg.Listen) {
		t.Error(err)
	}
}

func TestRequestTimeout(t *testing.T) {
	cfg := web.DefaultConfig()
	cfg.RequestTimeout = time.Millisecond
	s, err := web.New(cfg, web.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	s.Gin().GET("/hung", func(c *gin.Context) {
		<-c.Request.Context().Done()
		web.WriteProblem(c, fmt.Errorf("query: %w", c.Request.Context().Err()))
	})
	w := do(t, s.Handler(), "GET", "/hung", "")
	checkProblem(t, w, 503, "unavailable", "", "")
	if w.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

func TestAccessLog(t *testing.T) {
	var out lines
	cfg := web.DefaultConfig()
	cfg.AccessLogSample = 10
	s, err := web.New(cfg, web.Deps{Log: slog.New(slog.NewJSONHandler(&out, nil))})
	if err != nil {
		t.Fatal(err)
	}
	s.Gin().GET("/people/:id", func(c *gin.Context) {
		switch c.Param("id") {
		case "panic":
			panic("born 1970")
		case "down":
			web.WriteProblem(c, errs.Away("the shard", errors.New("dial shard0: refused")))
		case "bad":
			web.WriteProblem(c, errs.InvalidParameter("id", "Anna is not an id"))
		default:
			c.String(200, "hello")
		}
	})
	web.Describe(s.API(), huma.Operation{Method: "GET", Path: "/people/{id}", Metadata: map[string]any{web.RouteKey: web.Route{Hot: true}}})
	for range 20 {
		do(t, s.Handler(), "GET", "/people/7?name=Anna", "")
	}
	if got := strings.Count(out.String(), `"msg":"request"`); got != 2 {
		t.Errorf("%d lines for 20 sampled answers, want 2", got)
	}
	first, _, _ := strings.Cut(out.String(), "\n")
	var line map[string]any
	if err := json.Unmarshal([]byte(first), &line); err != nil {
		t.Fatal(err)
	}
	if line["url.path"] != "/people/:id" || line["http.request.method"] != "GET" || line["http.response.status_code"] != 200.0 ||
		line["http.response.body.bytes"] != 5.0 || line["event.duration"] == nil || len(line["http.request.id"].(string)) != 32 {
		t.Error(first)
	}
	for _, id := range []string{"panic", "down", "bad"} {
		do(t, s.Handler(), "GET", "/people/"+id, "")
	}
	log := out.String()
	for _, want := range []string{"panic of type string", "error.stack_trace", "dial shard0: refused", `"error.code":"invalid_parameter"`} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not hold %s", want)
		}
	}
	for _, never := range []string{"Anna", "1970", "192.0.2.1"} {
		if strings.Contains(log, never) {
			t.Errorf("the log holds %s", never)
		}
	}
}

func TestRequestID(t *testing.T) {
	s := newServer(t, web.Deps{Random: bytes.NewReader(bytes.Repeat([]byte{0xab}, 1<<10))})
	s.Gin().GET("/", func(c *gin.Context) { c.String(200, web.RequestID(c.Request.Context())) })
	made := strings.Repeat("ab", 16)
	for sent, want := range map[string]string{
		"": made, "short": made, "with space in it": made, strings.Repeat("x", 65): made, "injected\nline-of-log": made,
		"0af7651916cd43dd8448eb211c80319c": "0af7651916cd43dd8448eb211c80319c",
	} {
		w := do(t, s.Handler(), "GET", "/", "", "X-Request-ID", sent)
		if w.Body.String() != want || w.Header().Get("X-Request-Id") != want {
			t.Errorf("%q gave %q", sent, w.Body.String())
		}
	}
	if web.RequestID(t.Context()) != "" {
		t.Error("an id outside of a request")
	}
}

func TestValidateNamesEveryProblem(t *testing.T) {
	cfg := web.Config{Listen: "8080", TrustedProxies: []string{"proxy"}, DrainDelay: -1}
	err := cfg.Validate()
	for _, key := range []string{"listen: 8080: ", "opsListen: ", "trustedProxies: proxy: ", "maxBodyBytes: ", "requestTimeout: ", "readHeaderTimeout: ",
		"idleTimeout: ", "readTimeout: ", "writeTimeout: ", "drainDelay: ", "shutdownTimeout: ", "accessLogSample: "} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%v does not name %s", err, key)
		}
	}
	if _, err := web.New(cfg, web.Deps{}); err == nil {
		t.Error("a server was made from a bad configuration")
	}
	if err := web.DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
}

func TestIfMatchAndNoneMatch(t *testing.T) {
	for header, want := range map[string]struct {
		version int64
		kind    errs.Kind
	}{
		`"3"`: {3, errs.Internal}, ` "0" `: {0, errs.Internal}, "": {0, errs.PreconditionRequired}, `W/"3"`: {0, errs.Invalid}, "3": {0, errs.Invalid},
		"*": {0, errs.Invalid}, `"-1"`: {0, errs.Invalid}, `"1","2"`: {0, errs.Invalid}, `"`: {0, errs.Invalid},
	} {
		version, err := web.IfMatch(header)
		if version != want.version || (err == nil) != (want.kind == errs.Internal) || err != nil && errs.KindOf(err) != want.kind {
			t.Errorf("%q: %d %v", header, version, err)
		}
	}
	if v, err := web.IfMatch(web.ETag(12)); v != 12 || err != nil {
		t.Error(v, err)
	}
	for header, want := range map[string]bool{`"3"`: true, `"2", W/"3"`: true, "*": true, "": false, `"2"`: false, "3": false} {
		if web.NoneMatch(header, `"3"`) != want {
			t.Errorf("%q: not %v", header, want)
		}
	}
}

// TestStream answers line by line while the request body is still coming, for longer than the server's own time-outs.
func TestStream(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	cfg := web.DefaultConfig()
	cfg.Listen, cfg.DrainDelay, cfg.MaxBodyBytes, cfg.RequestTimeout = "127.0.0.1:0", 0, 1024, 20*time.Millisecond
	cfg.ReadTimeout, cfg.WriteTimeout, cfg.ShutdownTimeout = 30*time.Millisecond, 40*time.Millisecond, 5*time.Second
	s, err := web.New(cfg, web.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	s.Gin().POST("/import", func(c *gin.Context) {
		for in := bufio.NewScanner(c.Request.Body); in.Scan(); {
			c.String(200, "got %s\n", in.Text())
			c.Writer.Flush()
		}
	})
	web.Describe(s.API(), huma.Operation{Method: "POST", Path: "/import", MaxBodyBytes: 1 << 20,
		Metadata: map[string]any{web.RouteKey: web.Route{Timeout: time.Minute, Stream: true}}})
	if err := s.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	body, send := io.Pipe()
	go func() { _, _ = send.Write([]byte("line 0\n")) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Post("http://"+s.Addr()+"/import", "application/x-ndjson", body)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answers := bufio.NewScanner(res.Body)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := range 5 {
		if want := fmt.Sprint("got line ", i); !answers.Scan() || answers.Text() != want {
			t.Fatalf("%q, want %q: %v", answers.Text(), want, answers.Err())
		}
		<-tick.C
		if _, err := fmt.Fprintf(send, "line %d\n", i+1); err != nil {
			t.Fatal(err)
		}
	}
	send.Close()
	stop()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Error(err)
	}
	if err := <-ran; err != nil {
		t.Error(err)
	}
}
