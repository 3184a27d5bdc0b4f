"""By what law the times of training are drawn, one law a file."""
