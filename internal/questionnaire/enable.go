package questionnaire

// enabled reports whether an item may be answered in a scope: its own conditions hold, and all that is above it is enabled.
// Compile has refused circles, so this ends.
func (k *checker) enabled(s *scope, def *item) bool {
	if !def.conditional {
		return true
	}
	if def.parent != nil && s.parent != nil && !k.enabled(s.parent, def.parent) {
		return false
	}
	if len(def.conditions) == 0 {
		return true
	}
	for i := range def.conditions {
		holds := k.holds(s, &def.conditions[i])
		if holds == def.anyCondition { // any: the first that holds decides; all: the first that does not
			return holds
		}
	}
	return !def.anyCondition
}

// holds evaluates one condition from a scope: it looks at the source's answers inside the nearest instance of a group that
// holds both. An answer of a disabled item counts for nothing. Without an answer only "exists = false" holds.
func (k *checker) holds(s *scope, c *condition) bool {
	for s.def != nil && !above(s.def, c.source) {
		s = s.parent
	}
	exists, match := false, false
	k.find(s, c.source, func(v *Value) {
		exists = true
		match = match || c.matches(v)
	})
	if c.operator == "exists" {
		return exists == (c.answer.Text == "true")
	}
	return match
}

// above reports whether a is an ancestor of b.
func above(a, b *item) bool {
	for b = b.parent; b != nil; b = b.parent {
		if a == b {
			return true
		}
	}
	return false
}

// find calls fn for each answer of source at or below a scope.
func (k *checker) find(s *scope, source *item, fn func(*Value)) {
	step := source // the child of the scope's definition that leads to the source
	for step.parent != s.def {
		step = step.parent
	}
	for i := range s.items {
		it := &s.items[i]
		if it.LinkID != step.linkID {
			continue
		}
		if step == source {
			if !k.enabled(s, source) {
				return
			}
			for n := range it.Answers {
				if !it.Answers[n].Value.blank() {
					fn(&it.Answers[n].Value)
				}
			}
			continue
		}
		if step.kind == group {
			k.find(&scope{parent: s, def: step, items: it.Items, index: i, answer: -1}, source, fn)
			continue
		}
		for n := range it.Answers {
			k.find(&scope{parent: s, def: step, items: it.Answers[n].Items, index: i, answer: n}, source, fn)
		}
	}
}

func (c *condition) matches(v *Value) bool {
	switch c.operator {
	case "=":
		return v.equal(&c.answer)
	case "!=":
		return !v.equal(&c.answer)
	}
	order, ok := v.compare(&c.answer)
	if !ok {
		return false
	}
	switch c.operator {
	case ">":
		return order > 0
	case "<":
		return order < 0
	case ">=":
		return order >= 0
	case "<=":
		return order <= 0
	}
	return false
}
