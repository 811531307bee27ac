"""segment: an image and a model in, labels on the image's own grid out; estimate: what that will cost."""

from mambaseg.segmentation.estimate import Estimate, estimate
from mambaseg.segmentation.run import Segmentation, segment

__all__ = ["Estimate", "Segmentation", "estimate", "segment"]
