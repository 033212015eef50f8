#!/usr/bin/env python3
"""Write a pass's skeleton under one stem: its entry in Passes.td, its file, its
line in CMakeLists.txt and its lit test.

    tools/dev new-pass DIALECT Name [--root=DIR]
    tools/dev new-pass lm FuseLinearGelu

The skeleton builds, runs and passes its test at once: it leaves the IR as it
is. What it is to do is then written from the outside in: Before and After,
test, code."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True
from check import kebab  # noqa: E402

TD = '''
def {name} : Pass<"{flag}", "mlir::ModuleOp"> {{
  let summary = "{words}";
  let description = [{{
    What changes, and why.

    **Before**
    ```mlir
    func.func @f(%a: tensor<4xf32>) -> tensor<4xf32> {{
      return %a : tensor<4xf32>
    }}
    ```
    **After** unchanged.

    **Requires** nothing. **Ensures** nothing. **Leaves alone** everything.
  }}];
  let statistics = [
    Statistic<"numChanged", "changed", "how many operations it changed">,
    Statistic<"numMissed", "missed", "how many it had to leave, and why">
  ];
}}
'''

CPP = '''//===- {name}.cpp {dashes}===//
//
// {Words}.
//
// What it is for, in sentences a newcomer can follow; what it leaves to others;
// the invariant it relies on.
//
//===----------------------------------------------------------------------===//

#include "passes/{dialect}/Passes.h"

#include "mlir/IR/BuiltinOps.h"

namespace lmc::{dialect} {{

#define GEN_PASS_DEF_{upper}
#include "passes/{dialect}/Passes.h.inc"

namespace {{

/// Small pure functions first; runOnOperation only strings them.
bool isCandidate(mlir::Operation *) {{ return false; }}

struct {name} : impl::{name}Base<{name}> {{
  void runOnOperation() override {{
    getOperation()->walk([&](mlir::Operation *op) {{
      if (isCandidate(op))
        ++numMissed;
    }});
  }}
}};

}} // namespace
}} // namespace lmc::{dialect}
'''

TEST = '''// RUN: lmc-opt --{flag} %s | FileCheck %s

// A module without candidates stays as it is.
// CHECK-LABEL: func.func @nothing_to_do
// CHECK-NEXT: return
func.func @nothing_to_do(%a: tensor<4xf32>) -> tensor<4xf32> {{
  return %a : tensor<4xf32>
}}
'''


def stop(message, help_line):
    print(f"error: {message}\nhelp: {help_line}", file=sys.stderr)
    sys.exit(2)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    print(f"wrote   {path}")


def main(arguments):
    root = Path(__file__).resolve().parent.parent.parent
    for argument in [a for a in arguments if a.startswith("--root=")]:
        root = Path(argument[len("--root="):])
        arguments.remove(argument)
    if len(arguments) != 2 or not re.fullmatch(
            r"(?:[A-Z][a-z0-9]*)+", arguments[1] if arguments[1:] else ""):
        stop("a pass needs its dialect's folder and a CamelCase verb phrase",
             "tools/dev new-pass lm FuseLinearGelu")
    dialect, name = arguments
    folder = root / "passes" / dialect
    td, cmake = folder / "Passes.td", folder / "CMakeLists.txt"
    if not td.is_file() or not cmake.is_file():
        stop(f"passes/{dialect} has no Passes.td or no CMakeLists.txt",
             "folders: " + ", ".join(sorted(
                 p.parent.name for p in (root / "passes").glob("*/Passes.td"))))
    stem = kebab(name)
    flag = stem if stem.startswith(dialect + "-") else f"{dialect}-{stem}"
    content = td.read_text()
    if re.search(rf"^def {name}\b", content, re.M):
        stop(f"passes/{dialect}/Passes.td has a pass {name} already",
             "choose another name")
    names = {
        "name": name, "dialect": dialect, "flag": flag,
        "words": stem.replace("-", " "),
        "Words": stem.replace("-", " ").capitalize(),
        "upper": name.upper(),
        "dashes": "-" * (80 - len(f"//===- {name}.cpp ") - len("===//")),
    }
    # Before the include guard's #endif, where there is one.
    end = content.rfind("\n#endif")
    end = len(content) if end < 0 else end
    td.write_text(content[:end] + TD.format(**names) + content[end:])
    print(f"changed {td}")
    listed, count = re.subn(r"(lmc_compiler_library\(\s*\w+)",
                            rf"\1 {name}.cpp", cmake.read_text(), count=1)
    if count:
        cmake.write_text(listed)
        print(f"changed {cmake}")
    else:
        print(f"add {name}.cpp to {cmake}")
    write(folder / f"{name}.cpp", CPP.format(**names))
    write(root / "test" / "passes" / dialect / f"{stem}.mlir",
          TEST.format(**names))
    print(f"next: tools/dev build, then tools/dev test lit; lmc-opt --{flag}")


if __name__ == "__main__":
    main(sys.argv[1:])
