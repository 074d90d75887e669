"""Fuzzing with coverage guidance: `python -m fuzz [--target NAME] [--seconds N | --runs N] [--corpus FOLDER]`.

Every target has a process of its own, as the fuzzer ends the one it runs in. What it found worth keeping is in
`FOLDER/NAME`, and an input that broke an invariant in `FOLDER/NAME-broken-<hash>`; give such a file with `--input`.
"""

import argparse
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from fuzz.target import Target, log_nothing

_MEMORY_MB = 2_048
_HANG_S = 25


def main() -> int:
    """Run one target here, or all of them one after another; 1 if an invariant was broken."""
    options = _options()
    log_nothing()
    if options.input is not None:
        from fuzz.catalogue import TARGETS

        TARGETS[options.target].one_input(options.input.read_bytes())
        return 0
    if options.target:
        _fuzz(options)
    from fuzz.catalogue import TARGETS

    broken = [name for name in TARGETS if _apart(name, options) != 0]
    print(f"broken: {', '.join(broken)}" if broken else f"all {len(TARGETS)} targets hold")
    return 1 if broken else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--target", help="the name of one target; all of them where it is not given")
    parser.add_argument("--seconds", type=int, default=60, help="how long each target runs")
    parser.add_argument("--runs", type=int, help="how many inputs each target gets, however long that takes")
    parser.add_argument("--seed", type=int, default=0, help="0 takes another one each time")
    parser.add_argument("--corpus", type=Path, default=Path(".fuzz"), help="where inputs are kept")
    parser.add_argument("--input", type=Path, help="one file to give to the target, without the fuzzer")
    return parser.parse_args()


def _apart(name: str, options: argparse.Namespace) -> int:
    print(f"fuzz {name}", flush=True)
    passed = ["--seconds", str(options.seconds), "--seed", str(options.seed), "--corpus", str(options.corpus)]
    runs = [] if options.runs is None else ["--runs", str(options.runs)]
    return subprocess.run([sys.executable, "-m", "fuzz", "--target", name, *passed, *runs], check=False).returncode


def _fuzz(options: argparse.Namespace) -> None:
    """Does not return."""
    import atheris

    # Instrumenting takes seconds, so only what the one target needs is imported.
    with atheris.instrument_imports(include=["calltag", "fuzz.targets"], enable_loader_override=False):
        target: Target = import_module(f"fuzz.targets.{options.target}").TARGET
    folder: Path = options.corpus / target.name
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (folder / f"seed-{number}").write_bytes(seed)
    words = options.corpus / f"{target.name}.words"
    words.write_text("".join(f'"{_quoted(word)}"\n' for word in target.words))
    bound = [f"-runs={options.runs}"] if options.runs is not None else [f"-max_total_time={options.seconds}"]
    flags = [
        *bound, f"-seed={options.seed}", f"-max_len={target.max_bytes}", "-len_control=0",
        f"-timeout={_HANG_S}", f"-rss_limit_mb={_MEMORY_MB}", f"-dict={words}",
        f"-artifact_prefix={options.corpus}/{target.name}-broken-",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *flags, str(folder)], target.one_input)
    atheris.Fuzz()


def _quoted(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    sys.exit(main())
