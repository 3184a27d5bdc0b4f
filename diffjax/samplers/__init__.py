"""Reverse processes, one a file, all driven by the one scan in base.py."""
