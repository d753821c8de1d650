"""Numbers with names."""

from enum import IntEnum

from apps.labels import Labelled


class Fruit(Labelled):
    GREEN_APPLE = 3
    PEAR = 7


def test_member_is_its_number_and_has_its_name_in_lower_case_as_label():
    assert (Fruit.GREEN_APPLE, Fruit.GREEN_APPLE.label) == (3, "green_apple")
    assert Fruit(7).label == "pear"
    assert isinstance(Fruit.PEAR, IntEnum)
    assert [member.value for member in Fruit] == [3, 7]
