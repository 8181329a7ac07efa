package questionnaire

// Offers reports whether a value is one that the version itself names for an item: an answer option, or for a quantity one of the
// units. Such a value holds nothing that the person who answered has written.
func (d *Definition) Offers(linkID string, v Value) bool {
	it := d.all[linkID]
	if it == nil || v.Bad {
		return false
	}
	if v.Name == "valueQuantity" {
		return it.options[v.key()] || v.Code != "" && it.units[v.System+"\x00"+v.Code]
	}
	return it.options[v.key()]
}
