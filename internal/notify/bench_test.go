package notify

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/eprod/eprod/internal/testenv"
)

// BenchmarkWorker sends what became due in the same minute: one process, two shards, a gateway over HTTP that answers at once and is in
// this process as well. An op is one message.
func BenchmarkWorker(b *testing.B) {
	for dialect := range testenv.Shards(b) {
		b.Run(dialect, func(b *testing.B) {
			shards := testenv.Shards(b)[dialect]
			w := newDesk(b, shards, nil)
			w.command(SandboxCommand{Mode: ModeNormal, Receipts: SandboxReceipts{Outcome: "none"}})
			w.gateway.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = 200
			config := DefaultServiceConfig()
			config.Rate, config.Burst, config.Batch, config.Interval = 1000, 200, 200, 10*time.Millisecond
			s := w.paced(config, TwilioName)
			for i := range b.N {
				request := w.wish(fmt.Sprint("bench:", i))
				request.Participant = int64(i + 1)
				if _, _, err := s.Queue(b.Context(), request); err != nil {
					b.Fatal(err)
				}
			}
			b.ResetTimer()
			ctx, stop := context.WithCancel(b.Context())
			ended := make(chan error, 1)
			go func() { ended <- s.Work(ctx) }()
			for deadline := time.Now().Add(time.Minute); w.counted(TwilioName+" accepted") < b.N && time.Now().Before(deadline); {
				<-time.After(time.Millisecond)
			}
			b.StopTimer()
			stop()
			if err := <-ended; err != nil {
				b.Fatal(err)
			}
			sent := w.counted(TwilioName + " accepted")
			if sent < b.N {
				b.Errorf("%d of %d were taken: %v", sent, b.N, w.counts)
			}
			b.ReportMetric(float64(sent)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}
