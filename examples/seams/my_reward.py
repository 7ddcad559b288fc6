"""A reward of your own: one float for each response token. In a recipe:

policy: {reward: [{}, {function: "examples/seams/my_reward.py:no_repeats", weight: 0.5}]}
"""


def no_repeats(prompts, responses, tokens):
    """-1 on every word that repeats the one before it, 0 on all other tokens."""
    rewards = []
    for row in tokens:
        words = [token.strip().lower() for token in row]
        repeats = [bool(word) and word == before for before, word in zip(["", *words], words, strict=False)]
        rewards.append([-1.0 if repeat else 0.0 for repeat in repeats])
    return rewards
