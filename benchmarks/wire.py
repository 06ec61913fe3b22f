"""How long it takes to make a message with a head, by Flower's constructors and ours: `python -m benchmarks.wire`."""

from timeit import repeat

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from wordflock.federation.messages import content
from wordflock.head.kinds import KINDS

CALLS = 200


def main() -> None:
    """Print both, in microseconds."""
    shapes = KINDS["attentive"].shapes(35, 384, 12)
    head = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}

    def by_flower() -> RecordDict:
        arrays = ArrayRecord({name: Array(array) for name, array in head.items()})
        return RecordDict({"arrays": arrays, "metrics": MetricRecord({"client": 1, "num-examples": 3, "loss": 0.5})})

    for name, make in (("Flower", by_flower), ("Wordflock", lambda: content(head, client=1, num_examples=3, loss=0.5))):
        print(f"{name}: {min(repeat(make, number=CALLS, repeat=5)) / CALLS * 1e6:.0f} µs")


if __name__ == "__main__":
    main()
