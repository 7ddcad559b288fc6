"""A run: the names of its files, its state, its stages, and what each stage depends on.

`files` owns every name in a run's folder, `state` what is done there and with which settings, `depends` what
a stage's result depends on, by value. `stages` and `comparison` have the stages as functions; `run` does them
in order.
"""
