"""HOW it learns: model, mixture, packing, DeepSpeed training, checkpoints, evaluation of one model.

Imports none of begira's other rooms."""
