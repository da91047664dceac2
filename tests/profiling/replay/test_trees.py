"""Draft trees by replay: the steps that a log says a tree policy would take are the steps that the decoder takes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.adapter import ModelAdapter
from specbound.models.loading import load_model
from specbound.stores.trees import TreeSituation, tree_policy
from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.errors import InputError
from specbound_controller.policy import Policy, StaticPolicy
from specbound_controller.records import Decision, StepRecord
from specbound_controller.sources.bigrams import BigramTable
from specbound_controller.sources.own_text import OwnText
from specbound_controller.sources.stores import Stores
from specbound_controller.trees.plan import TreePlan
from specbound_controller.trees.policy import TreePolicy
from specbound_controller.trees.rates import prior_rates
from specbound_controller.trees.settings import TreeSettings
from specbound_controller.trees.tree import tree_of
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.recording.record import Recorder
from specbound_profiling.recording.settings import RecordSettings
from specbound_profiling.replay.oracle import TreeRuns, oracle
from specbound_profiling.replay.replay import replay
from specbound_profiling.replay.tree_steps import tree_runs
from specbound_profiling.replay.trees import TreeReplay, right_path
from tests.controller.trees.node_scores import random_score
from tests.profiling.recorded import prompt
from tests.step_fields import EXACT_FIELDS

EXITS, LIMIT = (0, 1, 3), 40
SAMPLED = {"do_sample": True, "temperature": 0.8, "seed": 3}
SAMPLINGS = {"greedy": {"do_sample": False}, "sampled": SAMPLED}
TREE_FIELDS = (*EXACT_FIELDS, "sources", "parents", "path", "scores")


@pytest.fixture(scope="module")
def model(sharp_model_dir: Path) -> PreTrainedModel:
    """In fp64, where a step of many rows gives the logits of a step of one."""
    return load_model(str(sharp_model_dir)).model.double()


def stores_of(traces: Sequence[PromptTrace], vocabulary: int = 64) -> Stores:
    """Random bigrams, and counts of what the model wrote."""
    rng = np.random.default_rng(0)
    best = np.stack([rng.permutation(vocabulary)[:8] for _ in range(vocabulary)]).astype(np.int32)
    text = OwnText.count([trace.tokens.tolist()[: len(trace.tokens) // 2] for trace in traces])
    return Stores(BigramTable(best), text)


def recorded(model: PreTrainedModel, prompts: Sequence[torch.Tensor], sampling: dict[str, object]) -> list[PromptTrace]:
    settings = RecordSettings(EXITS, LIMIT, sampling=sampling)
    return [Recorder(ModelAdapter(model), settings).record(ids, index) for index, ids in enumerate(prompts)]


def live(
    model: PreTrainedModel, policy: Policy, prompts: Sequence[torch.Tensor], traces: Sequence[PromptTrace]
) -> list[list[StepRecord]]:
    decoder, found = SpecBoundDecoder(greedy_twin(model), policy), []
    for ids, trace in zip(prompts, traces, strict=True):
        sampling = {"do_sample": True, "temperature": trace.sampling_temperature} if trace.seed is not None else {}
        seed = {} if trace.seed is None else {"seed": trace.seed}
        output = decoder.decode(ids, max_new_tokens=trace.length_limit, **sampling, **seed)
        assert output.sequences[0, ids.shape[1] :].tolist() == trace.tokens.tolist()
        found.append(output.stats.steps)
    return found


@pytest.fixture(scope="module", params=SAMPLINGS)
def run(request: pytest.FixtureRequest, model: PreTrainedModel) -> tuple[list[torch.Tensor], list[PromptTrace]]:
    prompts = [prompt(seed) for seed in range(4)]
    prompts[1] = prompts[1].repeat(1, 3)  # text that the context has seen before
    return prompts, recorded(model, prompts, SAMPLINGS[request.param])


NAMES = ("free_tree", "chain4", "tree3", "tree7", "tree15", "tree63", "eagle2", "token_recycling", "learned_tree")


def policy_of(name: str, situation: TreeSituation) -> Policy:
    """Of a name; `learned_tree` is one by a random score, whose nodes must pay."""
    if name == "learned_tree":
        settings = TreeSettings("best_first", 15, 8, 8, 1, (), 1.1)
        sources = replace(situation.sources(), score=random_score(np.random.default_rng(0)))
        return settings.policy(sources, situation.costs, 4)
    return tree_policy(name, situation)


@pytest.mark.parametrize("name", NAMES)
def test_trees_do_live_what_replay_says(
    model: PreTrainedModel, run: tuple[list[torch.Tensor], list[PromptTrace]], costs: CostTable, name: str
) -> None:
    prompts, traces = run
    situation = TreeSituation(stores_of(traces), costs, 4)
    replayed = replay(traces, policy_of(name, situation), costs, 4, "none", keep_records=True)
    assert replayed.records is not None
    steps = live(model, policy_of(name, situation), prompts, traces)
    for of_prompt, records in zip(steps, replayed.records, strict=True):
        assert len(of_prompt) == len(records)
        for step, record in zip(of_prompt, records, strict=True):
            for field in TREE_FIELDS:
                assert getattr(step, field) == getattr(record, field), field
    assert replayed.estimated_share == 0
    totals = replay(traces, policy_of(name, situation), costs, 4, "none")
    for field in ("num_tokens", "num_steps", "num_drafted", "num_accepted", "num_layer_calls"):
        np.testing.assert_array_equal(getattr(totals, field), getattr(replayed, field), err_msg=field)
    np.testing.assert_allclose(totals.work, replayed.work, rtol=1e-12)
    if name == "tree15":
        assert sum(len(record.path) for records in replayed.records for record in records) > 5


class ByTurns:
    """Plain steps, chains of an exit and trees of two plans, one after the other."""

    needs_features = False
    needs_full_signals = True

    def __init__(self, stores: Stores) -> None:
        rates = prior_rates()
        few = {name: rates[name] for name in ("recycled", "context")}
        self.decisions = (
            Decision(w_max=0),
            Decision(w_max=8, tree=TreePlan(9, few, stores)),
            Decision(3, {1: 0.0}),
            Decision(w_max=3, tree=TreePlan(20, rates, stores)),
        )

    def reset(self) -> None:
        self.num_steps = 0

    def decide(self, features: np.ndarray | None) -> Decision:
        self.num_steps += 1
        return self.decisions[(self.num_steps - 1) % len(self.decisions)]

    def observe(self, record: StepRecord) -> None:
        """Nothing to learn."""


def test_trees_between_chains_do_live_what_replay_says(
    model: PreTrainedModel, run: tuple[list[torch.Tensor], list[PromptTrace]], costs: CostTable
) -> None:
    prompts, traces = run
    stores = stores_of(traces)
    replayed = replay(traces, ByTurns(stores), costs, 4, "none", keep_records=True).records
    assert replayed is not None
    for of_prompt, records in zip(live(model, ByTurns(stores), prompts, traces), replayed, strict=True):
        assert len(of_prompt) == len(records)
        for step, record in zip(of_prompt, records, strict=True):
            for field in TREE_FIELDS if step.sources else ("num_accepted", "num_emitted", "sources"):
                assert getattr(step, field) == getattr(record, field) or field == "scores", field
            assert step.full_confidence == pytest.approx(record.full_confidence, rel=1e-5)


@pytest.mark.parametrize("beam", [1, 3])
def test_trees_of_an_exit_do_live_what_replay_says_while_a_node_is_right(
    model: PreTrainedModel, run: tuple[list[torch.Tensor], list[PromptTrace]], costs: CostTable, beam: int
) -> None:
    prompts, traces = run
    plan = TreePlan(8, prior_rates(), stores_of(traces), exit_layer=3, exit_beam=beam, exit_survival=0.05)
    policy = TreePolicy(plan)
    num_exact = num_estimated = 0
    for steps, trace in zip(live(model, policy, prompts, traces), traces, strict=True):
        trees, start = TreeReplay(trace, 4), 1
        for step in steps:
            simulated = trees.step(start, policy.decide(None))
            fields = TREE_FIELDS if simulated.is_exact else ()
            for field in fields:
                value, expected = getattr(simulated.record, field), getattr(step, field)
                assert value == (pytest.approx(expected, rel=1e-4) if field == "scores" else expected), field
            num_exact += simulated.is_exact and "exit" in step.sources
            num_estimated += not simulated.is_exact
            known = simulated.known
            assert known.num_drafted <= simulated.record.num_drafted
            assert known.sources == simulated.record.sources[: known.num_drafted]
            start += step.num_emitted
    assert num_exact > 0 and num_estimated > 0
    result = replay(traces, policy, costs, 4, "none")
    assert 0 < result.estimated_share < 1


def test_log_of_schema_2_replays_no_trees(run: tuple[list[torch.Tensor], list[PromptTrace]], costs: CostTable) -> None:
    old = [replace(trace, best_tokens=None) for trace in run[1]]
    policy = TreePolicy(TreePlan(3, prior_rates(), stores_of(old)))
    with pytest.raises(InputError, match="draft trees need a log of schema 3"):
        replay(old, policy, costs, 4, "none")


def test_right_path_by_hand(run: tuple[list[torch.Tensor], list[PromptTrace]]) -> None:
    trace = run[1][0]
    a, b, c = trace.tokens[1:4].tolist()
    tree = tree_of([-1, 0, 0, 2, 3, 3], [0, 63 - a, a, b, c, (c + 1) % 64])
    assert right_path(tree, trace, 1) == ([2, 3, 4], 4)
    assert right_path(tree_of([-1, 0], [0, (a + 1) % 64]), trace, 1) == ([], 1)
    end = trace.num_positions - 1
    assert right_path(tree_of([-1, 0], [0, int(trace.tokens[end])]), trace, end) == ([1], 1)


def random_costs(seed: int) -> CostTable:
    """Prices of any shape, also such that fall with more rows, as a fit may give them."""
    seconds = np.random.default_rng(seed).uniform(0.5, 1.5, len(WORK_NAMES))
    return CostTable(dict(zip(WORK_NAMES, seconds.tolist(), strict=True)), "none", "m", 0.0, 300)


@pytest.mark.parametrize("seed", range(3))
def test_no_tree_beats_the_oracle_of_trees_on_any_prompt(
    run: tuple[list[torch.Tensor], list[PromptTrace]], seed: int
) -> None:
    traces, costs = run[1], random_costs(seed)
    stores = stores_of(traces)
    situation = TreeSituation(stores, costs, 4)
    runs = TreeRuns(tree_runs(traces, TreePlan(63, prior_rates(), stores), 4), 63)
    limit = oracle(traces, costs, 4, 8, trees=runs)
    chains = oracle(traces, costs, 4, 8)
    assert (limit.seconds <= chains.seconds + 1e-9).all() and limit.seconds.sum() < chains.seconds.sum()
    for name in ("plain", *NAMES):
        policy = StaticPolicy(()) if name == "plain" else policy_of(name, situation)
        result = replay(traces, policy, costs, 4, "none")
        assert (limit.seconds <= result.seconds + 1e-9).all(), name
    assert (limit.num_accepted + limit.num_steps == limit.num_tokens).all()


def test_oracle_of_trees_by_hand(trace_of: Callable[..., PromptTrace], costs: CostTable) -> None:
    """Tokens 10, 11, ... 19 after 5 tokens of prompt; bigrams know what follows all but 13."""
    best = np.stack([np.arange(64) + 1, np.arange(64) + 2], axis=1).astype(np.int32)
    best[13] = 0
    trace = trace_of([[0]] * 10, prompt_tokens=np.arange(50, 55), best_tokens=np.full((10, 2), 60))
    plan = TreePlan(3, {"bigrams": prior_rates()["bigrams"]}, Stores(BigramTable(best)))
    assert tree_runs([trace], plan, 4).tolist() == [0, 3, 2, 1, 0, 3, 3, 2, 1, 0]
    free = replace(costs, coefficients=dict.fromkeys(WORK_NAMES, 0.0) | {"steps": 1.0})
    limit = oracle([trace], free, 4, 8, trees=TreeRuns(tree_runs([trace], plan, 4), 3))
    assert (limit.num_steps.tolist(), limit.num_accepted.tolist()) == ([3], [6])  # 11 .. 14 | 15 .. 18 | 19
