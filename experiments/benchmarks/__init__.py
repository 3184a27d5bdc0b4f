"""What experiments.benchmark measures, a subcommand a file."""
