"""How ranks are started, how they form a mesh, how activations cross. Knows nothing of AlexNet."""
