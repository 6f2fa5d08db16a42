"""Grids of pruned models: what to run, running it, and what is finished."""
