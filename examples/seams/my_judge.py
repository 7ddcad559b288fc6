"""A judge of your own: the preference for a, from 0 to 1.

redline compare a.jsonl b.jsonl --judge examples/seams/my_judge.py:calmer
"""


def calmer(prompts, a, b):
    """The response with fewer exclamation marks; equally many are a tie."""
    preferences = []
    for first, second in zip(a, b, strict=True):
        difference = second.count("!") - first.count("!")
        preferences.append(0.5 if difference == 0 else float(difference > 0))
    return preferences
