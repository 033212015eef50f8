// Runs a checked plan on one rank.
//
// create() allocates what the plan states, loads the kernels, fills constants
// and scalars, and prepares every program (Program.h). run() then executes a
// schedule: for each of its calls it sets micro-batch and slots and walks the
// program's ops. In run() there is no allocation, no look-up by name and no
// lock of ours.
//
// What a schedule asks of the device depends on nothing but the sizes of the
// step: numbers that change lie in memory. So a device that can record is
// asked once for each (Recordings.h).
#ifndef LMC_RUNTIME_EXEC_EXECUTOR_H
#define LMC_RUNTIME_EXEC_EXECUTOR_H

#include "runtime/base/Progress.h"
#include "runtime/exec/Pace.h"
#include "runtime/exec/Program.h"
#include "runtime/exec/Recordings.h"
#include "runtime/trace/Trace.h"

namespace lmc::runtime {

/// An instruction in words: program, number, layer and line of the model.
std::string describeInstruction(const plan::Plan &plan, uint32_t program,
                                uint32_t instruction);

class Executor {
public:
  struct Options {
    bool profile = false; ///< measure every op, by the device's clock
    /// Where to tell how far this rank is; null: nobody watches.
    Progress *progress = nullptr;
    /// Instructions take their planned time, at so many seconds for a FLOP,
    /// and the device computes nothing; 0: they take what they take.
    double secondsPerFlop = 0;
  };
  /// Plan, device and communicator (null for one rank) must outlive it.
  static StatusOr<std::unique_ptr<Executor>>
  create(const plan::Plan &plan, Device &device, Communicator *comm,
         int64_t rank, Options options);

  /// The handle of this stage's schedule of that name, or -1.
  int findSchedule(std::string_view name) const;
  Status run(int schedule);

  /// Where a slice with a rank-only offset (state, port, scalar) lies.
  std::byte *address(const plan::Slice &slice) const;
  /// Sets a run-time number; false when the plan has none of that name. "tf32"
  /// says how matmuls are prepared, which the next run tells if it fails.
  bool setScalar(std::string_view name, double value);
  /// Sets a SIZE symbol for the following runs, within its bounds.
  Status setSize(std::string_view name, int64_t value);

  const plan::Plan &plan() const { return thePlan; }
  Device &device() { return theDevice; }
  Communicator *comm() { return theComm; }
  int64_t rank() const { return theRank; }
  const std::vector<int64_t> &coordinates() const { return theCoordinates; }
  /// This rank's coordinate on pp.
  int64_t stage() const { return theStage; }
  /// One value per symbol of the plan, with this rank's coordinates.
  const std::vector<int64_t> &symbolValues() const { return values; }
  /// What the job's control plane sees of this rank.
  Progress &watched() { return progress; }

  /// FLOPs of one run of a schedule on this rank, as the plan counts them.
  int64_t scheduleFlops(int schedule) const;

  /// A table of where the time went, when profiling: a line for each kernel of
  /// a program, or for each kind of kernel.
  enum class ProfileLines { Kernels, Kinds };
  std::string profileReport(ProfileLines lines = ProfileLines::Kernels) const;
  /// Forgets what was measured so far.
  void resetProfile();
  /// Whether the following runs are measured.
  Status setProfile(bool on);
  /// Tells the trace how long the instructions of the following runs take that
  /// it wants, counted for each schedule; it outlives them.
  Status setTrace(Trace *wanted);

private:
  Executor(const plan::Plan &plan, Device &device, Communicator *comm,
           int64_t rank, Options options)
      : thePlan(plan), theDevice(device), theComm(comm), theRank(rank),
        options(options),
        progress(options.progress ? *options.progress : unwatched) {}
  Status prepare();
  struct PreparedSchedule;
  Status walk(const PreparedSchedule &schedule);
  Status runRecorded(int schedule);
  Status runProgram(uint32_t index);
  Status execute(PreparedProgram &program, const Op &op);
  void keepPace(uint32_t program, const Op &op);
  Status reserveMarks();
  void measure(bool on);
  void addTimes(const PreparedSchedule &schedule, uint64_t numDone,
                Trace *told);

  struct PreparedCall {
    uint32_t program;
    int64_t microBatch;
    std::vector<int64_t> slots;
  };
  struct PreparedSchedule {
    std::string name;
    std::vector<PreparedCall> calls;
    uint64_t numOps = 0;
    int64_t runs = 0;       ///< since there is a trace
    bool exchanges = false; ///< with other ranks
  };
  struct OpTime {
    uint64_t ns = 0, calls = 0;
  };

  const plan::Plan &thePlan;
  Device &theDevice;
  Communicator *theComm;
  int64_t theRank;
  Options options;
  std::vector<int64_t> theCoordinates;
  int64_t theStage = 0;
  std::vector<int64_t> values;
  std::vector<uint32_t> microBatchSymbols, slotSymbols, sizeSymbols;
  std::vector<PreparedProgram> programs;
  std::vector<PreparedSchedule> schedules;
  std::vector<MatmulRequest> matmuls; ///< of all programs
  bool tf32 = false;
  Status matmulsPrepared;
  Recordings recordings;
  std::vector<std::vector<OpTime>> times; ///< by program and op
  bool measuring = false;
  size_t nextMark = 0;
  Trace *trace = nullptr;
  Pace pace;
  Progress unwatched;
  Progress &progress;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_EXEC_EXECUTOR_H
