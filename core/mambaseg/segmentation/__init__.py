"""segment: an image and a model in, labels on the image's own grid out."""

from mambaseg.segmentation.run import Segmentation, segment

__all__ = ["Segmentation", "segment"]
