"""Policies without PPO: SFT, FIGA, DPO and their neighbours, trained on the same edits."""
