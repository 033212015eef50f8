// See Place.h.
#include "runtime/job/Place.h"

#include <charconv>

namespace lmc::runtime {

namespace {

/// Reads numbers from the environment and says which variable is wrong.
class Variables {
public:
  Variables(const Environment &get, std::string launcher)
      : get(get), launcher(std::move(launcher)) {}

  bool has(const char *name) const {
    const char *text = get(name);
    return text && *text;
  }
  std::string text(const char *name) const {
    return has(name) ? get(name) : "";
  }

  StatusOr<int> number(const char *name, int minimum, int maximum) const {
    if (!has(name))
      return wrongInput("{} is not set, though this process was started by {}",
                        name, launcher)
          .help("start it through {}, or unset its other variables", launcher);
    std::string value = text(name);
    int number = 0;
    auto [end, error] =
        std::from_chars(value.data(), value.data() + value.size(), number);
    if (error != std::errc() || end != value.data() + value.size() ||
        number < minimum || number > maximum)
      return wrongInput("{}={} is no number in [{}, {}] ({}'s environment)",
                        name, value, minimum, maximum, launcher);
    return number;
  }

  Status fillRanks(Place &place, const char *rank, const char *ranks) const {
    LMC_ASSIGN_OR_RETURN(place.ranks, number(ranks, 1, 1 << 20));
    LMC_ASSIGN_OR_RETURN(place.rank, number(rank, 0, 1 << 20));
    if (place.rank >= place.ranks)
      return wrongInput("{}={} is not below {}={} ({}'s environment)", rank,
                        place.rank, ranks, place.ranks, launcher);
    place.source = fmt::format("{} ({}={}, {}={})", launcher, rank, place.rank,
                               ranks, place.ranks);
    return Status();
  }

private:
  const Environment &get;
  std::string launcher;
};

} // namespace

/// A port that jobs of different names are not likely to share; below those
/// that the system gives to outgoing connections.
static int portFor(std::string_view job) {
  uint32_t hash = 2166136261u;
  for (unsigned char c : job)
    hash = (hash ^ c) * 16777619u;
  return 15000 + int(hash % 15000);
}

StatusOr<std::string> firstHost(std::string_view nodeList) {
  Status bad = wrongInput("the node list \"{}\" cannot be read", nodeList);
  size_t comma = nodeList.find(','), open = nodeList.find('[');
  if (open == std::string_view::npos || comma < open) {
    std::string host(nodeList.substr(0, comma));
    return host.empty() ? StatusOr<std::string>(bad) : host;
  }
  size_t close = nodeList.find(']', open);
  if (close == std::string_view::npos)
    return bad;
  std::string_view inside = nodeList.substr(open + 1, close - open - 1);
  std::string first(inside.substr(0, inside.find_first_of(",-")));
  if (first.empty() || first.find_first_not_of("0123456789") != first.npos)
    return bad;
  // What follows the brackets up to the comma belongs to the name too, and
  // may have brackets of its own.
  std::string_view rest = nodeList.substr(close + 1);
  std::string host = std::string(nodeList.substr(0, open)) + first;
  if (rest.empty() || rest[0] == ',')
    return host;
  LMC_ASSIGN_OR_RETURN(std::string tail, firstHost(rest));
  return host + tail;
}

static Status fromTorchrun(const Variables &variables, Place &place) {
  LMC_RETURN_IF_ERROR(variables.fillRanks(place, "RANK", "WORLD_SIZE"));
  if (place.ranks == 1)
    return Status();
  place.host = variables.text("MASTER_ADDR");
  if (place.host.empty())
    return wrongInput("MASTER_ADDR is not set, though RANK is (torchrun's "
                      "environment)")
        .help("set it to the host of rank 0");
  LMC_ASSIGN_OR_RETURN(place.port, variables.number("MASTER_PORT", 1, 65535));
  place.token = "torchrun " + variables.text("TORCHELASTIC_RUN_ID") + " " +
                variables.text("TORCHELASTIC_RESTART_COUNT");
  // torchrun's own agent sits at the port that it names. The next one is no
  // better: where the system chose the agent's, that is one of those that it
  // gives to outgoing connections, and often taken.
  if (variables.text("TORCHELASTIC_USE_AGENT_STORE") == "True")
    place.port = portFor(place.token + " " + variables.text("MASTER_PORT"));
  return Status();
}

static Status fromOpenMpi(const Variables &variables, Place &place) {
  LMC_RETURN_IF_ERROR(variables.fillRanks(place, "OMPI_COMM_WORLD_RANK",
                                          "OMPI_COMM_WORLD_SIZE"));
  if (place.ranks == 1)
    return Status();
  LMC_ASSIGN_OR_RETURN(
      int local, variables.number("OMPI_COMM_WORLD_LOCAL_SIZE", 1, 1 << 20));
  if (variables.has("MASTER_ADDR"))
    place.host = variables.text("MASTER_ADDR");
  else if (local != place.ranks && !variables.has("LMC_RENDEZVOUS"))
    return wrongInput("MASTER_ADDR is not set, and Open MPI does not say which "
                      "of the hosts has rank 0")
        .help("mpirun -x MASTER_ADDR=HOST");
  place.token = "mpirun " + variables.text("PMIX_NAMESPACE") + " " +
                variables.text("OMPI_MCA_ess_base_jobid");
  place.port = portFor(place.token);
  if (variables.has("MASTER_PORT")) {
    LMC_ASSIGN_OR_RETURN(place.port, variables.number("MASTER_PORT", 1, 65535));
  }
  return Status();
}

static Status fromSlurm(const Variables &variables, Place &place) {
  const char *tasks = variables.has("SLURM_STEP_NUM_TASKS")
                          ? "SLURM_STEP_NUM_TASKS"
                          : "SLURM_NTASKS";
  LMC_RETURN_IF_ERROR(variables.fillRanks(place, "SLURM_PROCID", tasks));
  if (place.ranks == 1)
    return Status();
  const char *nodes = variables.has("SLURM_STEP_NODELIST")
                          ? "SLURM_STEP_NODELIST"
                          : "SLURM_NODELIST";
  if (!variables.has(nodes))
    return wrongInput("SLURM_STEP_NODELIST is not set, though SLURM_PROCID is "
                      "(Slurm's environment)");
  StatusOr<std::string> host = firstHost(variables.text(nodes));
  if (!host.ok())
    return std::move(host).status().prepend(nodes);
  place.host = *host;
  place.token = "slurm " + variables.text("SLURM_JOB_ID") + "." +
                variables.text("SLURM_STEP_ID") + " " +
                variables.text("SLURM_RESTART_COUNT");
  place.port = portFor(place.token);
  return Status();
}

static Status overrideRendezvous(const Variables &variables, Place &place) {
  if (!variables.has("LMC_RENDEZVOUS"))
    return Status();
  std::string text = variables.text("LMC_RENDEZVOUS");
  size_t colon = text.rfind(':');
  int port = 0;
  const char *end = text.data() + text.size();
  bool whole = colon != std::string::npos &&
               std::from_chars(text.data() + colon + 1, end, port).ptr == end;
  if (!whole || colon == 0 || port < 1 || port > 65535)
    return wrongInput("LMC_RENDEZVOUS={} is not HOST:PORT", text);
  place.host = text.substr(0, colon);
  place.port = port;
  return Status();
}

StatusOr<std::optional<Place>> placeFromEnvironment(const Environment &get) {
  Variables any(get, "a launcher");
  Place place;
  Status status;
  bool torchrun = any.has("RANK") + any.has("WORLD_SIZE") +
                      any.has("LOCAL_RANK") + any.has("MASTER_ADDR") >=
                  2;
  if (torchrun)
    status = fromTorchrun(Variables(get, "torchrun"), place);
  else if (any.has("OMPI_COMM_WORLD_RANK") || any.has("OMPI_COMM_WORLD_SIZE"))
    status = fromOpenMpi(Variables(get, "mpirun"), place);
  else if (any.has("SLURM_PROCID") && any.has("SLURM_STEP_ID"))
    status = fromSlurm(Variables(get, "srun"), place);
  else
    return std::optional<Place>();
  LMC_RETURN_IF_ERROR(status);
  LMC_RETURN_IF_ERROR(overrideRendezvous(any, place));
  place.token += " " + any.text("LMC_JOB_TOKEN");
  place.hostName = any.text("LMC_HOST_NAME");
  return std::optional<Place>(place);
}

} // namespace lmc::runtime
