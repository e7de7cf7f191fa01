"""Predictions of a step on other machines: what they are, how long a step takes there, and a short probe of this one."""
