"""Fixed settings by name: what they decide, and what is said of those that are none."""

import pytest

from specbound_controller.actions import static_grid
from specbound_controller.errors import InputError
from specbound_controller.policy import AnnealedConfidence
from specbound_controller.policy_names import is_written_out, rejoined, require_policy_name
from specbound_controller.settings import Setting, in_words


def test_name_says_sources_width_and_annealing() -> None:
    decision = Setting.parse("static:lookup0.5+exit4,width2,alpha0.3").policy().decide(None)
    assert dict(decision.thresholds) == {0: 0.5, 4: 0.0}
    assert (decision.w_max, decision.combine, decision.score) == (2, "token", AnnealedConfidence(0.3))
    assert Setting.parse("static:exit4@0.25,product").exits == ((4, 0.25),)


def test_every_compact_name_of_the_static_grid_is_the_same_decision() -> None:
    scores = {"annealed": AnnealedConfidence(0.7)}
    for action in static_grid((0, 1, 2))[1:]:
        named, own = Setting.parse(f"static:{action.name},alpha0.7").policy().decide(None), action.decision(scores)
        assert (dict(named.thresholds), named.w_max) == (dict(own.thresholds), own.w_max), action.name
        assert own.score is None or (named.combine, named.score) == (own.combine, own.score), action.name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("static:exit4+lookup0.5", "context first"),
        ("static:exit4+exit4", "each once"),
        ("static:lookup0", "above 0"),
        ("static:exit4@1.5", "at most 1"),
        ("static:exit4,wide2", "got 'wide2'"),
        ("static:", "got the source ''"),
        ("static:exit2_width4_learned0.5", "only a controller brings"),
        ("static:exit2_width0", "at least 1"),
    ],
)
def test_what_is_no_setting_is_refused_in_one_line(name: str, why: str) -> None:
    with pytest.raises(InputError, match=why) as raised:
        Setting.parse(name)
    assert "\n" not in str(raised.value) and name in str(raised.value)


def test_words_say_what_names_mean() -> None:
    assert in_words("lookup0.35_exit2_width2_annealed0.35_token") == "context ≥ 0.35, else exit 2 ≥ 0.35, two tokens"
    assert in_words("exit3_width4_annealed0.2") == "exit 3 ≥ 0.2 (the whole draft), four tokens"
    assert (
        in_words("lookup0.5_exit3_width2_learned0.4")
        == "context ≥ 0.5, else exit 3 where its chance ≥ 0.4 (the whole draft), two tokens"
    )
    assert in_words("exit3_width1") == "exit 3, one token"
    assert in_words("static:lookup0.5+exit4,width2") == "context ≥ 0.5, else exit 4, two tokens"
    assert in_words("exit3_tree7") == "tree of 7 drafts, exit 3 among its sources"
    assert in_words("tree15") == "tree of 15 drafts that cost no layer"
    assert in_words("plain") == "plain decoding" and in_words("speckv_causal") == "speckv causal"


def test_options_find_back_to_their_setting_after_a_list_was_split_at_commas() -> None:
    text = "static:lookup0.5+exit4,width2,product,tree7,static:exit1,alpha0.5,controller"
    assert rejoined(text.split(",")) == (
        "static:lookup0.5+exit4,width2,product",
        "tree7",
        "static:exit1,alpha0.5",
        "controller",
    )


def test_names_that_no_command_knows_are_refused_with_the_forms() -> None:
    for name in ("tree7", "static:exit1", "my_package.module:Mine", "controller"):
        require_policy_name(name, ("controller",))
    with pytest.raises(InputError, match="module:Class"):
        require_policy_name("contoller", ("controller",))
    with pytest.raises(InputError, match=r"static:lookup0\.5"):
        require_policy_name("tree7", ("controller",), has_trees=False)
    assert is_written_out("static:exit1") and is_written_out("a.b:C") and not is_written_out("tree7")
