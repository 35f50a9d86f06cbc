"""How much every layer matters, by one of several measures: computed once, remembered, asked by every pass."""
