// See Place.h.
#include "runtime/job/Place.h"

#include <algorithm>
#include <charconv>

namespace lmc::runtime {

namespace {

/// The variables of a launcher: those that a job of several ranks needs, and
/// those that it may have.
struct Launcher {
  const char *name;
  const char *needed[4], *others[3];
};

/// Reads numbers from the environment and says which variable is wrong.
class Variables {
public:
  Variables(const Environment &get, const Launcher &launcher)
      : get(get), launcher(launcher) {}

  bool has(const char *name) const {
    const char *text = get(name);
    return text && *text;
  }
  std::string text(const char *name) const {
    return has(name) ? get(name) : "";
  }
  /// The first of the names that is set; the first of all when none is.
  const char *firstOf(const char *name, const char *otherwise) const {
    return has(name) || !has(otherwise) ? name : otherwise;
  }

  /// "RANK is set, WORLD_SIZE and MASTER_ADDR are missing"; nothing when none
  /// is set.
  std::string missing() const {
    std::vector<const char *> set, unset;
    for (const char *name : launcher.needed)
      if (name)
        (has(name) ? set : unset).push_back(name);
    for (const char *name : launcher.others)
      if (name && has(name))
        set.push_back(name);
    if (set.empty())
      return "";
    return fmt::format("{}'s environment is incomplete: {} set, {} missing",
                       launcher.name, list(set), list(unset));
  }

  Status need(std::initializer_list<const char *> names) const {
    for (const char *name : names)
      if (!has(name))
        return wrongInput("{}", missing())
            .help("start it through {}, or unset what is set", launcher.name);
    return Status();
  }

  StatusOr<int> number(const char *name, int minimum, int maximum) const {
    std::string value = text(name);
    int number = 0;
    auto [end, error] =
        std::from_chars(value.data(), value.data() + value.size(), number);
    if (error != std::errc() || end != value.data() + value.size() ||
        number < minimum || number > maximum)
      return wrongInput("{}={} is no number in [{}, {}] ({}'s environment)",
                        name, value, minimum, maximum, launcher.name);
    return number;
  }

  Status fillRanks(Place &place, const char *rank, const char *ranks) const {
    LMC_RETURN_IF_ERROR(need({rank, ranks}));
    LMC_ASSIGN_OR_RETURN(place.ranks, number(ranks, 1, 1 << 20));
    LMC_ASSIGN_OR_RETURN(place.rank, number(rank, 0, 1 << 20));
    LMC_RETURN_IF_ERROR(below(rank, place.rank, ranks, place.ranks));
    place.launcher = launcher.name;
    place.source = fmt::format("{} ({}={}, {}={})", launcher.name, rank,
                               place.rank, ranks, place.ranks);
    return Status();
  }

  /// The same among the ranks of this host, where the launcher says so; null
  /// when it has no variable for their number.
  Status fillLocal(Place &place, const char *ranks, const char *localRank,
                   const char *localRanks) const {
    int count = place.ranks;
    if (localRanks && has(localRanks)) {
      LMC_ASSIGN_OR_RETURN(count, number(localRanks, 1, 1 << 20));
      if (count > place.ranks)
        return wrongInput("{}={} is more than {}={} ({}'s environment)",
                          localRanks, count, ranks, place.ranks, launcher.name);
      ranks = localRanks;
      place.ranksHere = count;
    }
    if (!has(localRank))
      return Status();
    LMC_ASSIGN_OR_RETURN(int rank, number(localRank, 0, 1 << 20));
    return below(localRank, rank, ranks, count);
  }

  Status below(const char *rank, int value, std::string_view ranks,
               int limit) const {
    if (value < limit)
      return Status();
    return wrongInput("{}={} is not below {}={} ({}'s environment)", rank,
                      value, ranks, limit, launcher.name);
  }

private:
  static std::string list(const std::vector<const char *> &names) {
    std::string text;
    for (size_t i = 0; i < names.size(); ++i)
      text += fmt::format("{}{}",
                          i == 0                  ? ""
                          : i + 1 == names.size() ? " and "
                                                  : ", ",
                          names[i]);
    return text + (names.size() == 1 ? " is" : " are");
  }

  const Environment &get;
  const Launcher &launcher;
};

constexpr Launcher torchrun = {
    "torchrun",
    {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"},
    {"LOCAL_RANK", "LOCAL_WORLD_SIZE"}};
constexpr Launcher mpirun = {"mpirun",
                             {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                              "OMPI_COMM_WORLD_LOCAL_SIZE"},
                             {"OMPI_COMM_WORLD_LOCAL_RANK"}};
constexpr Launcher srun = {"srun",
                           {"SLURM_PROCID", "SLURM_STEP_ID",
                            "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST"},
                           {"SLURM_NTASKS", "SLURM_NODELIST", "SLURM_LOCALID"}};

} // namespace

// What comes to the port of a job is read up to some length.
static constexpr size_t longestToken = 4096;

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
  LMC_RETURN_IF_ERROR(variables.fillLocal(place, "WORLD_SIZE", "LOCAL_RANK",
                                          "LOCAL_WORLD_SIZE"));
  if (place.ranks == 1)
    return Status();
  LMC_RETURN_IF_ERROR(variables.need({"MASTER_ADDR", "MASTER_PORT"}));
  place.host = variables.text("MASTER_ADDR");
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
  LMC_RETURN_IF_ERROR(variables.fillLocal(place, "OMPI_COMM_WORLD_SIZE",
                                          "OMPI_COMM_WORLD_LOCAL_RANK",
                                          "OMPI_COMM_WORLD_LOCAL_SIZE"));
  if (place.ranks == 1)
    return Status();
  LMC_RETURN_IF_ERROR(variables.need({"OMPI_COMM_WORLD_LOCAL_SIZE"}));
  if (variables.has("MASTER_ADDR"))
    place.host = variables.text("MASTER_ADDR");
  else if (place.ranksHere != place.ranks && !variables.has("LMC_RENDEZVOUS"))
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

/// How many tasks a node of a Slurm list has: nodes 0 to 2 of 2(x3),1 have 2,
/// node 3 has 1. Nothing when the list has no such node, or is none.
static std::optional<int> tasksOnNode(std::string_view list, int node) {
  while (!list.empty()) {
    std::string_view part = list.substr(0, list.find(','));
    list.remove_prefix(std::min(list.size(), part.size() + 1));
    int tasks = 0, nodes = 1;
    const char *end = part.data() + part.size();
    auto [at, error] = std::from_chars(part.data(), end, tasks);
    if (error != std::errc())
      return std::nullopt;
    if (at != end) {
      std::string_view times(at, size_t(end - at));
      if (times.size() < 4 || times.substr(0, 2) != "(x" ||
          std::from_chars(at + 2, end, nodes).ptr != end - 1 || end[-1] != ')')
        return std::nullopt;
    }
    if (node < nodes)
      return tasks;
    node -= nodes;
  }
  return std::nullopt;
}

static Status checkSlurmNode(const Variables &variables, Place &place,
                             const char *tasks) {
  const char *perNode = "SLURM_STEP_TASKS_PER_NODE";
  if (!variables.has(perNode) || !variables.has("SLURM_NODEID"))
    return variables.fillLocal(place, tasks, "SLURM_LOCALID", nullptr);
  LMC_ASSIGN_OR_RETURN(int node, variables.number("SLURM_NODEID", 0, 1 << 20));
  std::string list = variables.text(perNode);
  std::optional<int> here = tasksOnNode(list, node);
  if (!here)
    return wrongInput("{}={} says nothing of SLURM_NODEID={} (srun's "
                      "environment)",
                      perNode, list, node);
  if (!variables.has("SLURM_LOCALID"))
    return Status();
  LMC_ASSIGN_OR_RETURN(int local,
                       variables.number("SLURM_LOCALID", 0, 1 << 20));
  if (local < *here)
    return Status();
  return wrongInput("SLURM_LOCALID={} is not below the {} of node {} in {}={} "
                    "(srun's environment)",
                    local, *here, node, perNode, list);
}

static Status fromSlurm(const Variables &variables, Place &place) {
  const char *tasks = variables.firstOf("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS");
  LMC_RETURN_IF_ERROR(variables.fillRanks(place, "SLURM_PROCID", tasks));
  LMC_RETURN_IF_ERROR(checkSlurmNode(variables, place, tasks));
  if (place.ranks == 1)
    return Status();
  const char *nodes =
      variables.firstOf("SLURM_STEP_NODELIST", "SLURM_NODELIST");
  LMC_RETURN_IF_ERROR(variables.need({nodes}));
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
  std::string host = whole ? text.substr(0, colon) : "";
  // An IPv6 address stands in brackets: [::1]:4000.
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  if (host.empty() || port < 1 || port > 65535)
    return wrongInput("LMC_RENDEZVOUS={} is not HOST:PORT", text);
  place.host = host;
  place.port = port;
  return Status();
}

StatusOr<std::optional<Place>> placeFromEnvironment(const Environment &get) {
  Variables any(get, torchrun);
  Place place;
  Status status;
  bool isTorchrun = any.has("RANK") + any.has("WORLD_SIZE") +
                        any.has("LOCAL_RANK") + any.has("MASTER_ADDR") >=
                    2;
  if (isTorchrun)
    status = fromTorchrun(Variables(get, torchrun), place);
  else if (any.has("OMPI_COMM_WORLD_RANK") || any.has("OMPI_COMM_WORLD_SIZE"))
    status = fromOpenMpi(Variables(get, mpirun), place);
  else if (any.has("SLURM_PROCID") && any.has("SLURM_STEP_ID"))
    status = fromSlurm(Variables(get, srun), place);
  else
    return std::optional<Place>();
  LMC_RETURN_IF_ERROR(status);
  LMC_RETURN_IF_ERROR(overrideRendezvous(any, place));
  std::string token = any.text("LMC_JOB_TOKEN");
  if (token.size() > longestToken)
    return wrongInput("LMC_JOB_TOKEN has {} bytes, {} are allowed",
                      token.size(), longestToken);
  place.token += " " + token;
  place.hostName = any.text("LMC_HOST_NAME");
  if (place.hostName.find_first_of(" \t\r\n") != std::string::npos)
    return wrongInput("LMC_HOST_NAME={} has a blank in it", place.hostName);
  return std::optional<Place>(place);
}

std::vector<std::string> strayVariables(const Environment &get) {
  std::vector<std::string> sentences;
  for (const Launcher *launcher : {&torchrun, &mpirun, &srun})
    if (std::string text = Variables(get, *launcher).missing(); !text.empty())
      sentences.push_back(text);
  return sentences;
}

std::string howToStart(const std::optional<Place> &place, int64_t ranks) {
  if (!place || place->launcher.empty())
    return fmt::format("--nproc {}", ranks);
  if (place->launcher != torchrun.name)
    return fmt::format("{} -n {}", place->launcher, ranks);
  int64_t nodes = place->ranksHere > 0 ? (place->ranks / place->ranksHere) : 1;
  if (nodes < 2 || ranks % nodes != 0)
    return fmt::format("torchrun --nproc-per-node={}", ranks);
  return fmt::format("torchrun --nnodes={} --nproc-per-node={}", nodes,
                     ranks / nodes);
}

} // namespace lmc::runtime
