from mambaseg import nets as nets
from mambaseg import ops as ops
from mambaseg._errors import Cancelled as Cancelled
from mambaseg._errors import UserError as UserError
from mambaseg.image import Grid as Grid
from mambaseg.image import Image as Image
from mambaseg.io import read as read
from mambaseg.io import write as write
from mambaseg.learn.finetune import finetune as finetune
from mambaseg.metrics import evaluate as evaluate
from mambaseg.models import load_model as load_model
from mambaseg.progress import Progress as Progress
from mambaseg.segmentation import Estimate as Estimate
from mambaseg.segmentation import Segmentation as Segmentation
from mambaseg.segmentation import estimate as estimate
from mambaseg.segmentation import segment as segment
from mambaseg.train import train as train

__all__ = [
    "Cancelled",
    "Estimate",
    "Grid",
    "Image",
    "Progress",
    "Segmentation",
    "UserError",
    "estimate",
    "evaluate",
    "finetune",
    "load_model",
    "nets",
    "ops",
    "read",
    "segment",
    "train",
    "write",
]

__version__: str
