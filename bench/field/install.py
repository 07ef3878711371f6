"""Peers onto this machine: Python ones into environments of their own, Java ones as jars, all below `.cache/bench`.

`python -m bench.field.install [name …]`, all without names. What is there already, and made from the same files, stays.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from bench.field.contestants import ENVIRONMENTS, ROOT
from schemas.errors import ConfigurationError, MeterlineError

JAVA = ("streams", "flink")
PYTHON = ("faust", "quix", "bytewax")
_PACKAGES = "lib/python*/site-packages/"
_VERSIONS = {
    "streams": ("kafka-streams-*.jar", "Kafka Streams"),
    "flink": ("flink-streaming-java-*.jar", "Flink"),
    "faust": (f"{_PACKAGES}faust_streaming-*.dist-info", "Faust"),
    "quix": (f"{_PACKAGES}quixstreams-*.dist-info", "Quix Streams"),
    "bytewax": (f"{_PACKAGES}bytewax-*.dist-info", "Bytewax"),
}
"""Where each says which version it is."""


def install(name: str) -> None:
    """One of JAVA or PYTHON. Raises ConfigurationError where a program is missing or a registry has not what is asked for."""
    directory = ENVIRONMENTS / name
    sources = _sources(name)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    done = directory / "complete"
    if done.exists() and done.read_text() == digest:
        return
    print(f"installing {name}", flush=True)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    if name in JAVA:
        _java(ROOT / "bench" / "java" / name, directory)
    else:
        _run([sys.executable, "-m", "venv", str(directory)], "Python's venv")
        pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, "-r", str(sources[0])], f"what {sources[0].name} asks for")
    done.write_text(digest)


def installed() -> dict[str, str]:
    """Program -> version, of the peers that are installed."""
    found: dict[str, str] = {}
    for name, (pattern, title) in _VERSIONS.items():
        for path in sorted((ENVIRONMENTS / name).glob(pattern)):
            # kafka-streams-4.1.1.jar, faust_streaming-0.15.3.dist-info
            found[title] = path.name.rpartition("-")[2] if name in JAVA else path.name.split("-")[1]
    return {title: number.removesuffix(".jar").removesuffix(".dist") for title, number in found.items()}


def _sources(name: str) -> list[Path]:
    if name in JAVA:
        project = ROOT / "bench" / "java" / name
        return [project / "pom.xml", *sorted(project.rglob("*.java"))]
    return [ROOT / "bench" / f"requirements-{name}.txt"]


def _java(project: Path, directory: Path) -> None:
    maven = ["mvn", "-q", "-B", "-f", str(project / "pom.xml")]
    built = directory / "target"
    _run(
        [*maven, "dependency:copy-dependencies", f"-DoutputDirectory={directory}", "-DincludeScope=runtime"],
        "Maven, for its jars",
    )
    classpath = ":".join(str(jar) for jar in sorted(directory.glob("*.jar")))
    sources = [str(path) for path in sorted(project.rglob("*.java"))]
    built.mkdir()
    _run(["javac", "--release", "17", "-cp", classpath, "-d", str(built), *sources], "a Java 17 compiler")
    _run(["jar", "--create", "--file", str(directory / "contestant.jar"), "-C", str(built), "."], "Java's jar program")


def _run(command: list[str], what: str) -> None:
    if shutil.which(command[0]) is None:
        raise ConfigurationError(f"this machine lacks {what}", where=command[0], hint=f"install {command[0]}")
    if subprocess.run(command, stdout=sys.stderr).returncode:
        raise ConfigurationError(f"{what} did not come", where=" ".join(command[:6]), hint="its own words are above")


def main() -> None:
    """Install what is named; one that fails stops none of the others."""
    parser = argparse.ArgumentParser(prog="python -m bench.field.install", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *JAVA, *PYTHON])
    failed = False
    for name in parser.parse_args().names or (*JAVA, *PYTHON):
        try:
            install(name)
        except MeterlineError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
