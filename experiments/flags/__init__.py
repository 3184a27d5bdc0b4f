"""Flags that several programs share, and what is read from them."""
