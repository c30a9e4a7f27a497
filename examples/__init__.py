"""Examples that run: the stand-in application Ward OPS with its site, and receivers of notices. The product imports none."""
