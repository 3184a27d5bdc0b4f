"""Pairs of networks that learn from each other, each a Linen module that holds both."""
