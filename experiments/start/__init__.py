"""How a program starts and ends."""
