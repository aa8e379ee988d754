"""The commands and what each is for, known without importing any."""

#: In the order of the help.
SUMMARIES = {
    "train": "fine-tune a Vision Transformer with a ColossalAI plugin",
    "plan": "say which ways to divide a run fit the devices, and how much memory each takes",
    "eval": "evaluate a run or a model on a whole split of any data set",
    "predict": "label image files with a run or a model",
    "parity": "compare every layout with a plain PyTorch loop and transformers' Trainer",
    "bench": "measure strategies and peers side by side",
    "check": "judge a finished run by a reference accuracy (exit code 3: significantly below)",
    "runs": "list all runs in a folder as a table: accuracy, model, plugin, data, time",
    "report": "write one HTML page about a run, or about several side by side",
    "export": "turn a run or a checkpoint into a Hugging Face directory or ONNX",
    "push": "upload a run or a model to a hub, with a model card",
    "doctor": "say whether training can start on this machine, and what to do if not",
    "completion": "print a completion script for bash or zsh",
}
#: These work where PyTorch is missing or broken.
WITHOUT_TORCH = ("doctor", "completion", "runs")
#: These load PyTorch, transformers and ColossalAI, seconds in which nothing else is seen.
SLOW_TO_START = ("train", "eval", "predict", "parity", "bench", "export", "plan")
USAGE = "\n".join(
    [
        "usage: vit-colossal COMMAND [flags]\n",
        "commands:",
        *(f"  {name:<10} {summary}" for name, summary in SUMMARIES.items()),
        "\nvit-colossal COMMAND --help lists the flags; vit-colossal --version the version.",
    ]
)
