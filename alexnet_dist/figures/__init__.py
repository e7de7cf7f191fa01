"""Figures of a run, a sweep or a checkpoint: pictures, and what the authors measured to set beside them."""
