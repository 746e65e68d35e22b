"""The data contract: responses of presentations by stimulus, what is refused, and that arrays on disk stay there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from b2m_fast.data import Brain, DataError, Recording, Stimuli, TimeAxis
from b2m_fast.data import recording as contract

TIME = TimeAxis(10.0, {"all": (0.0, 30.0)})
RESPONSES = np.array([[1.0, 10], [2, 20], [3, 30], [4, 40], [5, 50]])
SHOWN: Any = ["b", "a", "b", "c", "b"]


def small(**changes: Any) -> Recording:
    return Recording(**{"responses": RESPONSES, "stimulus": SHOWN, "session": "s", **changes})


def trials(session: str = "s", bins: int = 3, **changes: Any) -> Recording:
    return Recording(np.ones((4, 2, bins)), np.array([*"abab"]), session, time=TIME, **changes)


def pictures(*ids: str, **changes: Any) -> Stimuli:
    images = np.arange(len(ids), dtype=np.uint8)[:, None, None, None] + np.zeros(
        (1, 4, 4, 3), np.uint8
    )
    return Stimuli(ids, images, **changes)


class Lazy:
    """Rows as h5py has them: slices and rising lists of indices, without repetition; counts what is read."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.values, self.shape, self.dtype, self.read = values, values.shape, values.dtype, 0

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, list):
            assert rows == sorted(set(rows))
        found = self.values[rows]
        self.read += len(found)
        return found


# --------------------------------------------------------------------------------------------------
# Reading
# --------------------------------------------------------------------------------------------------
def test_responses_by_stimulus() -> None:
    """Means, first and single responses are in the order of first presentation, or of the ids given."""
    found = small()
    assert found.shown == ("b", "a", "c")
    assert found.repeated
    assert found.mean().tolist() == [[3, 30], [2, 20], [4, 40]]
    assert found.mean(["c", "b"]).tolist() == [[4, 40], [3, 30]]
    assert found.first(["a", "b"]).tolist() == [[2, 20], [1, 10]]
    single = found.repeats(["a", "b"])
    np.testing.assert_array_equal(single[:, :, 0], [[2, np.nan, np.nan], [1, 3, 5]])
    assert found.codes(["c", "b"]).tolist() == [1, -1, 1, 0, 1]


def test_responses_with_bins_and_splits() -> None:
    """Bins are kept, and a split takes some presentations only."""
    spikes = np.arange(4 * 2 * 3).reshape(4, 2, 3)
    found = Recording(spikes, np.array([*"abab"]), "s", time=TIME, split=np.array([*"xxyx"]))
    np.testing.assert_array_equal(
        found.mean(), [(spikes[0] + spikes[2]) / 2, (spikes[1] + spikes[3]) / 2]
    )
    np.testing.assert_array_equal(found.mean(split="x")[0], spikes[0])
    assert found.repeats(split="x").shape == (2, 2, 2, 3)
    with pytest.raises(DataError, match="s: no presentation is for 'z'"):
        found.mean(split="z")
    with pytest.raises(DataError, match="1 stimuli were not presented: b"):
        found.mean(split="y")
    with pytest.raises(DataError, match="2 stimuli were not presented: d, e"):
        found.first(["a", "d", "e"])


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.uint8, np.float32),
        (np.float32, np.float32),
        (np.int32, np.float64),
        (np.float64, np.float64),
    ],
)
def test_numbers_keep_their_digits(dtype: Any, expected: Any) -> None:
    """What float32 holds is averaged to float32, all else to float64."""
    found = small(responses=RESPONSES.astype(dtype))
    assert found.mean().dtype == found.repeats().dtype == expected
    assert found.first().dtype == dtype


def test_rows_on_disk_are_read_when_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read at construction, then blocks of rows, in rising order; results are those of an array."""
    lazy = Lazy(RESPONSES)
    found = small(responses=lazy)
    assert lazy.read == 0
    assert found.first(["c", "b"]).tolist() == [[4, 40], [1, 10]]
    assert lazy.read == 2
    monkeypatch.setattr(contract, "BLOCK", 4)
    np.testing.assert_array_equal(found.mean(), small().mean())
    np.testing.assert_array_equal(found.repeats(), small().repeats())
    assert lazy.read == 2 + 5 + 5
    images = Lazy(np.asarray(pictures("a", "b", "c").images))
    shown = Stimuli(("a", "b", "c"), images).images_of(["c", "a", "c"])
    assert shown[:, 0, 0, 0].tolist() == [2, 0, 2]


def test_memory_maps_and_tensors(tmp_path: Any) -> None:
    """A memory map is not read at construction, and its faults are found when it is; tensors are rows too."""
    values = RESPONSES.copy()
    values[2, 1] = np.nan
    np.save(tmp_path / "a.npy", values)
    found = small(responses=np.load(tmp_path / "a.npy", mmap_mode="r"))
    with pytest.raises(DataError, match=r"1 of 2 units hold NaN.*\(units 1\)"):
        found.mean()
    np.testing.assert_array_equal(
        small(responses=torch.from_numpy(RESPONSES)).mean(), small().mean()
    )
    np.testing.assert_array_equal(small(responses=RESPONSES.tolist()).mean(), small().mean())


def test_categories() -> None:
    """Where one id stands for several images, values of the images are averaged, and images come together."""
    found = pictures("x1", "y1", "x2", presented=("x", "y", "x"))
    values = np.array([[1.0], [5], [3]])
    assert found.average(values, ["y", "x"]).tolist() == [[5], [2]]
    assert found.images_of(["x", "y"])[:, 0, 0, 0].tolist() == [0, 2, 1]
    assert pictures("a", "b").average(values[:2], ["b", "a"]).tolist() == [[5], [1]]


def test_a_brain_knows_what_was_shown() -> None:
    """Each recording belongs to the image set of its ids; units are counted over recordings."""
    first, second = small(), Recording(np.ones((1, 3)), np.array(["z"]), "t")
    brain = Brain(
        "b", [first, second], [pictures("a", "b", "c", name="one"), pictures("y", "z", name="two")]
    )
    assert brain.units == 5
    assert brain.stimuli_of(second).name == "two"
    assert brain.stimuli_of(first) is brain.stimuli[0]
    assert brain.recording("t") is second
    with pytest.raises(DataError, match=r"b has no session 'u'; there are s, t"):
        brain.recording("u")


def test_harmless_kinds_of_data_are_taken() -> None:
    """Lists, numbers as ids and text objects mean what they say; arrays are not copied."""
    assert small().responses is RESPONSES
    assert small(stimulus=[2, 1, 2, 3, 2]).shown == ("2", "1", "3")
    assert small(stimulus=np.array(SHOWN, dtype=object)).shown == ("b", "a", "c")
    conditions: Any = np.array(["a", "b", "c"])
    assert Brain("b", [small()], conditions=conditions).conditions == ("a", "b", "c")


# --------------------------------------------------------------------------------------------------
# Refusals
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"responses": RESPONSES.T},
            r"2 presentations, but stimulus has 5.*\(units, presentations\)\? transpose",
        ),
        ({"responses": RESPONSES[:4]}, "responses to 4 presentations, but stimulus has 5$"),
        ({"responses": RESPONSES[0]}, r"responses have shape \(2,\); expected"),
        ({"responses": RESPONSES[:, :, None]}, r"and a TimeAxis"),
        ({"responses": RESPONSES, "time": TIME}, r"and a TimeAxis"),
        ({"responses": RESPONSES[:, :, None][:, :, :0], "time": TIME}, "no bins"),
        ({"responses": [[1], [2, 3]]}, "responses must be an array.*of numbers"),
        (
            {"responses": RESPONSES.astype(complex)},
            "responses must be real numbers, got complex128",
        ),
        ({"responses": RESPONSES.astype(object)}, "responses must be real numbers, got object"),
        ({"stimulus": [0.0, 0.5, 1, 1, 1]}, "stimulus must be one text for each.*float64"),
        ({"stimulus": [SHOWN]}, r"stimulus must be one text for each.*\(1, 5\)"),
        ({"split": ["a"]}, r"split has shape \(1,\), expected \(5,\)"),
        ({"units": {"area": ["V4"]}}, r"units\['area'\] has shape \(1,\), expected \(2,\)"),
        ({"truth": np.zeros((2, 2))}, r"truth has shape \(2, 2\), expected \(3, 2\)"),
        ({"kind": "spikes"}, "kind must be one of counts, rate, trace, beta, got 'spikes'"),
    ],
)
def test_wrong_recordings_are_named(changes: dict[str, Any], message: str) -> None:
    """Lengths, axes, types and names that do not fit are refused with the session's name."""
    with pytest.raises(DataError, match=rf"s: .*{message}"):
        small(**changes)


def test_units_with_nan_are_named() -> None:
    """NaN and infinite values are refused, with the units' numbers; negative ones of counts and rates alone."""
    broken = np.ones((5, 12))
    broken[3, 1] = np.nan
    broken[:, 4] = np.inf
    negative = broken.copy()
    negative[0, 7] = -1
    for kind in ("counts", "rate"):
        with pytest.raises(
            DataError,
            match=rf"3 of 12 units hold NaN, infinite or negative {kind} \(units 1, 4, 7\): leave",
        ):
            small(responses=negative, kind=kind)
    for kind in ("trace", "beta"):
        with pytest.raises(
            DataError, match=r"2 of 12 units hold NaN or infinite values \(units 1, 4\)"
        ):
            small(responses=negative, kind=kind)
        assert small(responses=-RESPONSES, kind=kind).mean().min() == -40
    with pytest.raises(
        DataError, match=r"12 of 12 units .*\(units 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\.\)"
    ):
        small(responses=-np.ones((5, 12)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((np.inf, {}, 0.0), "bin_ms must be positive and finite"),
        ((0.0, {}, 0.0), "bin_ms must be positive and finite"),
        ((1.0, {}, np.nan), "start_ms finite"),
        ((1.0, {"delay": (3.0, 3.0)}, 0.0), "the epoch 'delay' must begin before it ends"),
    ],
)
def test_wrong_clocks_are_named(values: Any, message: str) -> None:
    """A clock that makes no sense is refused when it is made."""
    with pytest.raises(DataError, match=message):
        TimeAxis(*values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": ("a", "b", "a")}, "1 ids are there twice: a"),
        ({"ids": ("a", "b")}, "3 images, but ids has 2"),
        ({"presented": ("x",)}, "3 images, but presented has 1"),
        ({"images": np.zeros((3, 4, 4))}, r"shape \(3, 4, 4\); expected"),
        ({"images": np.zeros((3, 4, 4, 2), np.uint8)}, "1 or 3"),
        (
            {"images": np.zeros((3, 4, 4, 3))},
            "must be bytes.*got float64: floats from 0 to 1 times 255",
        ),
    ],
)
def test_wrong_stimuli_are_named(changes: dict[str, Any], message: str) -> None:
    """Duplicate ids, missing images and other pixels than bytes are refused with the set's name."""
    with pytest.raises(DataError, match=f"stimuli: .*{message}"):
        replace(pictures("a", "b", "c"), **changes)
    with pytest.raises(DataError, match="stimuli: 2 ids have no image: d, e"):
        pictures("a").images_of(["d", "a", "e"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recordings": ()}, "there is no recording"),
        ({"recordings": (RESPONSES,)}, "recordings must be of class Recording, got ndarray"),
        ({"recordings": (small(), small())}, "two recordings have one session"),
        (
            {"recordings": (trials(), trials("t", 4))},
            r"share one clock.*\(3, 10.0, 0.0\), \(4, 10.0, 0.0\)",
        ),
        ({"conditions": "ab"}, "conditions must be"),
        ({"conditions": (0.5, 1)}, "conditions must be"),
        ({"conditions": ("a", "a", "b", "c")}, "conditions must be names that differ"),
        ({"conditions": ("a", "b")}, "s: c are none of the conditions a, b"),
        ({"stimuli": [pictures("a", "b")]}, "s: 1 stimuli have no image: c"),
        ({"stimuli": [pictures("a", "b"), pictures("c")]}, "images of 2 sets: make one set"),
        ({"stimuli": [pictures("a", "b"), pictures("b", "c")]}, "1 ids are in two image sets: b"),
    ],
)
def test_wrong_brains_are_named(changes: dict[str, Any], message: str) -> None:
    """What recordings, stimuli and conditions do not share is refused with the brain's name."""
    with pytest.raises(DataError, match=f"brain.*{message}"):
        Brain(**{"name": "brain", "recordings": [small()], **changes})
