"""From archives and folders of images to packed sets: sources, shards, checking."""
