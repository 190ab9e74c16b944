"""A small Llama and the Trainer of transformers; every option is one of TrainingArguments."""

from __future__ import annotations

import sys

import torch
from transformers import HfArgumentParser, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments


def main() -> None:
    # Without --use_cpu processes that find no GPU would train on their own, each for itself.
    words = [*sys.argv[1:], *([] if torch.cuda.is_available() else ["--use_cpu"])]
    (arguments,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(words)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=128
    )
    ids = torch.randint(0, 128, (4096, 32))
    rows = [{"input_ids": each, "labels": each} for each in ids]
    Trainer(model=LlamaForCausalLM(config), args=arguments, train_dataset=rows).train()


if __name__ == "__main__":
    main()
