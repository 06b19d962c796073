"""What published policies put an instruction into before a language model reads it.

Source: OpenVLA (arXiv 2406.09246) and its published code. The instruction is lower-cased. In training a blank stands
between "Out:" and the first action token, and Llama's tokenizer makes a token of its own of it ("▁", id 29871); asked
for actions, the published code therefore appends that token wherever a sequence does not already end with it.
"""

import dataclasses

from vla_jax.types import InputError

PLACE = "{instruction}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptTemplate:
    template: str
    """`{instruction}` stands once, where the instruction goes."""
    last_token: str | None = None
    """Stands last in the sequence, special tokens included; appended where it does not."""

    def __post_init__(self):
        if self.template.count(PLACE) != 1:
            raise InputError(f"prompt {self.template!r}: {PLACE} is expected in it once")

    def text(self, instruction: str) -> str:
        return self.template.replace(PLACE, instruction.lower())


OPENVLA = PromptTemplate(template="In: What action should the robot take to {instruction}?\nOut:", last_token="▁")
OPENVLA_V01 = PromptTemplate(
    template="A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. USER: What action should the robot take to {instruction}? "
    "ASSISTANT:",
    last_token="▁",
)
"""Of the first release, on Vicuna."""
