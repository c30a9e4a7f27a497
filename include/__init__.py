"""The product, its plans and their SQL."""
