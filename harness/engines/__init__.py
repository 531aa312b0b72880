"""Rollout engines: what turns prompts and keys into samples, behind one small interface."""
