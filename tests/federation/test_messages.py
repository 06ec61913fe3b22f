from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from wordflock.federation.messages import content, to_record, weights_of


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(12, dtype=np.float16)[::2],
        np.zeros((0, 3)),
        np.array(2.5),
    ],
    ids=["rows", "columns", "strided", "nothing", "a number"],
)
def test_arrays_travel_as_flower_sends_them(array):
    sent = to_record({"a": array})["a"]
    assert sent == Array.from_numpy_ndarray(np.asarray(array, order="C"))
    came = weights_of(SimpleNamespace(content=content({"a": array})))["a"]
    assert came.dtype == array.dtype and came.shape == array.shape and (came == array).all()
    assert not came.flags.writeable


def test_contents_are_those_that_flower_makes():
    array, numbers = np.ones(3, np.float32), {"clips": 3, "the-loss": 0.5}
    made = RecordDict({"arrays": ArrayRecord({"a": Array(array)}), "metrics": MetricRecord(dict(numbers))})
    assert content({"a": array}, clips=3, the_loss=np.float64(0.5)) == made
    assert content({"a": array}, clips=3, the_loss=0.5).object_id == made.object_id, "on the wire, too"
    with pytest.raises(TypeError):
        content(loss=None)
