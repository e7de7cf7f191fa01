"""What trained nets say of images: validation, predictions, errors by class, submissions."""
