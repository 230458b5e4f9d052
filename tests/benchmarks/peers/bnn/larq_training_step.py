"""One training step in Larq (TensorFlow): the net of bnn.bench with one-bit weights and activations.

Larq simulates bits in floats. Same topology, batch and optimizer as ``bnn.bench``, one thread;
first and last layer are real. Prints one JSON object.

    python tests/benchmarks/peers/bnn/larq_training_step.py
"""

import argparse
import json
import time
from importlib.metadata import version
from statistics import median

import larq as lq
import numpy as np
import tensorflow as tf

from bnn.bench import BATCH
from bnn.bench_nets import CONVOLUTIONS, N_CLASSES, N_DENSE, SIZE

WARM_UP = 2
BINARY = {
    "input_quantizer": "ste_sign",
    "kernel_quantizer": "ste_sign",
    "kernel_constraint": "weight_clip",
    "use_bias": False,
}


def build() -> tf.keras.Model:
    """The net of ``bnn.bench``, layer by layer; the sign belongs to the layer that reads it."""
    keras = tf.keras.layers
    layers = [keras.Input((SIZE, SIZE, 1))]
    for number, (_, n_out, pool) in enumerate(CONVOLUTIONS):
        if number:
            layers.append(lq.layers.QuantConv2D(n_out, 3, padding="same", pad_values=-1, **BINARY))
        else:
            layers.append(keras.Conv2D(n_out, 3, padding="same", use_bias=False))
        layers += [keras.MaxPool2D(pool)] if pool > 1 else []
        layers.append(keras.BatchNormalization())
    layers += [
        keras.Flatten(),
        lq.layers.QuantDense(N_DENSE, **BINARY),
        keras.BatchNormalization(),
        keras.Lambda(lq.quantizers.SteSign()),
        keras.Dense(N_CLASSES, use_bias=False),
        keras.BatchNormalization(),
    ]
    return tf.keras.Sequential(layers)


def main() -> None:
    """Time steps and print the median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    n_steps = parser.parse_args().steps
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    rng = np.random.default_rng(1)
    images = rng.random((BATCH, SIZE, SIZE, 1), dtype=np.float32)
    labels = rng.integers(N_CLASSES, size=BATCH)
    net = build()
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(optimizer=tf.keras.optimizers.Adam(1e-3), loss=loss)
    seconds = []
    for _ in range(WARM_UP + n_steps):
        start = time.perf_counter()
        net.train_on_batch(images, labels)
        seconds.append(time.perf_counter() - start)
    record = {
        "library": "larq",
        "version": version("larq"),
        "step_ms": round(1e3 * median(seconds[WARM_UP:]), 2),
        "n_steps": n_steps,
        "batch": BATCH,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
