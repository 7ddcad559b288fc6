"""Arms by seeds on equal terms: the runs of an experiment, and what they say when they are put side by
side."""
