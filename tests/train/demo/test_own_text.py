"""Text of the model's own: greedy continuations of training prompts, cut where they loop."""

from transformers import LlamaForCausalLM

from specbound.models.loading import load_model
from specbound_profiling.prompts.loops import loop_cut
from specbound_train.demo.own_text import NUM_NEW_TOKENS, own_text


def test_own_text_is_what_greedy_decoding_says_whatever_the_prompts_beside_it() -> None:
    loaded = load_model("demo", "none")
    model, tokenizer = loaded.model, loaded.tokenizer
    assert isinstance(model, LlamaForCausalLM)
    prompts = ["Question: Tom has 2 apples. How many has he?\nAnswer:", "def add(a, b):\n", "Once upon a time"]
    stream = own_text(model, tokenizer, prompts, seed=0).tolist()
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        new = model.generate(ids, max_new_tokens=NUM_NEW_TOKENS, do_sample=False)[0, ids.shape[1] :].tolist()
        new = new[: new.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in new else new
        piece = [*ids[0].tolist(), *new[: loop_cut(new)], tokenizer.eos_token_id]
        assert any(stream[i : i + len(piece)] == piece for i in range(len(stream)))
    assert stream.count(tokenizer.eos_token_id) == len(prompts)
