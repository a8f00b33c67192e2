"""Ways in which the texts of the training rows vary from epoch to epoch. One augmentation per file."""

from luthier.core.registry import Registry

augmentations: Registry = Registry("luthier.data.augment", base="luthier.data.augment.augmentation:Augmentation", noun="augmentation")
