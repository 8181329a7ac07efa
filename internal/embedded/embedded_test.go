package embedded_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/eprod/eprod/internal/embedded"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == childArgument {
		if err := child(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

func open(t *testing.T, dir string) *embedded.Embedded {
	t.Helper()
	e, err := embedded.Open(dir, rand.Reader, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func TestOneHolder(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir)
	_, err := embedded.Open(dir, rand.Reader, slog.New(slog.DiscardHandler))
	if err == nil {
		t.Fatal("a second holder was let in")
	}
	for _, want := range []string{dir, fmt.Sprintf("pid %d", os.Getpid())} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
	open(t, dir)
}

func TestFolderThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := embedded.Open(file, rand.Reader, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v, want an error that names %s", err, file)
	}
}

func TestSecret(t *testing.T) {
	dir := t.TempDir()
	e := open(t, dir)
	first, err := e.Secret("signing", 32)
	if err != nil || len(first) != 32 || bytes.Equal(first, make([]byte, 32)) {
		t.Fatalf("got %d bytes, %v", len(first), err)
	}
	other, err := e.Secret("master", 32)
	if err != nil || bytes.Equal(first, other) {
		t.Fatalf("two secrets are alike, or %v", err)
	}
	info, err := os.Stat(filepath.Join(dir, "secrets", "signing"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := open(t, dir).Secret("signing", 32)
	if err != nil || !bytes.Equal(first, again) {
		t.Errorf("the secret changed: %v", err)
	}
}

// TestSecretIsNeverReplaced: data sealed with a secret is lost without it, so a damaged file is an error, not a reason to
// make another.
func TestSecretIsNeverReplaced(t *testing.T) {
	dir := t.TempDir()
	e := open(t, dir)
	path := filepath.Join(dir, "secrets", "signing")
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Secret("signing", 32); err == nil || !strings.Contains(err.Error(), "signing") {
		t.Errorf("got %v, want an error that names the secret", err)
	}
	left, err := os.ReadFile(path)
	if err != nil || string(left) != "short" {
		t.Errorf("the file was changed to %q, %v", left, err)
	}
}

func TestSecretWithoutRandomness(t *testing.T) {
	dir := t.TempDir()
	e, err := embedded.Open(dir, strings.NewReader("too few"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	if _, err := e.Secret("signing", 32); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v, want an error: a secret of zeros must not be made", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "secrets", "signing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file was left: %v", err)
	}
}

// TestCacheForgets: keys expire while Run runs.
func TestCacheForgets(t *testing.T) {
	e := open(t, t.TempDir())
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	c, err := e.RedisDial(t.Context(), "tcp", "cache")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	replies := bufio.NewReader(c)
	ask := func(command string) string {
		if _, err := io.WriteString(c, command+"\r\n"); err != nil {
			t.Fatal(err)
		}
		line, err := replies.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(line)
	}
	if got := ask("*5\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n$2\r\nPX\r\n$3\r\n300"); got != "+OK" {
		t.Fatalf("SET: %s", got)
	}
	const exists = "*2\r\n$6\r\nEXISTS\r\n$1\r\nk"
	if got := ask(exists); got != ":1" {
		t.Fatalf("EXISTS: %s, want the key", got)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ask(exists) != ":0" { // the connection's deadline ends it
		<-tick.C
	}
}

func TestNothingAfterClose(t *testing.T) {
	e := open(t, t.TempDir())
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := e.RedisDial(t.Context(), "tcp", "cache"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("cache: got %v, want net.ErrClosed", err)
	}
	if _, err := e.KafkaDial()(t.Context(), "tcp", e.KafkaBrokers()[0]); !errors.Is(err, net.ErrClosed) {
		t.Errorf("log: got %v, want net.ErrClosed", err)
	}
}
