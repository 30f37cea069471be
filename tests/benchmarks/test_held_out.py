import numpy as np
import pytest

from benchmarks.held_out import object_name, tasks_of

CLASSES, OBJECTS, VIEWS = 3, 8, 10


def pictures() -> tuple[np.ndarray, list[str]]:
    """Return classes and names of objects: 8 objects of each class, 10 images of each object."""
    class_N = np.repeat(np.arange(CLASSES), OBJECTS * VIEWS)
    names = [f"{number // VIEWS:03d}" for number in range(CLASSES * OBJECTS * VIEWS)]
    return class_N, names


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("animals/frog-00.jpg", "animals/frog"),
        ("animals/frog-1-07.jpg", "animals/frog-1"),
        ("animals/frog_12.png", "animals/frog"),
        ("test/7/00000.png", "test/7/00000"),
        ("v1.2/frog-03", "v1.2/frog"),
    ],
)
def test_object_name__drops_extension_and_last_number(path: str, name: str) -> None:
    assert object_name(path) == name


def test_tasks_of__holds_out_some_views_of_every_object() -> None:
    task = tasks_of(*pictures())["object"]

    held_out_of_object = np.bincount(task.truth_N, weights=task.held_out_N)
    assert set(held_out_of_object) == {VIEWS // 5}


def test_tasks_of__holds_out_whole_objects_of_every_class() -> None:
    class_N, names = pictures()

    tasks = tasks_of(class_N, names)

    object_N, held_out_N = tasks["object"].truth_N, tasks["class"].held_out_N
    of_object = np.bincount(object_N, weights=held_out_N)
    assert set(of_object) == {0, VIEWS}, "an object is held out with all its images, or not at all"
    of_class = np.bincount(class_N, weights=held_out_N)
    assert set(of_class) == {OBJECTS * VIEWS // 4}
    np.testing.assert_array_equal(tasks["class"].truth_N, class_N)


def test_tasks_of__is_the_same_each_time() -> None:
    first, second = tasks_of(*pictures()), tasks_of(*pictures())

    for name, task in first.items():
        np.testing.assert_array_equal(task.held_out_N, second[name].held_out_N)


@pytest.mark.parametrize(
    "names",
    [
        [f"{number:03d}" for number in range(60)],  # each image has a name of its own
        ["0/img"] * 30 + ["1/img"] * 30,  # images of a class are only numbered
    ],
)
def test_tasks_of__without_objects_holds_out_images_of_each_class(names: list[str]) -> None:
    class_N = np.repeat([0, 1], 30)

    tasks = tasks_of(class_N, names)

    assert list(tasks) == ["class"]
    held_out_N = tasks["class"].held_out_N
    assert list(np.bincount(class_N, weights=held_out_N)) == [6, 6]
    assert tasks["class"].chance == pytest.approx(0.5)


def test_tasks_of__a_single_object_of_a_class_is_not_held_out() -> None:
    class_N = np.array([0] * 4 + [1] * 8)
    names = ["a", "a", "a", "a", "b", "b", "c", "c", "d", "d", "e", "e"]

    held_out_N = tasks_of(class_N, names)["class"].held_out_N

    assert not held_out_N[:4].any(), "else nothing of its class could be learnt"
    assert held_out_N[4:].sum() == 2
