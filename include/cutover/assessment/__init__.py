"""The assessment: finds everything in a source that would stop a cutover or change a value, before anything is stopped.

It reads a snapshot of the source against the target that the plan's SQL makes, and reports findings. It changes nothing: the
plan's decisions are carried out by the package ``decisions``, the rows are copied by ``copying``.
"""
