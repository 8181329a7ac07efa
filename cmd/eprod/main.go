// Command eprod is an ePRO server for clinical trials: one binary whose flags choose the roles that run.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
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
