"""From JPEG files to batches: the sample plan, the DALI graphs, the feed."""
