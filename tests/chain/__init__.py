"""Whole cutovers, drawn at random, and an oracle that says what must come of them."""
