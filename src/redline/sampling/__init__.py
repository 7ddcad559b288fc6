"""Who draws responses: this process, or an inference server.

``protocol.py`` is the seam: whatever has ``sync(policy)`` and ``sample(prompts, n, request)`` is a
sampler. ``local.py`` is the one in this process, and ``drawing.py`` how it draws a token. ``open.py`` makes
the sampler that a recipe names. ``rollouts.py`` checks what a sampler returned and completes it; everything
that samples (PPO, the comparison, the watching judge, best of n) calls it.
"""
