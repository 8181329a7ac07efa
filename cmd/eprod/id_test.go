package main

import (
	"strings"
	"testing"
)

func TestIDDecode(t *testing.T) {
	const id = "383149123456789012" // 91,349,869,598 ms since the epoch, worker 590, sequence 2580
	for _, tt := range []struct{ name, id, env, want, refused string }{
		{"an id", id, "", "time      2026-11-23T06:57:49.598Z\nworker    590\nsequence  2580\n", ""},
		{"another epoch", id, "EPROD_IDS__EPOCH=2025-01-01T00:00:00Z", "time      2027-11-24T06:57:49.598Z\n", ""},
		{"the first", "1", "", "time      2024-01-01T00:00:00.000Z\nworker    0\nsequence  1\n", ""},
		{"zero", "0", "", "", "0 is no id: ids are above zero"},
		{"a word", "abc", "", "", `"abc" is no id: an id is a decimal number between 1 and 9223372036854775807`},
		{"a sign", "+5", "", "", `"+5" is no id`},
		{"a space", " 5", "", "", `" 5" is no id`},
		{"hexadecimal", "0x5", "", "", `"0x5" is no id`},
		{"too large", "9223372036854775808", "", "", "is no id"},
		{"nothing", "", "", "", `"" is no id`},
		{"a sequence", id, "EPROD_IDS__KIND=sequence EPROD_REDIS__ADDRESS=localhost:1", "", "ids.kind is sequence: its numbers hold no time"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := rootCommand(strings.Fields(tt.env))
			var out strings.Builder
			root.SetOut(&out)
			root.SetErr(&out)
			root.SetArgs([]string{"id", "decode", "--", tt.id})
			err := root.Execute()
			if tt.refused != "" && (err == nil || !strings.Contains(err.Error(), tt.refused)) || tt.refused == "" && err != nil {
				t.Fatalf("%v, want %q", err, tt.refused)
			}
			if !strings.HasPrefix(out.String(), tt.want) {
				t.Errorf("printed %q, want %q", out.String(), tt.want)
			}
		})
	}
}
