"""Benchmarks of mmapcache: every figure is a ratio measured in the same run as its peer."""
