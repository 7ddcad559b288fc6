"""What a recipe will take before it is run: memory by part, seconds a step, cost; from the model's
configuration alone."""
