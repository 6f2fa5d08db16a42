"""The upstream as a model of any framework: loading, compaction, distillation."""
