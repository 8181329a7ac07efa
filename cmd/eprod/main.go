// Command eprod is an ePRO server for clinical trials: one binary whose flags choose the roles that run.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/redis/go-redis/v9"
)

func main() {
	redis.SetLogger(quietRedis{}) // it would print lines of another form than the log; every failure is returned as an error as well
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // from here on a second signal has its default effect: the process ends at once
	}()
	if err := rootCommand(os.Environ()).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "eprod: "+err.Error())
		os.Exit(1)
	}
}

// quietRedis drops what the Redis library prints by itself.
type quietRedis struct{}

// Printf implements the library's logger.
func (quietRedis) Printf(context.Context, string, ...any) {}
