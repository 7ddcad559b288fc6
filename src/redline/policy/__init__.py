"""Sampling, returns and advantages, the PPO loss, the PPO trainer, a judge that watches it; SFT, and the
controls without RL."""
