"""The proof that the target equals the snapshot: counts, content, keys, references, smoke tests, and its Data Docs.

Everything here only reads. The copy itself (``copying``) and the sequences, constraints and catalog of the target
(``target``) are elsewhere, and so are the steps that decide by the proof.
"""
