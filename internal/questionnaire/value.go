package questionnaire

import (
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Value is one value[x] as it was written.
type Value struct {
	Name   string // valueInteger, valueCoding, …; "" is no value
	Text   string // of primitives: digits as written, true or false, or the string; of a Quantity its value; of a Reference its reference
	System string // of a Coding, and of a Quantity's unit
	Code   string // of a Coding, and of a Quantity's unit
	Unit   string // of a Quantity, for people
	Media  string // contentType of an Attachment
	Size   int64  // of an Attachment, in bytes
	Bad    bool   // the JSON does not have the form of the type
}

// key identifies a value among options: codings by system and code, numbers by value.
func (v *Value) key() string {
	switch v.Name {
	case "valueCoding":
		return "c\x00" + v.System + "\x00" + v.Code
	case "valueInteger", "valueDecimal":
		if r, ok := new(big.Rat).SetString(v.Text); ok {
			return "n\x00" + r.RatString()
		}
	case "valueQuantity":
		if r, ok := new(big.Rat).SetString(v.Text); ok {
			return "q\x00" + r.RatString() + "\x00" + v.System + "\x00" + v.unitCode()
		}
	}
	return v.Name + "\x00" + v.Text
}

func (v *Value) unitCode() string {
	if v.Code != "" {
		return v.Code
	}
	return v.Unit
}

func (v *Value) blank() bool {
	switch v.Name {
	case "":
		return true
	case "valueCoding":
		return v.Code == "" && strings.TrimSpace(v.Text) == ""
	case "valueAttachment":
		return false
	default:
		return strings.TrimSpace(v.Text) == ""
	}
}

func (v *Value) isNumber() bool {
	return v.Name == "valueInteger" || v.Name == "valueDecimal" || v.Name == "valueQuantity"
}

var (
	dateForm     = regexp.MustCompile(`^[0-9]{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12][0-9]|3[01]))?)?$`)
	dateTimeForm = regexp.MustCompile(`^[0-9]{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12][0-9]|3[01])(T([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]{1,9})?(Z|[+-]((0[0-9]|1[0-3]):[0-5][0-9]|14:00)))?)?)?$`)
	timeForm     = regexp.MustCompile(`^([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]{1,9})?$`)
	decimalForm  = regexp.MustCompile(`^-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,2})?$`)
)

// wellFormed reports whether a primitive has the form of its type (http://hl7.org/fhir/R4/datatypes.html).
func (v *Value) wellFormed() bool {
	if v.Bad {
		return false
	}
	switch v.Name {
	case "valueInteger":
		_, err := strconv.ParseInt(v.Text, 10, 32)
		return err == nil && v.Text[0] != '+' && v.Text != "-0"
	case "valueDecimal", "valueQuantity":
		return v.Text == "" && v.Name == "valueQuantity" || decimalForm.MatchString(v.Text)
	case "valueDate":
		return dateForm.MatchString(v.Text) && realDate(v.Text)
	case "valueDateTime":
		return dateTimeForm.MatchString(v.Text) && realDate(v.Text[:min(len(v.Text), 10)])
	case "valueTime":
		return timeForm.MatchString(v.Text)
	default:
		return true
	}
}

func realDate(s string) bool {
	if len(s) != len(time.DateOnly) {
		return true
	}
	_, err := time.Parse(time.DateOnly, s)
	return err == nil
}

// compare orders two values of one kind; ok is false where they have no order, such as quantities of different units or a
// dateTime that is less precise than what it is compared with needs.
func (v *Value) compare(w *Value) (order int, ok bool) {
	switch {
	case v.isNumber() && w.isNumber():
		if v.Name == "valueQuantity" && (v.System != w.System || v.unitCode() != w.unitCode()) {
			return 0, false
		}
		if a, errA := strconv.ParseInt(v.Text, 10, 64); errA == nil {
			if b, errB := strconv.ParseInt(w.Text, 10, 64); errB == nil {
				return cmpInt(a, b), true
			}
		}
		a, okA := new(big.Rat).SetString(v.Text)
		b, okB := new(big.Rat).SetString(w.Text)
		if !okA || !okB {
			return 0, false
		}
		return a.Cmp(b), true
	case v.Name == "valueTime" && w.Name == "valueTime":
		return strings.Compare(strings.TrimRight(v.Text, "0."), strings.TrimRight(w.Text, "0.")), true
	case v.dated() && w.dated():
		a, errA := time.Parse(time.RFC3339Nano, v.Text)
		b, errB := time.Parse(time.RFC3339Nano, w.Text)
		if errA == nil && errB == nil {
			return a.Compare(b), true
		}
		// At the precision of the less precise one: 2026-11 is not before 2026-11-23.
		n := min(len(v.Text), len(w.Text), len(time.DateOnly))
		return strings.Compare(v.Text[:n], w.Text[:n]), true
	case v.Name == w.Name && (v.Name == "valueString" || v.Name == "valueUri"):
		return strings.Compare(v.Text, w.Text), true
	}
	return 0, false
}

func cmpInt(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (v *Value) dated() bool { return v.Name == "valueDate" || v.Name == "valueDateTime" }

// equal reports whether two values mean the same.
func (v *Value) equal(w *Value) bool {
	if v.Name == "valueCoding" && w.Name == "valueCoding" {
		return v.Code == w.Code && v.System == w.System
	}
	if order, ok := v.compare(w); ok {
		return order == 0
	}
	return v.Name == w.Name && v.key() == w.key()
}

// decimals counts the digits after the point as written.
func (v *Value) decimals() int {
	mantissa, _, _ := strings.Cut(strings.ToLower(v.Text), "e")
	_, fraction, _ := strings.Cut(mantissa, ".")
	return len(fraction)
}

func characters(s string) int { return utf8.RuneCountInString(s) }
