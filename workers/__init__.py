"""Where it runs: data, checkpoints, progress and the Ray side of every training.

Import from the modules (``from workers.checkpoints import CheckpointStore``): ``workers.datasets``
must stay usable on a machine without Ray.
"""
