"""The command line: `sparring COMMAND ...`.

Each command is a module with `add_arguments(parser)` and `run(args)`, imported only when it is chosen,
so that help is instant. Whatever a user can get wrong ends as one line on stderr.

Exit codes: 0 done, 1 a fault of ours (with its traceback), 2 unusable input, 3 the training diverged,
130 interrupted, 143 asked to end (SIGTERM) and saved. SPARRING_DEBUG=1 shows the traceback of every error.
"""

import argparse
import importlib
import os
import sys
import textwrap
import warnings
from collections.abc import Sequence
from types import ModuleType

from sparring.cli.parser import Parser
from sparring.core.errors import Diverged, Interrupted, SettingError, UserError, did_you_mean
from sparring.core.version import VERSION

COMMANDS = {
    "demo": ("sparring.cli.demo", "align a tiny model in a small world, in a few minutes and offline; start here"),
    "train": ("sparring.cli.train", "train a model by one of the methods"),
    "plan": ("sparring.cli.plan", "say what a training would need before it runs: memory, tokens, time"),
    "compare": ("sparring.cli.compare", "compare methods at one budget, over seeds, and say what is beyond doubt"),
    "seqgan": ("sparring.cli.seqgan", "play SeqGAN (2017), an LSTM against a CNN, to compare with"),
    "evaluate": ("sparring.cli.evaluate", "score a trained model on prompts it has not seen, with intervals"),
    "sample": ("sparring.cli.sample", "let a model answer prompts"),
    "chat": ("sparring.cli.chat", "talk to a model"),
    "data show": ("sparring.cli.data", "show what is in a data file, as training would see it"),
    "methods": ("sparring.cli.methods", "list the methods, or explain one: equation, knobs, needs"),
    "report": ("sparring.cli.report", "write the page of a run or a comparison: curves, figures and samples"),
    "doctor": ("sparring.cli.doctor", "say what this machine can do, and what would help"),
}

QUIET = {
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "DATASETS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",  # forked data workers would warn, and the work is small
    "BITSANDBYTES_NOWELCOME": "1",
}
"""Environment of the libraries below us: no telemetry, no progress bars and no advice between our lines."""

CODES = {KeyboardInterrupt: 130, Interrupted: 143, Diverged: 3}
"""Exit codes of errors that are not unusable input; 143 is what a process ended by SIGTERM leaves."""

NOISY = "accelerate|bitsandbytes|datasets|huggingface_hub|peft|torch|transformers"
"""Libraries whose warnings are about their own future, not about the user's run."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    _quiet()
    try:
        code = run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except SystemExit as e:  # argparse leaves this way after --help
        return int(e.code or 0)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, Diverged, Interrupted, OSError, KeyboardInterrupt) as e:
        if os.environ.get("SPARRING_DEBUG") == "1":
            raise
        sys.stderr.write(f"{_message(e)}\n")
        return next((code for kind, code in CODES.items() if isinstance(e, kind)), 2)


def run(argv: Sequence[str]) -> int:
    """Parse the words and do what they say; return the exit code, let errors pass."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return 0
    if argv[0] in ("-V", "--version"):
        sys.stdout.write(f"sparring {VERSION}\n")
        return 0
    module, args = parse(argv)
    return module.run(args) or 0  # a command that can only succeed returns nothing


def parse(argv: Sequence[str]) -> tuple[ModuleType, argparse.Namespace]:
    """Find the command's module and parse its words; raise SettingError for a wrong one."""
    name = _command(argv)
    words = argv[len(name.split()) :]
    path, about = COMMANDS[name]
    module = importlib.import_module(path)
    parser = Parser(prog=f"sparring {name}", description=about[0].upper() + about[1:] + ".", words=words)
    module.add_arguments(parser)
    return module, parser.parse()


def overview() -> str:
    """Write the help of the program: one line for each command."""
    lines = [f"  {name:<10} {about}" for name, (_, about) in COMMANDS.items()]
    return textwrap.dedent("""\
        Sparring aligns language models: from demonstrations, preferences, rewards or a co-trained discriminator.

        usage: sparring COMMAND [flags]          sparring COMMAND --help          sparring --version

        {commands}

        A first run of your own, from a file of prompts with responses to imitate:
          sparring train rlgaf --model MODEL --sft-epochs 1 --base MODEL --data reviews.jsonl.gz --run runs/rlgaf
        """).format(commands="\n".join(lines))


def _command(argv: Sequence[str]) -> str:
    """Find which command the words begin with; one command has two words."""
    for name in COMMANDS:
        if list(argv[: len(name.split())]) == name.split():
            return name
    second = [name.split()[1] for name in COMMANDS if name.startswith(f"{argv[0]} ")]
    if second:
        raise SettingError(f"sparring {argv[0]} is followed by {', '.join(second)}; see sparring --help")
    raise SettingError(f"sparring has no command {argv[0]!r}; {did_you_mean(argv[0], COMMANDS)}")


def _quiet() -> None:
    """Silence the libraries, before any of them is imported; what the user has set stays."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for category in (UserWarning, FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module=rf"({NOISY})(\.|$)")


def _message(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, Interrupted):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"error: {error.filename}: {(error.strerror or str(error)).lower()}"
    return f"error: {error}"
