"""Official checkpoints of U-Mamba, VM-UNet, VM-UNetV2, U-Net v2 and nnU-Net, made into model packages.

`checkpoint` reads files safely, `recognise` finds network and sizes, `nnunet_folder` and `recipe` the plan, and `run`
puts them together.
"""

from mambaseg.models.importer.checkpoint import Checkpoint, read_checkpoint
from mambaseg.models.importer.recognise import Recognised, recognise
from mambaseg.models.importer.run import import_checkpoint

__all__ = ["Checkpoint", "Recognised", "import_checkpoint", "read_checkpoint", "recognise"]
