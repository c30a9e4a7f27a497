"""Benchmarks: the copy against psql, the proof and the assessment against the copy. No test depends on them."""
