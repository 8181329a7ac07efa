package questionnaire

import (
	"errors"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/eprod/eprod/internal/strictjson"
)

// The parts of the resource that rules look at; everything else is kept in the bytes that are served.
type fhirQuestionnaire struct {
	ResourceType      string          `json:"resourceType"`
	URL               string          `json:"url"`
	Version           string          `json:"version"`
	Title             string          `json:"title"`
	Status            string          `json:"status"`
	ModifierExtension []fhirExtension `json:"modifierExtension"`
	Extension         []fhirExtension `json:"extension"`
	Contained         []fhirContained `json:"contained"`
	Item              []fhirItem      `json:"item"`
}

type fhirContained struct {
	ResourceType string `json:"resourceType"`
	ID           string `json:"id"`
	Compose      struct {
		Include []struct {
			System  string `json:"system"`
			Concept []struct {
				Code    string `json:"code"`
				Display string `json:"display"`
			} `json:"concept"`
			Filter   []jsontext.Value `json:"filter"`
			ValueSet []string         `json:"valueSet"`
		} `json:"include"`
		Exclude []jsontext.Value `json:"exclude"`
	} `json:"compose"`
}

type fhirItem struct {
	LinkID            string           `json:"linkId"`
	Type              string           `json:"type"`
	Text              string           `json:"text"`
	TextElement       fhirElement      `json:"_text"`
	Code              []jsontext.Value `json:"code"`
	Required          *bool            `json:"required"`
	Repeats           *bool            `json:"repeats"`
	ReadOnly          *bool            `json:"readOnly"`
	MaxLength         *int             `json:"maxLength"`
	EnableWhen        []fhirCondition  `json:"enableWhen"`
	EnableBehavior    string           `json:"enableBehavior"`
	AnswerValueSet    string           `json:"answerValueSet"`
	AnswerOption      []fhirOption     `json:"answerOption"`
	Initial           []fhirAny        `json:"initial"`
	Extension         []fhirExtension  `json:"extension"`
	ModifierExtension []fhirExtension  `json:"modifierExtension"`
	Item              []fhirItem       `json:"item"`
}

type fhirElement struct {
	Extension []fhirExtension `json:"extension"`
}

type fhirCondition struct {
	Question string  `json:"question"`
	Operator string  `json:"operator"`
	Rest     fhirAny `json:",embed"`
}

type fhirOption struct {
	InitialSelected bool            `json:"initialSelected"`
	Extension       []fhirExtension `json:"extension"`
	Rest            fhirAny         `json:",embed"`
}

type fhirExtension struct {
	URL       string          `json:"url"`
	Extension []fhirExtension `json:"extension"`
	Rest      fhirAny         `json:",embed"`
}

// fhirAny holds the members that no field names, value[x] among them.
type fhirAny map[string]jsontext.Value

// value reads the one member that begins with prefix as a value[x]; "answer" is how enableWhen names it.
func (m fhirAny) value(prefix string) (v Value, many bool) {
	for name, raw := range m {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok || rest == "" || rest[0] < 'A' || rest[0] > 'Z' {
			continue
		}
		many = v.Name != ""
		var in strictjson.Reader
		in.Reset(string(raw))
		v = (&parser{Reader: &in}).value("value" + rest)
		v.Bad = v.Bad || in.End() != nil
	}
	return v, many
}

// raw returns the text of a member of an extension, unquoted where it is a string.
func (m fhirAny) raw(prefix string) string {
	for name, raw := range m {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		if raw.Kind() == '"' {
			plain, err := jsontext.AppendUnquote(nil, raw)
			if err == nil {
				return string(plain)
			}
		}
		return string(raw)
	}
	return ""
}

// parse reads the resource strictly. Its error says where the JSON broke, never what stood there.
func parse(raw []byte) (*fhirQuestionnaire, error) {
	var q fhirQuestionnaire
	err := json.Unmarshal(raw, &q, json.MatchCaseInsensitiveNames(false))
	if err == nil {
		return &q, nil
	}
	var semantic *json.SemanticError
	if errors.As(err, &semantic) {
		return nil, errors.New("the element at " + string(semantic.JSONPointer) + " does not have the JSON type that FHIR gives it")
	}
	if errors.Is(err, jsontext.ErrDuplicateName) {
		return nil, errors.New("a JSON object has the same member twice")
	}
	return nil, errors.New("the questionnaire is not one well-formed JSON object")
}
