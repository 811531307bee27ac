"""From an image and networks to class probabilities, window by window."""
