"""The copy of tables from a snapshot into the target: reading in blocks, conversion, chunks, progress.

The schema of the target is made elsewhere (``target``), and the content that was copied is proved elsewhere (``proof``).
"""
