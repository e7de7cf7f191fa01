"""The net: table, layers, share. Knows nothing of processes and files."""
