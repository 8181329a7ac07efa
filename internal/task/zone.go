package task

import (
	"archive/zip"
	"bytes"
	_ "embed"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// The IANA time zone data is part of the program: the same schedule gives the same instants on every machine, and the edition
// is recorded with each task. `make zone-data` takes over the edition of the installed Go release. The data is in the public
// domain.
//
//go:embed zoneinfo/zoneinfo.zip
var zoneArchive []byte

//go:embed zoneinfo/VERSION
var zoneEdition string

// ZoneData returns the edition of the time zone data, such as 2025c.
func ZoneData() string { return strings.TrimSpace(zoneEdition) }

// zoneFiles is the archive's table of contents, read once; it never changes.
var zoneFiles = sync.OnceValues(func() (map[string]*zip.File, error) {
	archive, err := zip.NewReader(bytes.NewReader(zoneArchive), int64(len(zoneArchive)))
	if err != nil {
		return nil, fmt.Errorf("embedded time zones: %w", err)
	}
	files := make(map[string]*zip.File, len(archive.File))
	for _, f := range archive.File {
		if !strings.HasSuffix(f.Name, "/") {
			files[f.Name] = f
		}
	}
	return files, nil
})

// KnownZone reports whether a name is that of a zone in the data. Go's names for UTC without a name and for the machine's own
// zone are none.
func KnownZone(name string) bool {
	files, err := zoneFiles()
	return err == nil && files[name] != nil
}

// LoadZone returns a zone of the data; it reads it each time.
func LoadZone(name string) (*time.Location, error) {
	files, err := zoneFiles()
	if err != nil {
		return nil, err
	}
	file := files[name]
	if file == nil {
		return nil, fmt.Errorf("unknown time zone %q", name)
	}
	content, err := file.Open()
	if err != nil {
		return nil, fmt.Errorf("time zone %s: %w", name, err)
	}
	defer content.Close()
	data, err := io.ReadAll(content)
	if err != nil {
		return nil, fmt.Errorf("time zone %s: %w", name, err)
	}
	return time.LoadLocationFromTZData(name, data)
}
