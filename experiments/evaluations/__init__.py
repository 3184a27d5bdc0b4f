"""What experiments.evaluate measures, a module a metric."""
