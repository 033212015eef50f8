# The lit tests: what files they are, which programs they find, what the
# machine has. `tools/dev test lit` runs them; one of them:
#   python3 /usr/lib/llvm-19/build/utils/lit/lit.py -v build/test --filter NAME
import os
import shutil

import lit.formats

config.name = "lmc"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".mlir", ".test"]
config.test_source_root = os.path.join(config.lmc_source, "test")
config.test_exec_root = os.path.join(config.lmc_build, "test")
# Not lit's: goldens and data are read by tests, the others have a run script.
config.excludes = ["goldens", "data", "bench", "numerics", "fuzz", "faults",
                   "mesh", "plugin"]

programs = os.path.join(config.lmc_build, "bin")
config.environment["PATH"] = os.pathsep.join(
    [programs, config.llvm_tools, config.environment["PATH"]])
# Variables of one CHECK-LABEL block end with it, and a prefix that no line
# uses is a mistake.
config.environment["FILECHECK_OPTS"] = (
    "--enable-var-scope --allow-unused-prefixes=false --dump-input-filter=error")
# No test meets the kernels that another run cached.
config.environment["XDG_CACHE_HOME"] = os.path.join(
    config.test_exec_root, "cache")

config.substitutions.append(("%python", "python3"))
# A PATH without whatever else a machine has.
config.substitutions.append(("%llvm_programs", programs))
config.substitutions.append(("%source", config.lmc_source))
# %exits 4 COMMAND: the command has to end with this exit status.
config.substitutions.append(
    ("%exits", "python3 " + os.path.join(config.lmc_source, "test/exits.py")))
# A folder with a double of the CUDA driver, for LD_LIBRARY_PATH.
config.substitutions.append(
    ("%cuda_stub", os.path.join(config.lmc_build, "test/cuda-stub")))
config.substitutions.append(
    ("%plugins", os.path.join(config.lmc_build, "lib")))
config.substitutions.append(("%examples",
                             os.path.join(config.lmc_source, "examples")))
config.substitutions.append(("%goldens",
                             os.path.join(config.lmc_source, "test/goldens")))

# REQUIRES: what not every machine has.
if os.path.exists("/dev/nvidia0"):
    config.available_features.add("cuda")
toolkit = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
if toolkit:
    config.environment["CUDA_HOME"] = toolkit
if shutil.which("ptxas") or (
        toolkit and os.path.exists(os.path.join(toolkit, "bin/ptxas"))):
    config.available_features.add("ptxas")
with open("/proc/cpuinfo") as cpuinfo:
    flags = cpuinfo.read().split()
for name, flag in (("avx512", "avx512f"), ("amx", "amx_tile")):
    if flag in flags:
        config.available_features.add(name)
