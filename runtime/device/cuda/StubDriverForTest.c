// A double of libcuda.so.1 for tests of what is called, with what and in which
// order, with no GPU. Memory is the host's, but its addresses are altered so
// that whoever touches them without the driver crashes. A module is PTX of any
// content and a launch computes nothing, unless LMC_STUB_CUDA_INTERPRET is set:
// then kernels run from their PTX, and one that does what it must not is told on
// stderr and fails the next wait, as on a GPU.
//
// Every call that matters is a line of the file that LMC_STUB_CUDA_LOG names:
//   load, function NAME, function_load NAME, shared NAME BYTES, alloc BYTES,
//   alloc_host BYTES, memset ADDRESS BYTES, copy TARGET SOURCE BYTES, sync,
//   launch NAME BLOCKS THREADS SHARED PARAMETER..., event ADDRESS,
//   capture, instantiate, upload, graph NODES
// What a stream is asked for while it is captured gives no line; a launch of
// the graph gives that of each node then, behind "graph". As the driver, the
// double refuses what may not be called in a capture, and it never takes a
// cubin. Nothing is done before somebody waits: whoever writes to pinned memory
// that a copy has yet to read, or reads what has not arrived, sees other bytes.
// Its clock goes on by one millisecond with each launch, copy or memset.
// LMC_STUB_CUDA_SHARED is what a block may share (227 KiB).
// LMC_STUB_CUDA_FAIL names a call that fails; LMC_STUB_CUDA_DEVICES is how many
// GPUs there are (1).
//
// The double of cuBLASLt submits its products here. Only tests link or load it: it lies in a folder of its own of the build,
// which no installed program searches.
#include "runtime/device/cuda/StubKernelsForTest.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  invalidValue = 1,
  noMemory = 2,
  invalidImage = 200,
  notFound = 500,
  notInCapture = 900
};
static const uint64_t deviceBit = 1ull << 62; // no canonical address has it

static void record(const char *format, ...) {
  const char *path = getenv("LMC_STUB_CUDA_LOG");
  if (!path)
    return;
  FILE *file = fopen(path, "a");
  va_list arguments;
  va_start(arguments, format);
  vfprintf(file, format, arguments);
  va_end(arguments);
  fclose(file);
}
static int fails(const char *name) {
  const char *wanted = getenv("LMC_STUB_CUDA_FAIL");
  return wanted && !strcmp(wanted, name);
}
static void *real(uint64_t address) {
  return (void *)(uintptr_t)(address & ~deviceBit);
}

static int interprets(void) { return getenv("LMC_STUB_CUDA_INTERPRET") != NULL; }
static int fault; // what each wait says from then on

static int init(unsigned flags) { return fails("cuInit") ? 100 : 0; }
static int errorName(int error, const char **name) {
  *name = error == 100 ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_OF_THE_STUB";
  return 0;
}
static int errorString(int error, const char **text) {
  *text =
      error == 100 ? "no CUDA-capable device is detected" : "the stub fails";
  return 0;
}
static int driverVersion(int *version) { return *version = 12040, 0; }
static int deviceCount(int *count) {
  const char *devices = getenv("LMC_STUB_CUDA_DEVICES");
  return *count = devices ? atoi(devices) : 1, 0;
}
static int device(int *number, int ordinal) { return *number = ordinal, 0; }
static int deviceName(char *name, int bytes, int number) {
  return snprintf(name, (size_t)bytes, "no GPU (a test double)"), 0;
}
static int attribute(int *value, int wanted, int number) {
  const char *shared = getenv("LMC_STUB_CUDA_SHARED");
  *value = wanted == 75   ? 9 // sm_90
           : wanted == 97 ? (shared ? atoi(shared) : 227 << 10)
                          : 0;
  return 0;
}
static int totalMemory(size_t *bytes, int number) {
  return *bytes = (size_t)80 << 30, 0;
}
static int retain(void **context, int number) {
  return *context = (void *)1, 0;
}
static int release(int number) { return record("release\n"), 0; }
static int setCurrent(void *context) { return 0; }
static int memoryInfo(size_t *freeBytes, size_t *total) {
  *total = (size_t)80 << 30;
  *freeBytes = fails("cuMemGetInfo") ? 64 : *total;
  return 0;
}
static int refuseInCapture(void);
static void finish(void);
static int allocate(uint64_t *address, size_t bytes) {
  record("alloc %zu\n", bytes);
  if (refuseInCapture())
    return notInCapture;
  void *memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (!memory || fails("cuMemAlloc"))
    return noMemory;
  memset(memory, 0xff, bytes); // the driver's is not zero either
  *address = (uint64_t)(uintptr_t)memory | deviceBit;
  lmcStubAllocated(*address, memory, bytes);
  return 0;
}
static int release_(uint64_t address) {
  finish();
  lmcStubFreed(address);
  return free(real(address)), 0;
}
// Pinned memory; what lies elsewhere on the host is copied while one waits.
static struct Pinned {
  char *begin, *end;
} pinned[64];
static int isPinned(const void *address) {
  for (int i = 0; i < 64; ++i)
    if ((char *)address >= pinned[i].begin && (char *)address < pinned[i].end)
      return 1;
  return 0;
}
static int allocateHost(void **address, size_t bytes, unsigned flags) {
  record("alloc_host %zu\n", bytes);
  for (int i = 0; i < 64; ++i)
    if (!pinned[i].begin) {
      pinned[i].begin = aligned_alloc(256, (bytes + 255) / 256 * 256);
      pinned[i].end = pinned[i].begin + bytes;
      return *address = pinned[i].begin, 0;
    }
  return noMemory;
}
static int releaseHost(void *address) {
  finish();
  for (int i = 0; i < 64; ++i)
    if (pinned[i].begin == address)
      pinned[i].begin = pinned[i].end = NULL;
  return free(address), 0;
}
static int createStream(void **stream, unsigned flags) {
  return *stream = (void *)2, 0;
}
static int destroyStream(void *stream) { return 0; }
// What a stream does, at once or as the node of a graph.
struct Node {
  char *line;
  int isCopy, isSet, value;
  uint64_t target, source;
  size_t bytes;
  int *event;
  void (*work)(const void *context);
  const void *context;
  struct Node *next;
};
struct Graph {
  struct Node *first, **end;
  int nodes, isBroken;
};
static struct Graph *capturing;
static int now; // ms
enum { notReady = -1 }; // an event's time

static void perform(const struct Node *node) {
  if (node->isCopy)
    memcpy(real(node->target), real(node->source), node->bytes);
  if (node->isSet)
    memset(real(node->target), node->value, node->bytes);
  if (node->work)
    node->work(node->context);
  if (node->event)
    *node->event = now;
  else
    ++now;
}

// With a context and a line of its own.
static struct Node *keep(const struct Node *node) {
  struct Node *kept = malloc(sizeof *kept);
  *kept = *node;
  kept->line = strdup(node->line);
  if (kept->work)
    kept->context = memcpy(aligned_alloc(64, (node->bytes + 63) / 64 * 64),
                           node->context, node->bytes);
  kept->next = NULL;
  return kept;
}

// What the stream has yet to do.
static struct Node *waiting, **waitingEnd = &waiting;
static void enqueue(const struct Node *node) {
  record("%s\n", node->line);
  if (node->event)
    *node->event = notReady;
  *waitingEnd = keep(node);
  waitingEnd = &(*waitingEnd)->next;
}
static void finish(void) {
  while (waiting) {
    struct Node *node = waiting;
    perform(node);
    waiting = node->next;
    free(node->line);
    if (node->work)
      free((void *)node->context);
    free(node);
  }
  waitingEnd = &waiting;
}

static int submit(struct Node node, const char *format, ...) {
  char line[20000];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  node.line = line;
  if (!capturing)
    return enqueue(&node), 0;
  *capturing->end = keep(&node); // as long as the process
  capturing->end = &(*capturing->end)->next;
  return ++capturing->nodes, 0;
}
static int refuseInCapture(void) {
  return capturing ? capturing->isBroken = 1, notInCapture : 0;
}

// For the double of cuBLASLt: a line at once, and work on the stream that takes
// a copy of its context.
void lmcStubRecord(const char *line) { record("%s", line); }
int lmcStubSubmit(void (*work)(const void *), const void *context,
                  size_t bytes, const char *line) {
  return submit(
      (struct Node){.work = work, .context = context, .bytes = bytes}, "%s",
      line);
}

static int beginCapture(void *stream, int mode) {
  record("capture\n");
  if (capturing || fails("cuStreamBeginCapture"))
    return invalidValue;
  capturing = calloc(1, sizeof *capturing);
  return capturing->end = &capturing->first, 0;
}
static int endCapture(void *stream, struct Graph **graph) {
  *graph = capturing && !capturing->isBroken ? capturing : NULL;
  capturing = NULL;
  return *graph ? 0 : notInCapture;
}
static int instantiate(struct Graph **exec, struct Graph *graph,
                       unsigned long long flags) {
  record("instantiate\n");
  return *exec = graph, fails("cuGraphInstantiateWithFlags") ? noMemory : 0;
}
static int upload(struct Graph *exec, void *stream) {
  return record("upload\n"), 0;
}
static int launchGraph(struct Graph *exec, void *stream) {
  record("graph %d\n", exec->nodes);
  if (capturing || fails("cuGraphLaunch"))
    return invalidValue;
  for (struct Node *node = exec->first; node; node = node->next)
    enqueue(node);
  return 0;
}
static int destroyGraph(struct Graph *graph) { return 0; }

static int createEvent(int **event, unsigned flags) {
  if (refuseInCapture())
    return notInCapture;
  *event = malloc(sizeof **event);
  return **event = notReady, 0;
}
static int destroyEvent(int *event) { return finish(), free(event), 0; }
static int recordEvent(int *event, void *stream, unsigned flags) {
  if (flags != (capturing != NULL))
    return invalidValue;
  return submit((struct Node){.event = event}, "event %p", (void *)event);
}
static int elapsed(float *milliseconds, int *from, int *to) {
  if (*from == notReady || *to == notReady)
    return 600;
  return *milliseconds = (float)(*to - *from), 0;
}

static int synchronize(void *stream) {
  record("sync\n");
  if (refuseInCapture())
    return notInCapture;
  finish();
  return fails("cuStreamSynchronize") ? 700 : fault;
}
static int copy(uint64_t target, uint64_t source, size_t bytes, void *stream) {
  if (bytes == 0)
    return invalidValue; // as a graph's node is
  int isOnDevice = (target & source & deviceBit) != 0;
  // Host memory changes between a capture and its replays.
  if (!isOnDevice && refuseInCapture())
    return notInCapture;
  int result = submit(
      (struct Node){
          .isCopy = 1, .target = target, .source = source, .bytes = bytes},
      "copy %" PRIx64 " %" PRIx64 " %zu", target, source, bytes);
  if (!isOnDevice && !isPinned(real(target & deviceBit ? source : target)))
    finish();
  return result;
}
static int fill(uint64_t target, unsigned char value, size_t bytes,
                void *stream) {
  if (bytes == 0)
    return invalidValue;
  return submit(
      (struct Node){
          .isSet = 1, .value = value, .target = target, .bytes = bytes},
      "memset %" PRIx64 " %zu", target, bytes);
}
struct Module {
  char *text;
  const void *kernels; // NULL: they compute nothing
};
static int load(struct Module **module, const char *image, unsigned options,
                int *names, void **values) {
  record("load\n");
  if (fails("cuModuleLoadDataEx")) {
    snprintf(values[0], (size_t)values[1], "ptxas: line 1: the stub's words");
    return invalidImage;
  }
  if (image[0] == 0x7f)
    return snprintf(values[0], (size_t)values[1], "the stub takes no cubin"),
           invalidImage;
  struct Module made = {strdup(image), NULL};
  if (interprets() && !(made.kernels = lmcStubLoadKernels(image)))
    return invalidImage;
  *module = malloc(sizeof **module);
  return **module = made, 0;
}
static int unload(struct Module *module) {
  finish();
  return free(module->text), free(module), 0;
}

enum { mostParameters = 64 };
struct Function {
  char name[1000];
  unsigned parameters, mostShared;
  int isLoaded;
  const void *kernels;
};
struct Launch {
  const struct Function *function;
  unsigned blocks, threads, sharedBytes;
  uint64_t parameters[mostParameters];
};
static void runKernel(const void *context) {
  const struct Launch *launch = context;
  if (!fault)
    fault = lmcStubRunKernel(launch->function->kernels, launch->function->name,
                             launch->blocks, launch->threads,
                             launch->sharedBytes, launch->parameters,
                             launch->function->parameters);
}
static int function(struct Function **found, const struct Module *module,
                    const char *name) {
  record("function %s\n", name);
  char entry[1100];
  snprintf(entry, sizeof entry, ".entry %s(", name);
  const char *at = strstr(module->text, entry);
  if (!at)
    return notFound;
  struct Function *made = calloc(1, sizeof *made); // as long as the process
  snprintf(made->name, sizeof made->name, "%s", name);
  made->kernels = module->kernels;
  made->mostShared = 48 << 10;
  const char *end = strchr(at, ')');
  for (; (at = strstr(at, ".param")) && at < end; at += 6)
    ++made->parameters;
  return *found = made, made->parameters <= mostParameters ? 0 : notFound;
}
static int loadFunction(struct Function *f) {
  f->isLoaded = 1;
  return record("function_load %s\n", f->name), 0;
}
static int setAttribute(struct Function *f, int wanted, int value) {
  record("shared %s %d\n", f->name, value);
  if (wanted != 8 || value > 227 << 10) // of sm_90
    return invalidValue;
  return f->mostShared = (unsigned)value, 0;
}
static int launch(struct Function *f, unsigned x, unsigned y, unsigned z,
                  unsigned threads, unsigned b, unsigned c, unsigned shared,
                  void *stream, void **parameters, void **extra) {
  char line[20000];
  int at = snprintf(line, sizeof line, "launch %s %u %u %u", f->name, x * y * z,
                    threads * b * c, shared);
  struct Launch call = {f, x * y * z, threads * b * c, shared};
  for (unsigned i = 0; i < f->parameters; ++i) {
    call.parameters[i] = *(uint64_t *)parameters[i];
    at += snprintf(line + at, sizeof line - (size_t)at, " %" PRIx64,
                   call.parameters[i]);
  }
  if (x == 0 || threads == 0 || threads > 1024 || shared > f->mostShared)
    return invalidValue;
  if (!f->isLoaded && refuseInCapture())
    return notInCapture;
  struct Node node = {0};
  if (f->kernels)
    node = (struct Node){
        .work = runKernel, .context = &call, .bytes = sizeof call};
  submit(node, "%s", line);
  return fails("cuLaunchKernel") ? 1 : 0;
}

int cuGetProcAddress_v2(const char *name, void **found, int version,
                        uint64_t flags, int *status) {
  static const struct {
    const char *name;
    void *function;
  } functions[] = {
      {"cuInit", init},
      {"cuGetErrorName", errorName},
      {"cuGetErrorString", errorString},
      {"cuDriverGetVersion", driverVersion},
      {"cuDeviceGetCount", deviceCount},
      {"cuDeviceGet", device},
      {"cuDeviceGetName", deviceName},
      {"cuDeviceGetAttribute", attribute},
      {"cuDeviceTotalMem", totalMemory},
      {"cuDevicePrimaryCtxRetain", retain},
      {"cuDevicePrimaryCtxRelease", release},
      {"cuCtxSetCurrent", setCurrent},
      {"cuMemGetInfo", memoryInfo},
      {"cuMemAlloc", allocate},
      {"cuMemFree", release_},
      {"cuMemHostAlloc", allocateHost},
      {"cuMemFreeHost", releaseHost},
      {"cuStreamCreate", createStream},
      {"cuStreamDestroy", destroyStream},
      {"cuStreamSynchronize", synchronize},
      {"cuStreamBeginCapture", beginCapture},
      {"cuStreamEndCapture", endCapture},
      {"cuGraphInstantiateWithFlags", instantiate},
      {"cuGraphUpload", upload},
      {"cuGraphLaunch", launchGraph},
      {"cuGraphDestroy", destroyGraph},
      {"cuGraphExecDestroy", destroyGraph},
      {"cuEventCreate", createEvent},
      {"cuEventDestroy", destroyEvent},
      {"cuEventRecordWithFlags", recordEvent},
      {"cuEventElapsedTime", elapsed},
      {"cuMemcpyAsync", copy},
      {"cuMemsetD8Async", fill},
      {"cuModuleLoadDataEx", load},
      {"cuModuleUnload", unload},
      {"cuModuleGetFunction", function},
      {"cuFuncLoad", loadFunction},
      {"cuFuncSetAttribute", setAttribute},
      {"cuLaunchKernel", launch},
  };
  *found = NULL;
  if (fails("cuGetProcAddress"))
    return notFound;
  for (size_t i = 0; i < sizeof functions / sizeof *functions; ++i)
    if (!strcmp(functions[i].name, name))
      return *found = functions[i].function, 0;
  return notFound;
}
