"""How ranks form a mesh, how activations cross, how sums are added in a fixed order. Knows nothing of AlexNet."""
