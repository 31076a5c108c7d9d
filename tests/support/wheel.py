"""Build what a release publishes and try it in a fresh environment that has no compiler: ``./run wheel``.

Without arguments: a wheel with the C kernels built for this Python, the torch that is installed and this platform. With
``--pure``: the source distribution, and from it the wheel without built files that every platform can install. Either
wheel is installed into an environment of its own, which borrows torch and the other dependencies from the interpreter
that runs this script. There a LayerNorm computes: in the first case on the C kernels, with nothing built and nothing
reported; in the second on PyTorch's operations.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PREBUILT = ROOT / "src" / "normscope" / "kernels" / "backends" / "prebuilt"

TRIAL = """
import sys
import torch
import normscope

x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
norm = normscope.LayerNorm(64, backend={backend!r})
norm(x).square().sum().backward()
assert torch.allclose(norm(x), torch.nn.functional.layer_norm(x, (64,)), atol=1e-5)
assert x.grad is not None and x.grad.isfinite().all()
print(normscope.__version__, normscope.__file__)
"""


class Failed(RuntimeError):
    """The wheel was built, and does not do what it must."""


def main(arguments: list[str] | None = None) -> int:
    """Build and try; return the exit status."""
    parser = argparse.ArgumentParser(prog="run wheel", description="Build a wheel and try it without a compiler.")
    parser.add_argument("--pure", action="store_true", help="the source distribution and a wheel without built files")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for what is built (default: dist)")
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="normscope-wheel-") as scratch:
            wheel = build(Path(scratch) / "built", pure=asked.pure)
            try_without_compiler(wheel, Path(scratch), pure=asked.pure)
            for file in sorted(wheel.parent.iterdir()):
                shutil.copy2(file, asked.out)
                print(f"wheel: {asked.out / file.name}, {file.stat().st_size / 1e6:.1f} MB")
    except (Failed, subprocess.CalledProcessError) as error:
        print(f"wheel: {error}", file=sys.stderr)
        return 1
    return 0


def build(folder: Path, *, pure: bool) -> Path:
    """Build into a folder; return the wheel.

    Raises:
        Failed: If the wheel has kernels where it must not, or lacks them.
    """
    shutil.rmtree(PREBUILT, ignore_errors=True)
    try:
        if not pure:
            subprocess.run([sys.executable, "-m", "normscope.kernels.backends.build"], check=True, cwd=ROOT)
        kinds = [] if pure else ["--wheel"]
        subprocess.run([sys.executable, "-m", "build", *kinds, "--outdir", str(folder), str(ROOT)], check=True)
    finally:
        shutil.rmtree(PREBUILT, ignore_errors=True)
    (wheel,) = folder.glob("*.whl")
    if pure != wheel.name.endswith("-py3-none-any.whl"):
        raise Failed(f"{wheel.name} {'is not for every platform' if pure else 'carries no kernels'}")
    return wheel


def try_without_compiler(wheel: Path, scratch: Path, *, pure: bool) -> None:
    """Install the wheel into a fresh environment and compute a norm and its gradient there.

    Raises:
        Failed: If a layer cannot compute, or something was built or reported on the way.
    """
    home, cache = scratch / "environment", scratch / "cache"
    venv.create(home, symlinks=os.name != "nt")
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*install, str(wheel)], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    # A path file of a folder named in a path file is not read: the editable install of this checkout stays out.
    (packages / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    environment = {"PATH": str(python.parent), "CC": "/bin/false", "CXX": "/bin/false", "XDG_CACHE_HOME": str(cache)}
    program = [str(python), "-c", TRIAL.format(backend=None if pure else "cpu")]
    done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=scratch, env=environment)
    if done.returncode:
        raise Failed(f"{wheel.name} does not work where there is no compiler:\n{done.stderr}")
    if str(home) not in done.stdout:
        raise Failed(f"the trial imported another normscope than the wheel's: {done.stdout}")
    built = sorted(path.name for path in cache.rglob("*.so"))
    if not pure and (built or done.stderr):
        raise Failed(f"{wheel.name} did not bring all it needs: built {built}; it said {done.stderr!r}")
    print(f"wheel: {wheel.name} works without a compiler")


if __name__ == "__main__":
    sys.exit(main())
