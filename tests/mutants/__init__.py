"""Mutants: each decision of the modules that decide is taken away once, and the tests on real servers must notice."""
