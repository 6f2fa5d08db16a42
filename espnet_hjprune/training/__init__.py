"""Steps and epochs of a training, its log, and the progress that is shown."""
