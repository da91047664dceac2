"""Policies that users bring, and objects that are none."""

from pathlib import Path

import pytest

from specbound_controller.errors import InputError
from specbound_controller.own_policy import own_policy, require_policy
from specbound_controller.policy import StaticPolicy
from specbound_controller.records import Decision

MODULE = """
from specbound import StaticPolicy
class Mine(StaticPolicy):
    def __init__(self):
        super().__init__((1,), 0.0, w_max=2)
class Needs(StaticPolicy):
    def __init__(self, width):
        super().__init__((1,))
number = 3
"""


def test_class_of_the_current_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_policies.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    assert own_policy("my_own_policies:Mine").decide(None).w_max == 2
    for name, why in (
        ("my_own_policies:Other", "has no 'Other'"),
        ("my_own_policies:Needs", "without arguments"),
        ("my_own_policies:number", "got a int without reset"),
        ("my_other_policies:Mine", "cannot be imported"),
    ):
        with pytest.raises(InputError, match=why):
            own_policy(name)


def test_objects_that_are_no_policy_are_refused_by_name() -> None:
    policy = StaticPolicy((1,))
    assert require_policy(policy) is policy
    with pytest.raises(InputError, match=r"got the class StaticPolicy: write StaticPolicy\(\.\.\.\)"):
        require_policy(StaticPolicy)
    with pytest.raises(InputError, match=r"got a Decision: write FixedPolicy\(decision\)"):
        require_policy(Decision(0))
    with pytest.raises(InputError, match="got a dict without reset, decide, observe"):
        require_policy({})
