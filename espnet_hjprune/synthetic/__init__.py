"""Small corpora made by speech synthesis in the layouts of real ones, and an upstream for them."""
