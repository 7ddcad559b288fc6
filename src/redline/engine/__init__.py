"""How passes are computed, fast and on many processes.

Whoever changes a loss, a reward or a method never has to open this room. Each speed trick has one call site
and a test against plain Transformers; ``REDLINE_PLAIN=1`` turns all of them off.
"""
