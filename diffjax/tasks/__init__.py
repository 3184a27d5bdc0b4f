"""Kinds of run, one a file: how networks are made, what is minimised, and what is shown of it."""
