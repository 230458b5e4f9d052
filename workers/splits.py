"""Another split of a data set into training and test part, for error bars over splits."""

import math
from dataclasses import replace

import numpy as np

from kernels.philox import Purpose, random_words
from workers.image_data import ImageData, combined_digest

SPLITS = ("given", "stratified")
"""What a configuration may name."""
TEST_FRACTION = 0.25
"""Share of every class that a stratified split sets aside."""
_STREAM = 2  # index in the stream "data order"; 0 is the order of training, 1 of the user's data


def stratified_split(data: ImageData, seed: int) -> ImageData:
    """Put both parts together and set a random quarter of every class aside as the test part.

    Parameters
    ----------
    data
        With the parts that it came in.
    seed
        Equal seeds give equal splits on every machine.

    Returns
    -------
    ImageData
        Both parts keep the order of the rows. The digest names the split, so that results of two
        splits are two results.
    """
    images = np.concatenate([data.train_images, data.test_images])
    labels = np.concatenate([data.train_labels, data.test_labels])
    is_test = np.zeros(len(labels), dtype=np.bool_)
    for label in range(len(data.label_names)):
        members = np.flatnonzero(labels == label)
        stream = random_words(seed, Purpose.DATA_ORDER, len(members), rows=label, index=_STREAM)
        n_test = math.floor(TEST_FRACTION * len(members) + 0.5)
        is_test[members[np.argsort(stream[0], kind="stable")[:n_test]]] = True
    split = f"stratified {TEST_FRACTION} seed {seed}"
    return replace(
        data,
        train_images=images[~is_test],
        train_labels=labels[~is_test],
        test_images=images[is_test],
        test_labels=labels[is_test],
        digest=combined_digest([("data", data.digest), ("split", split)]),
        reason=f"{data.reason}; a quarter of every class is the test part, drawn with seed {seed}",
    )
