package idgen

import (
	"fmt"
	"strconv"
	"strings"
)

// Source says where a process has its worker number from when Config.Worker does not fix it.
type Source string

// The sources. The first three lease numbers and store how far ids may go.
const (
	FromDatabase Source = "database" // the metadata database
	FromRedis    Source = "redis"    // loses its memory: then new numbers rest for one leaseTtl
	FromEtcd     Source = "etcd"
	FromOrdinal  Source = "ordinal" // the number at the end of a StatefulSet's host name; nothing is stored
)

func (s Source) known() bool {
	return s == FromDatabase || s == FromRedis || s == FromEtcd || s == FromOrdinal
}

// Ordinal returns the worker number of a StatefulSet's pod: the 3 of eprod-api-3. The pods of one set never share a name at a time,
// which is all that keeps their numbers apart: two sets need a different source.
func Ordinal(host string) (int, error) {
	_, end, ok := cutLast(host, '-')
	n, err := strconv.Atoi(end)
	if !ok || err != nil || strconv.Itoa(n) != end || n >= Workers {
		return 0, fmt.Errorf("the host name %q does not end in a pod's number, as eprod-3 does, from 0 to %d", host, Workers-1)
	}
	return n, nil
}

func cutLast(s string, sep byte) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, sep)
	if i <= 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}
