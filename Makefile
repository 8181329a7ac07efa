# make test is the one command that checks everything; CI runs the same.

export CGO_ENABLED ?= 0

.PHONY: build test test-long check bench services-up services-down fmt zone-data

build:
	go build -trimpath -o bin/eprod ./cmd/eprod

# Brings the real services up and runs vet, lint and every test with the race detector.
test:
	dev/test

# The long variants of every test that has one, on the real services, and what needs large programs such as Elasticsearch and Spark: hours.
test-long:
	dev/test-long

# Formatting, vet and lint only: seconds, no services.
check:
	dev/check

# Prints ratios beside baselines of the same run; needs the real services.
bench: services-up
	dev/bench

services-up:
	dev/services up

services-down:
	dev/services down

fmt:
	gofmt -w cmd deploy internal migrations

# Takes over the edition of the time zone data that the installed Go release has. Tasks record it.
zone-data:
	cp "$$(go env GOROOT)/lib/time/zoneinfo.zip" internal/task/zoneinfo/zoneinfo.zip
	sed -n 's/^DATA=//p' "$$(go env GOROOT)/lib/time/update.bash" > internal/task/zoneinfo/VERSION
