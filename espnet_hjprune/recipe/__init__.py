"""What the recipes' shell leaves to Python: its options, the configurations of trainings."""
