"""Pre-processing, post-processing and the typed prediction of each kind of task."""
