"""A decoder from a folder, names for policies, texts and chat messages: one line in Python for one's own model."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from specbound import InputError, SpecBoundDecoder, StaticPolicy, load_model
from specbound.decoding.watch import AcceptanceWatch
from specbound.fitted import Fitted
from specbound.models.fingerprint import model_fingerprint
from specbound.models.loading import LoadedModel
from specbound.models.names import FITTED_FILE
from specbound_controller.guarded import GuardedPolicy
from specbound_profiling.log.manifest import write_costs
from tests.cli.conftest import made_up_costs


@pytest.fixture(scope="module")
def loaded(chat_model_dir: Path) -> LoadedModel:
    return load_model(str(chat_model_dir))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Costs are made up; says how often they were asked for."""
    times: list[str] = []

    def costs(loaded: LoadedModel, *_: object) -> tuple[object, str]:
        times.append(loaded.compression)
        return made_up_costs(loaded), "measured"

    monkeypatch.setattr("specbound.fitted.required_costs", costs)
    return times


def fitted(loaded: LoadedModel, folder: Path, policy: str) -> Path:
    layers = loaded.model.config.num_hidden_layers
    Fitted(policy, "none", "token", model_fingerprint(loaded.model), layers, "in words").write(folder)
    write_costs(folder, {"none": made_up_costs(loaded)})
    return folder


def test_folder_of_fit_plays_what_was_found_and_output_is_plain(
    loaded: LoadedModel, tmp_path: Path, measured: list[str]
) -> None:
    folder = fitted(loaded, tmp_path, "static:lookup0.1+exit2,width3")
    decoder = SpecBoundDecoder.from_pretrained(loaded.model, folder)
    assert not measured  # the first look at the policy is when they are needed
    plain = SpecBoundDecoder(loaded.model).generate("the cat sat on", tokenizer=loaded.tokenizer, max_new_tokens=24)
    output = decoder.decode("the cat sat on", tokenizer=loaded.tokenizer, max_new_tokens=24)
    assert output.sequences.tolist() == plain.tolist() and output.stats.num_drafted > 0
    assert isinstance(decoder.policy, GuardedPolicy) and measured == ["none"]  # made-up costs are of no machine
    assert SpecBoundDecoder(loaded.model, str(folder)).policy.decide(None).w_max == 3


def test_folder_of_another_model_or_a_damaged_one_is_refused(
    loaded: LoadedModel, tiny_model_dir: Path, tmp_path: Path, save_tiny_model: object
) -> None:
    other = load_model(str(save_tiny_model(tmp_path / "other", "llama", 3)))  # type: ignore[operator]
    folder = fitted(loaded, tmp_path, "plain")
    with pytest.raises(InputError, match="fitted for the model"):
        SpecBoundDecoder.from_pretrained(other.model, folder)
    (folder / FITTED_FILE).write_text("{}")
    with pytest.raises(InputError, match="not written by specbound fit"):
        SpecBoundDecoder.from_pretrained(loaded.model, folder)
    with pytest.raises(InputError, match="must be a directory"):
        SpecBoundDecoder.from_pretrained(loaded.model, tmp_path / "nothing")


def test_log_as_controller_says_what_to_do(loaded: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match=r"got the log .*train-controller --log"):
        SpecBoundDecoder.from_pretrained(loaded.model, tmp_path)


def test_levels_are_detected(loaded: LoadedModel, tmp_path: Path) -> None:
    assert SpecBoundDecoder(loaded.model).compression == "none"
    short = load_model(loaded.name, "bf16")
    assert SpecBoundDecoder(short.model).compression == "bf16"
    assert SpecBoundDecoder.from_pretrained(short.model, fitted(loaded, tmp_path, "plain")).compression == "bf16"


def test_chat_gives_the_reply_that_generate_gives_for_the_template(loaded: LoadedModel) -> None:
    decoder, tokenizer = SpecBoundDecoder(loaded.model), loaded.tokenizer
    messages = [{"role": "user", "content": "the dog ran"}]
    reply = decoder.chat(messages, tokenizer, max_new_tokens=12)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    new = loaded.model.generate(**ids, do_sample=False, max_new_tokens=12)[0, ids["input_ids"].shape[1] :]
    assert (
        reply
        == tokenizer.decode(new, skip_special_tokens=True)
        == decoder.chat("the dog ran", tokenizer, max_new_tokens=12)
    )
    with pytest.raises(InputError, match="must look like"):
        decoder.chat([{"text": "no role"}], tokenizer)


def test_texts_need_a_tokenizer_and_several_are_a_batch(loaded: LoadedModel) -> None:
    decoder = SpecBoundDecoder(loaded.model)
    with pytest.raises(InputError, match=r"got the text 'the cat'.*decoder\.chat"):
        decoder.generate("the cat", max_new_tokens=4)
    both = decoder.generate(["the cat sat", "a dog"], tokenizer=loaded.tokenizer, max_new_tokens=6)
    assert both.shape[0] == 2
    with pytest.raises(InputError, match="padding_side = 'left'"):
        decoder.generate(torch.tensor([[4, 5, 1]]), attention_mask=torch.tensor([[1, 1, 0]]), max_new_tokens=2)


def test_guarded_static_policy_is_priced_here(loaded: LoadedModel, measured: list[str]) -> None:
    decoder = SpecBoundDecoder(loaded.model, StaticPolicy((1,), 0.0, w_max=4, guarded=True))
    output = decoder.decode("the cat sat on", tokenizer=loaded.tokenizer, max_new_tokens=48)
    assert isinstance(decoder.policy, GuardedPolicy) and measured == ["none"]
    decoder.policy = mine = StaticPolicy((1,))
    assert decoder.policy is mine and output.stats.num_tokens == 48


def test_policy_without_an_accepted_draft_is_named_once(
    loaded: LoadedModel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What verification accepts is hidden from the watch, which the decoder asks after every step."""
    observe = AcceptanceWatch.observe
    monkeypatch.setattr(AcceptanceWatch, "observe", lambda self, record: observe(self, replace(record, num_accepted=0)))
    decoder = SpecBoundDecoder(loaded.model, StaticPolicy((1,), 0.0, w_max=2))
    with caplog.at_level(logging.WARNING, "specbound.decoding.watch"):
        for length, num_named in ((40, 0), (40, 1), (40, 1)):
            decoder.generate(torch.tensor([[4, 5, 6]]), max_new_tokens=length, eos_token_id=None)
            assert len(caplog.records) == num_named
    assert caplog.records[0].getMessage().startswith("policy StaticPolicy: none of its")


def test_policy_whose_drafts_are_accepted_or_that_drafts_nothing_is_not_named(
    loaded: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "specbound.decoding.watch"):
        for policy in (StaticPolicy((0,), 0.01, w_max=2), StaticPolicy(())):
            decoder = SpecBoundDecoder(loaded.model, policy)
            decoder.generate(torch.tensor([[4, 5, 6, 4, 5, 6]]), max_new_tokens=90, eos_token_id=None)
    assert not caplog.records
