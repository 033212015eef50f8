#!/usr/bin/env python3
"""Shows each rule of check.py catching what it is for, and letting pass what
is right, on small trees. `python3 tools/check/check_test.py` prints one line
per case; `tools/dev test` runs it."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True
import check  # noqa: E402

PASS_TD = '''def FuseGelu : Pass<"lm-fuse-gelu"> {
  let description = [{
    **Before**
    ```mlir
    %a = one
    ```
    **After**
    ```mlir
    %b = two
    ```
  }];
}
'''
OP_TD = '''def Lm_SumOp : Lm_Op<"sum", [Pure]> {
  let description = [{Constraints: (C1) sizes agree.}];
}
'''
GOOD = {
    "passes/lm/Passes.td": PASS_TD,
    "passes/lm/FuseGelu.cpp": '#include "dialects/lm/Lm.h"\n',
    "test/passes/lm/fuse-gelu.mlir": "// RUN: true\n",
    "test/dialects/lm/lm-errors.mlir": "func.func @sum_c1_sizes() {}\n",
    "dialects/lm/LmOps.td": OP_TD,
    "dialects/lm/Lm.cpp":
        "LogicalResult SumOp::verify() {\n  return success(); // (C1)\n}\n",
    "passes/README.md": "", "dialects/README.md": "", "test/README.md": "",
}
# An After that is an excerpt, and what the pass prints for it.
EXCERPT = """    %x = two
    ...
    four %x
"""
PRINTED = "%0 = one\n    %1 = b\n    four {}\n"


def excerpt(last):
    return {"passes/lm/Passes.td": PASS_TD.replace(
        "    %a = one\n", PRINTED.format(last)).replace(
            "    %b = two\n", EXCERPT)}


# A stand-in for lmc-opt: "one" becomes "two" when a pass is asked for.
OPT = '#!/bin/sh\ncase "$*" in *fuse*) sed "s/one/two/" ;; *) cat ;; esac\n'

# rule, what is wrong, files changed (None removes one), words of the complaint
BAD = [
    ("pass_stems", "flag of another stem",
     {"passes/lm/Passes.td": PASS_TD.replace("lm-fuse", "fuse")},
     "expected --lm-fuse-gelu"),
    ("pass_stems", "no file", {"passes/lm/FuseGelu.cpp": None}, "has no file"),
    ("pass_stems", "no test", {"test/passes/lm/fuse-gelu.mlir": None},
     "has no test"),
    ("before_after", "no example",
     {"passes/lm/Passes.td": 'def FuseGelu : Pass<"lm-fuse-gelu"> {\n}\n'},
     "no Before and After"),
    ("before_after", "another After",
     {"passes/lm/Passes.td": PASS_TD.replace("two", "three")},
     "does not become"),
    ("before_after", "an excerpt with another value", excerpt("%1"),
     "no place for"),
    ("arrows", "dialects know passes",
     {"dialects/lm/Lm.h": '#include "passes/lm/Passes.h"\n'}, "may not know"),
    ("arrows", "a group of passes knows another",
     {"passes/plan/A.cpp": '#include "passes/lm/Passes.h"\n'}, "may not know"),
    ("arrows", "emit knows the inside of codegen",
     {"passes/emit/A.cpp": '#include "passes/codegen/Codegen.h"\n'
                           '#include "passes/codegen/Object.h"\n'},
     "may not know passes/codegen/Object.h"),
    ("arrows", "a pass knows the plan file",
     {"passes/lm/A.cpp": '#include "runtime/plan/PlanFile.h"\n'},
     "may not know"),
    ("arrows", "the runtime knows LLVM",
     {"runtime/a.cpp": '#include "llvm/ADT/Twine.h"\n'},
     "the runtime includes"),
    ("arrows", "a relative include",
     {"runtime/a.cpp": '#include "../b.h"\n'}, "from the root"),
    ("arrows", "CUDA outside its folders",
     {"runtime/exec/a.cpp": "#include <cuda.h>\n"}, "know CUDA"),
    ("labelled_laws", "no verifier line",
     {"dialects/lm/Lm.cpp": "LogicalResult SumOp::verify() { return a(); }\n"
                            "void other() { /* C1 */ }\n"},
     "no verifier line"),
    ("labelled_laws", "no negative test",
     {"test/dialects/lm/lm-errors.mlir": "func.func @sum_c11() {}\n"},
     "no negative test"),
    ("formatted", "unformatted", {"runtime/a.cpp": "int   a ;\n"},
     "clang-format"),
    ("file_lengths", "a long file", {"runtime/a.cpp": "int a();\n" * 601},
     "601 lines"),
    ("machine_paths", "a path of a machine",
     {"runtime/a.cpp": '"/ho" "me";\n// see /ho' + 'me/ann/x\n'}, "ann"),
    ("unfinished", "work to be done", {"runtime/a.cpp": "// TO" + "DO: b\n"},
     "is not there"),
    ("unfinished", "a drawer", {"runtime/utils/a.cpp": "\n"},
     "says nothing"),
    ("golden_size", "too large", {"test/goldens/a": "0" * 5_000_001},
     "5000001 bytes"),
    ("readmes", "none", {"passes/README.md": None}, "no README"),
]


def lay(folder, changes):
    content = dict(GOOD, **changes)
    for name, body in content.items():
        if body is not None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(body)
    tool = folder / "build/bin/lmc-opt"
    tool.parent.mkdir(parents=True)
    tool.write_text(OPT)
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    (folder / ".gitignore").write_text("/build/\n")
    (folder / ".clang-format").write_text("BasedOnStyle: LLVM\n")
    subprocess.run(["git", "init", "-q", str(folder)], check=True)


def complaints(rule, changes):
    folder = Path(tempfile.mkdtemp())
    try:
        lay(folder, changes)
        check.root = folder
        os.environ["LMC_BUILD"] = str(folder / "build")
        return list(getattr(check, rule)())
    finally:
        shutil.rmtree(folder)


def main():
    failed = 0
    cases = [(rule.__name__, "a good tree", {}, None) for rule in check.RULES]
    cases.append(("before_after", "a good excerpt", excerpt("%0"), None))
    for rule, what, changes, words in cases + BAD:
        found = complaints(rule, changes)
        good = not found if words is None else (
            len(found) == 1 and words in found[0])
        name = f"rule-{rule}/{what}".replace(" ", "-").replace("_", "-")
        print(f"PASS: {name}" if good else f"FAIL: {name}: found {found}")
        failed += not good
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
