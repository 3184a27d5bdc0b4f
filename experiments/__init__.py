"""One program a part of the course: python -m experiments.NAME --flagfile=..."""
