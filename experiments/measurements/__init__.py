"""What the benchmarks measure with: clocks, profiles, and the same work in torch."""
