#!/usr/bin/env python3
"""The rules of the tree that neither the compiler nor a test enforces.

    tools/dev check [RULE...]        prints PASS/FAIL/SKIP lines, one per rule

Each rule is a function that yields complaints, each a sentence with the file
and line. The rules themselves: their docstrings below; what they are for:
CONTRIBUTING.md. `check_test.py` beside this shows each catching what it is for. Only Python's standard library, git, clang-format and lmc-opt are used.
"""

import difflib
import os
import re
import subprocess
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent.parent


def files(*suffixes, under=""):
    """Committed and new files, without what git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard",
         "--", under or "."], cwd=root, capture_output=True, check=True)
    for name in sorted(set(listed.stdout.decode().split("\0"))):
        path = root / name
        if name and path.is_file() and (
                not suffixes or path.suffix in suffixes):
            yield path


def text(path):
    return path.read_text(encoding="utf-8", errors="replace")


def at(path, line=0):
    name = path.relative_to(root)
    return f"{name}:{line}" if line else f"{name}"


def line_of(content, offset):
    return content.count("\n", 0, offset) + 1


def kebab(name):
    """PropagateShardings -> propagate-shardings, FuseQKV -> fuse-qkv."""
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1-\2", name)
    return re.sub(r"([A-Z])([A-Z][a-z])", r"\1-\2", name).lower()


# --- passes ---------------------------------------------------------------


def pass_definitions():
    """(path, line, name, flag, body) of every pass in a Passes.td."""
    for path in files(".td"):
        if path.name != "Passes.td":
            continue
        content = text(path)
        starts = list(re.finditer(
            r'^def (\w+)\s*:\s*\w*Pass<\s*"([^"]+)"', content, re.M))
        for i, start in enumerate(starts):
            end = starts[i + 1].start() if i + 1 < len(starts) else len(content)
            yield (path, line_of(content, start.start()), start.group(1),
                   start.group(2), content[start.start():end])


def pass_stems():
    """A pass has its flag, file and test under one stem."""
    tests = {path.name for path in files(".mlir", under="test")}
    for path, line, name, flag, _ in pass_definitions():
        stem = kebab(name)
        folder = path.parent.name
        allowed = {f"{folder}-{stem}"}
        if stem.startswith(folder + "-"):
            allowed.add(stem)
        if flag not in allowed:
            yield (f"{at(path, line)}: pass {name} has the flag --{flag}, "
                   f"expected --{min(allowed, key=len)}")
        if not (path.parent / f"{name}.cpp").is_file():
            yield (f"{at(path, line)}: pass {name} has no file "
                   f"{at(path.parent)}/{name}.cpp")
        if f"{stem}.mlir" not in tests:
            yield (f"{at(path, line)}: pass {name} has no test {stem}.mlir "
                   f"under test/")


BLOCK = re.compile(
    r"\*\*(?P<kind>Before|After)\*\*(?P<note>[^\n]*)\n"
    r"(?:\s*```mlir\n(?P<ir>.*?)\n\s*```)?", re.S)


def examples(body):
    """Pairs of (flag or '', Before, After) from a pass's description. The
    line of a **Before** may hold the flags to run with, in backquotes;
    **After** without a block must say `unchanged`."""
    before = None
    for block in BLOCK.finditer(body):
        if block["kind"] == "Before":
            note = re.search(r"`([^`]+)`", block["note"])
            before = (note.group(1) if note else "", block["ir"])
        elif before:
            after = block["ir"]
            if after is None and "unchanged" in block["note"]:
                after = before[1]
            yield before[0], before[1], after
            before = None


def normalise(ir):
    """Printed IR with values, blocks and aliases named in order of
    appearance and blank lines left out."""
    ir = re.sub(r"(?m)^\s*//.*\n", "", ir)
    names = {}

    def rename(match):
        return names.setdefault(
            match.group(0), f"{match.group(0)[0]}{len(names)}")

    ir = re.sub(r"%[\w$.-]+|\^[\w$.-]+|#(?:map|set)\d*\b", rename, ir)
    return [line for line in ir.splitlines() if line.strip()]


def is_excerpt(ir):
    """An After may leave lines out: a line of three dots stands for them."""
    return any(line.strip() == "..." for line in ir.splitlines())


def match_line(pattern, line, names):
    """Binds the pattern's value names to the line's; None where they differ."""
    value = re.compile(r"(%[\w$.#-]+|\^[\w$.-]+)")
    a, b = value.split(" ".join(pattern.split())), value.split(
        " ".join(line.split()))
    if a[::2] != b[::2]:
        return None
    names = dict(names)
    for wanted, found in zip(a[1::2], b[1::2]):
        if names.setdefault(wanted, found) != found:
            return None
    return names


def find_excerpt(after, printed):
    """Finds the parts of an excerpt in order in printed IR, each a run of
    lines. Returns the first line of the part that is not there, or None."""
    printed = [line for line in printed.splitlines() if line.strip()]
    parts, names, position = [[]], {}, 0
    for line in after.splitlines():
        if line.strip() == "...":
            parts.append([])
        elif line.strip():
            parts[-1].append(line)
    for part in filter(None, parts):
        for start in range(position, len(printed) - len(part) + 1):
            bound = names
            for wanted, line in zip(part, printed[start:]):
                bound = match_line(wanted, line, bound)
                if bound is None:
                    break
            if bound is not None:
                names, position = bound, start + len(part)
                break
        else:
            return part[0].strip()
    return None


def opt_tool():
    build = Path(os.environ.get("LMC_BUILD", root / "build"))
    tool = build / "bin" / "lmc-opt"
    return tool if tool.is_file() else None


def run_opt(tool, ir, *flags):
    return subprocess.run([str(tool), *flags, "-"], input=ir.encode(),
                          capture_output=True, cwd=root)


class Skip(Exception):
    """The rule cannot run here; the argument says why."""


def before_after():
    """A pass's Before block, run through the pass, is its After block."""
    tool = opt_tool()
    definitions = list(pass_definitions())
    if definitions and not tool:
        raise Skip("lmc-opt is not built")
    for path, line, name, flag, body in definitions:
        where = f"{at(path, line)}: pass {name}"
        pairs = list(examples(body))
        if not pairs:
            yield f"{where} has no Before and After in its description"
        for flags, before, after in pairs:
            if before is None or after is None:
                yield f"{where} has a Before or an After without an mlir block"
                continue
            ran = run_opt(tool, before, *(flags.split() or [f"--{flag}"]))
            if ran.returncode:
                yield (f"{where}: its Before does not run: "
                       + ran.stderr.decode().strip())
                continue
            if is_excerpt(after):
                missing = find_excerpt(after, ran.stdout.decode())
                if missing:
                    yield (f"{where}: its Before does not become its After: "
                           f"no place for the lines from `{missing}` in\n"
                           + ran.stdout.decode())
                continue
            wanted = run_opt(tool, after)
            if wanted.returncode:
                yield (f"{where}: its After does not parse: "
                       + wanted.stderr.decode().strip())
                continue
            a = normalise(wanted.stdout.decode())
            b = normalise(ran.stdout.decode())
            if a != b:
                difference = "\n".join(difflib.unified_diff(
                    a, b, "After", "Before, run", lineterm="", n=2))
                yield f"{where}: its Before does not become its After:\n{difference}"


# --- who may know what ----------------------------------------------------

GROUPS = ("dialects", "frontend", "passes", "runtime", "tools", "test",
          "examples")
# Who may include what, beside its own group; the pass groups are told apart
# in `arrows`. tools and tests may include anything.
MAY_KNOW = {
    "dialects": {"dialects"},
    "frontend": {"frontend", "dialects"},
    "runtime": {"runtime"},
}
CUDA = re.compile(r"(cuda|cublas|cudnn|nccl|nvtx|nvml|nvrtc)", re.I)
CUDA_FOLDERS = ("runtime/device/cuda/", "runtime/comm/nccl/", "passes/codegen/")


def may_include(name, target):
    top, target_top = name.split("/")[0], target.split("/")[0]
    if top in MAY_KNOW:
        return target_top in MAY_KNOW[top]
    if top != "passes":
        return True
    if target_top == "dialects":
        return True
    group = name.split("/")[1] if name.count("/") > 1 else ""
    if target.startswith("runtime/plan/"):
        return group == "emit"
    if target_top != "passes":
        return False
    # Why: passes/emit/RATIONALE.md.
    if group == "emit" and target == "passes/codegen/Codegen.h":
        return True
    target_group = target.split("/")[1] if target.count("/") > 1 else ""
    # Pipeline and the registration, which lie in passes/ itself, string the
    # groups together.
    return group in ("", target_group) or (target_group == "" and group == "")


def arrows():
    """Every include follows the arrows of "What may know what"."""
    include = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)
    for path in files(".h", ".cpp", ".inc"):
        name = str(path.relative_to(root))
        content = text(path)
        for match in include.finditer(content):
            quote, target = match.groups()
            where = at(path, line_of(content, match.start()))
            top = target.split("/")[0]
            if ".." in target.split("/"):
                yield f"{where}: includes {target}; include from the root"
            if name.startswith("runtime/") and top in (
                    "mlir", "mlir-c", "llvm", "llvm-c", "lld"):
                yield f"{where}: the runtime includes {target}"
            if top in GROUPS and not may_include(name, target):
                yield f"{where}: {name.rsplit('/', 1)[0]} may not know {target}"
            if (quote == "<" or top not in GROUPS) and CUDA.search(
                    target) and not name.startswith(CUDA_FOLDERS):
                yield f"{where}: only {', '.join(CUDA_FOLDERS)} know CUDA, not {target}"


# --- laws -----------------------------------------------------------------


def laws():
    """(path, line, class, mnemonic, label) of each labelled constraint."""
    for path in files(".td"):
        content = text(path)
        starts = list(re.finditer(r"^def (\w+)\s*:\s*([^{;]*)", content, re.M))
        for i, start in enumerate(starts):
            end = starts[i + 1].start() if i + 1 < len(starts) else len(content)
            body = content[start.start():end]
            mnemonic = (re.search(r'let mnemonic = "([\w.]+)"', body) or
                        re.search(r'"([a-z][\w.]*)"', start.group(2)))
            if not mnemonic:
                continue
            for label in sorted(set(re.findall(r"\((C\d+)\)", body))):
                offset = start.start() + body.index(f"({label})")
                yield (path, line_of(content, offset),
                       start.group(1).split("_")[-1],
                       mnemonic.group(1).replace(".", "_"), label)


def method_body(content, signature):
    """The text between the braces after the first match of a signature."""
    found = re.search(signature + r"[^;{]*\{", content)
    if not found:
        return ""
    depth, i = 1, found.end()
    while i < len(content) and depth:
        depth += {"{": 1, "}": -1}.get(content[i], 0)
        i += 1
    return content[found.start():i]


def labelled_laws():
    """A constraint (C1) of an op has a verifier line with the label, in
    X::verify or after a comment `// mnemonic C1`, and a negative test named
    @mnemonic_c1."""
    tests = "\n".join(text(path) for path in files(".mlir", under="test"))
    sources = {}
    for path, line, name, mnemonic, label in laws():
        folder = path.parent
        if folder not in sources:
            sources[folder] = "\n".join(text(p) for p in files(
                ".cpp", ".h", under=str(folder.relative_to(root))))
        verify = method_body(sources[folder], rf"\b{name}(?:Attr)?::verify\w*\(")
        if not (re.search(rf"\b{label}\b", verify) or re.search(
                rf"//.*\b{mnemonic}\b.*\b{label}\b", sources[folder])):
            yield (f"{at(path, line)}: ({label}) of {mnemonic} has no verifier "
                   f"line with its label")
        if not re.search(rf"@{mnemonic}_{label.lower()}(?!\d)", tests):
            yield (f"{at(path, line)}: ({label}) of {mnemonic} has no negative "
                   f"test @{mnemonic}_{label.lower()}")


# --- files ----------------------------------------------------------------


def formatted():
    """clang-format changes nothing."""
    sources = [str(p) for p in files(".h", ".cpp")]
    if not sources:
        return
    ran = subprocess.run(
        ["clang-format-14", "--dry-run", "-ferror-limit=0", *sources],
        cwd=root, capture_output=True)
    counts = {}
    for match in re.finditer(r"^(.*?):(\d+):\d+: warning: code should be",
                             ran.stderr.decode(), re.M):
        counts.setdefault(match.group(1), []).append(int(match.group(2)))
    for name, lines in counts.items():
        yield (f"{at(Path(name), lines[0])}: {len(lines)} places that "
               f"clang-format would change (tools/dev fmt)")


def file_lengths():
    """A source file has at most 600 lines, or a RATIONALE.md names it."""
    rationales = "\n".join(
        text(p) for p in files(".md") if p.name == "RATIONALE.md")
    for path in files(".h", ".cpp", ".td", ".py", ".proto"):
        lines = text(path).count("\n")
        if lines > 600 and path.name not in rationales:
            yield f"{at(path)}: {lines} lines; part it by idea"


# The folders under / that belong to one machine and not to a Debian package.
MACHINE_PATH = re.compile(
    r"(?<![\w.})$~/>*-])/(?:home|root|tmp|work|opt|mnt|data|workspace)/[\w.]")


def machine_paths():
    """No committed file names a path of somebody's machine."""
    for path in files():
        content = path.read_bytes()
        if b"\0" in content or path.suffix == ".zst":
            continue
        content = content.decode("utf-8", errors="replace")
        for match in MACHINE_PATH.finditer(content):
            line = line_of(content, match.start())
            yield f"{at(path, line)}: {content.splitlines()[line - 1].strip()}"


def unfinished():
    """No file holds a note of work to be done, and no folder is a drawer."""
    marks = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|X" r"XX)\b")
    for path in files(".h", ".cpp", ".td", ".py", ".proto", ".md", ".mlir",
                      ".txt", ".cmake", ""):
        content = text(path)
        for match in marks.finditer(content):
            yield (f"{at(path, line_of(content, match.start()))}: what is not "
                   f"there is not there; an issue says it")
        drawers = {"utils", "util", "common", "misc"}
        for part in path.relative_to(root).parts[:-1]:
            if part in drawers:
                yield f"{at(path)}: a folder named {part} says nothing"


def golden_size():
    """The goldens take at most 5 MB."""
    size = sum(p.stat().st_size for p in files(under="test/goldens"))
    if size > 5_000_000:
        yield f"test/goldens: {size} bytes, at most 5,000,000"


def readmes():
    """Each top folder has a README.md."""
    for group in GROUPS:
        if (root / group).is_dir() and not (root / group / "README.md").is_file():
            yield f"{group}/ has no README.md"


RULES = (pass_stems, before_after, arrows, labelled_laws, formatted,
         file_lengths, machine_paths, unfinished, golden_size, readmes)


def main(wanted):
    known = {rule.__name__.replace("_", "-"): rule for rule in RULES}
    for name in wanted:
        if name not in known:
            sys.exit(f"error: there is no rule {name}: {', '.join(known)}")
    failed = 0
    for name in wanted or known:
        try:
            complaints = list(known[name]())
        except Skip as skip:
            print(f"SKIP: {name}: {skip}")
            continue
        for complaint in complaints:
            print(f"  {complaint}")
        if complaints:
            failed += 1
            print(f"FAIL: {name}: {len(complaints)} complaints")
        else:
            print(f"PASS: {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
