"""One program a part of the course: python -m experiments.NAME --flagfile=..."""

from experiments.start.huge_pages import start_with_huge_pages

start_with_huge_pages()
