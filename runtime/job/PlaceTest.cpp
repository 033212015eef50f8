// Who am I: what launchers say, and what they cannot mean.
#include "runtime/job/Place.h"

#include <gtest/gtest.h>
#include <map>

using namespace lmc::runtime;

static StatusOr<std::optional<Place>>
placeIn(const std::map<std::string, std::string> &variables) {
  return placeFromEnvironment([&](const char *name) -> const char * {
    auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

TEST(Place, NoLauncherIsNoPlace) {
  auto place = placeIn({{"HOME", "/"}, {"RANK", "3"}});
  ASSERT_TRUE(place.ok());
  EXPECT_FALSE(place->has_value());
}

TEST(Place, Torchrun) {
  std::map<std::string, std::string> variables = {{"RANK", "3"},
                                                  {"WORLD_SIZE", "8"},
                                                  {"LOCAL_RANK", "1"},
                                                  {"MASTER_ADDR", "node7"},
                                                  {"MASTER_PORT", "29500"}};
  auto place = placeIn(variables);
  ASSERT_TRUE(place.ok()) << place.status().toString();
  EXPECT_EQ((*place)->rank, 3);
  EXPECT_EQ((*place)->ranks, 8);
  EXPECT_EQ((*place)->host, "node7");
  EXPECT_EQ((*place)->port, 29500);
  EXPECT_EQ((*place)->source, "torchrun (RANK=3, WORLD_SIZE=8)");
  variables["TORCHELASTIC_USE_AGENT_STORE"] = "True"; // sits at 29500 itself
  int port = (*placeIn(variables))->port;
  EXPECT_TRUE(port >= 15000 && port < 30000) << port; // nobody's by chance
  variables["MASTER_PORT"] = "29501";                 // another job
  EXPECT_NE((*placeIn(variables))->port, port);
}

TEST(Place, Slurm) {
  auto place = placeIn({{"SLURM_PROCID", "5"},
                        {"SLURM_STEP_NUM_TASKS", "6"},
                        {"SLURM_NTASKS", "12"},
                        {"SLURM_JOB_ID", "77"},
                        {"SLURM_STEP_ID", "0"},
                        {"SLURM_STEP_NODELIST", "gpu[03-05,9]-ib,login"}});
  ASSERT_TRUE(place.ok()) << place.status().toString();
  EXPECT_EQ((*place)->rank, 5);
  EXPECT_EQ((*place)->ranks, 6);
  EXPECT_EQ((*place)->host, "gpu03-ib");
  EXPECT_GE((*place)->port, 15000);
  // The script of sbatch is no step: it is one process.
  EXPECT_FALSE(
      (*placeIn({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "6"}})).has_value());
}

TEST(Place, OpenMpi) {
  std::map<std::string, std::string> variables = {
      {"OMPI_COMM_WORLD_RANK", "1"},
      {"OMPI_COMM_WORLD_SIZE", "4"},
      {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
      {"SLURM_PROCID", "0"},
      {"SLURM_STEP_ID", "0"}};
  auto place = placeIn(variables);
  ASSERT_TRUE(place.ok()) << place.status().toString();
  EXPECT_EQ((*place)->rank, 1);
  EXPECT_EQ((*place)->host, "127.0.0.1");
  variables["OMPI_COMM_WORLD_LOCAL_SIZE"] = "2";
  EXPECT_NE(placeIn(variables).status().message().find("MASTER_ADDR"),
            std::string::npos);
  variables["LMC_RENDEZVOUS"] = "node1:4000";
  EXPECT_EQ((*placeIn(variables))->host, "node1");
  EXPECT_EQ((*placeIn(variables))->port, 4000);
}

// A process that no launcher has started may have some of its variables.
TEST(Place, StrayVariablesAreNamed) {
  auto stray = [](const char *name) {
    std::map<std::string, std::string> variables = {{name, "3"}};
    EXPECT_FALSE((*placeIn(variables)).has_value()) << name;
    return strayVariables([&](const char *name) -> const char * {
      auto found = variables.find(name);
      return found == variables.end() ? nullptr : found->second.c_str();
    });
  };
  using Sentences = std::vector<std::string>;
  EXPECT_EQ(stray("RANK"),
            Sentences{"torchrun's environment is incomplete: RANK is set, "
                      "WORLD_SIZE, MASTER_ADDR and MASTER_PORT are missing"});
  EXPECT_EQ(stray("WORLD_SIZE"),
            Sentences{"torchrun's environment is incomplete: WORLD_SIZE is "
                      "set, RANK, MASTER_ADDR and MASTER_PORT are missing"});
  EXPECT_EQ(stray("SLURM_PROCID"),
            Sentences{"srun's environment is incomplete: SLURM_PROCID is set, "
                      "SLURM_STEP_ID, SLURM_STEP_NUM_TASKS and "
                      "SLURM_STEP_NODELIST are missing"});
  EXPECT_EQ(stray("OMPI_COMM_WORLD_LOCAL_RANK"),
            Sentences{"mpirun's environment is incomplete: "
                      "OMPI_COMM_WORLD_LOCAL_RANK is set, "
                      "OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE and "
                      "OMPI_COMM_WORLD_LOCAL_SIZE are missing"});
  EXPECT_EQ(stray("HOME"), Sentences{});
}

TEST(Place, ALauncherStartsTheRightNumber) {
  EXPECT_EQ(howToStart(std::nullopt, 2), "--nproc 2");
  Place place;
  EXPECT_EQ(howToStart(place, 2), "--nproc 2");
  place.launcher = "mpirun";
  EXPECT_EQ(howToStart(place, 2), "mpirun -n 2");
  place.launcher = "srun";
  EXPECT_EQ(howToStart(place, 2), "srun -n 2");
  place.launcher = "torchrun";
  place.ranks = 8;
  EXPECT_EQ(howToStart(place, 2), "torchrun --nproc-per-node=2");
  place.ranksHere = 8;
  EXPECT_EQ(howToStart(place, 2), "torchrun --nproc-per-node=2");
  place.ranksHere = 4; // two hosts
  EXPECT_EQ(howToStart(place, 6), "torchrun --nnodes=2 --nproc-per-node=3");
  EXPECT_EQ(howToStart(place, 1), "torchrun --nproc-per-node=1");
}

TEST(Place, WhereTheyMeetMayBeOverridden) {
  std::map<std::string, std::string> variables = {{"RANK", "1"},
                                                  {"WORLD_SIZE", "2"},
                                                  {"MASTER_ADDR", "a"},
                                                  {"MASTER_PORT", "1"}};
  for (const auto &[text, host] : std::map<std::string, std::string>{
           {"b:4000", "b"}, {"[::1]:4000", "::1"}, {"::1:4000", "::1"}}) {
    variables["LMC_RENDEZVOUS"] = text;
    EXPECT_EQ((*placeIn(variables))->host, host);
    EXPECT_EQ((*placeIn(variables))->port, 4000);
  }
  for (const char *text : {":4000", "b", "b:", "b:0", "b:65536", "[]:4000"}) {
    variables["LMC_RENDEZVOUS"] = text;
    EXPECT_FALSE(placeIn(variables).ok()) << text;
  }
}

TEST(Place, AWrongEnvironmentNamesTheVariable) {
  using Variables = std::map<std::string, std::string>;
  for (const auto &[variables, name] :
       std::vector<std::pair<Variables, std::string>>{
           {{{"RANK", "8"}, {"WORLD_SIZE", "8"}}, "RANK=8"},
           {{{"RANK", "x"}, {"WORLD_SIZE", "8"}}, "RANK=x"},
           {{{"RANK", "1"}, {"MASTER_ADDR", "a"}}, "WORLD_SIZE"},
           {{{"RANK", "1"}, {"WORLD_SIZE", "8"}}, "MASTER_ADDR"},
           {{{"RANK", "1"}, {"WORLD_SIZE", "8"}, {"MASTER_ADDR", "a"}},
            "MASTER_PORT"},
           {{{"OMPI_COMM_WORLD_SIZE", "2"}}, "OMPI_COMM_WORLD_RANK"},
           {{{"SLURM_PROCID", "1"}, {"SLURM_STEP_ID", "0"}},
            "SLURM_PROCID and SLURM_STEP_ID are set, SLURM_STEP_NUM_TASKS and "
            "SLURM_STEP_NODELIST are missing"},
           {{{"SLURM_PROCID", "1"},
             {"SLURM_STEP_ID", "0"},
             {"SLURM_NTASKS", "2"}},
            "SLURM_STEP_NODELIST"},
           {{{"RANK", "1"}, {"WORLD_SIZE", "8"}},
            "RANK and WORLD_SIZE are set, MASTER_ADDR and MASTER_PORT are "
            "missing"},
           {{{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}},
            "OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE are set, "
            "OMPI_COMM_WORLD_LOCAL_SIZE is missing"},
           {{{"RANK", "-1"}, {"WORLD_SIZE", "8"}}, "RANK=-1"},
           {{{"RANK", "1"}, {"WORLD_SIZE", "4294967297"}},
            "WORLD_SIZE=4294967297"},
           {{{"RANK", "0"}, {"WORLD_SIZE", "1"}, {"LMC_HOST_NAME", "a b"}},
            "LMC_HOST_NAME=a b"},
           {{{"RANK", "0"},
             {"WORLD_SIZE", "1"},
             {"LMC_JOB_TOKEN", std::string(5000, 'x')}},
            "LMC_JOB_TOKEN has 5000 bytes"},
           {{{"SLURM_PROCID", "1"},
             {"SLURM_STEP_ID", "0"},
             {"SLURM_NTASKS", "2"},
             {"SLURM_STEP_NODELIST", "n[1-"}},
            "SLURM_STEP_NODELIST"},
       }) {
    auto place = placeIn(variables);
    ASSERT_FALSE(place.ok()) << name;
    EXPECT_EQ(place.status().exitStatus(), 2);
    EXPECT_NE(place.status().message().find(name), std::string::npos)
        << place.status().message();
  }
}

// A rank among those of its host.
TEST(Place, AWrongLocalRankNamesBothVariables) {
  using Variables = std::map<std::string, std::string>;
  const Variables torchrun = {{"RANK", "1"},
                              {"WORLD_SIZE", "8"},
                              {"MASTER_ADDR", "a"},
                              {"MASTER_PORT", "1"}};
  const Variables mpirun = {{"OMPI_COMM_WORLD_RANK", "1"},
                            {"OMPI_COMM_WORLD_SIZE", "8"},
                            {"MASTER_ADDR", "a"}};
  const Variables srun = {{"SLURM_PROCID", "1"},
                          {"SLURM_STEP_ID", "0"},
                          {"SLURM_STEP_NUM_TASKS", "8"},
                          {"SLURM_STEP_NODELIST", "n[1-4]"}};
  auto complaint = [](Variables variables, const Variables &more) {
    variables.insert(more.begin(), more.end());
    auto place = placeIn(variables);
    return place.ok() ? "" : place.status().message();
  };
  auto torch = [&](const char *rank, const char *ranks) {
    return complaint(torchrun,
                     {{"LOCAL_RANK", rank}, {"LOCAL_WORLD_SIZE", ranks}});
  };
  EXPECT_EQ(torch("1", "2"), "");
  EXPECT_EQ(torch("7", "2"), "LOCAL_RANK=7 is not below LOCAL_WORLD_SIZE=2 "
                             "(torchrun's environment)");
  EXPECT_EQ(torch("8", ""),
            "LOCAL_RANK=8 is not below WORLD_SIZE=8 (torchrun's environment)");
  EXPECT_EQ(torch("1", "9"), "LOCAL_WORLD_SIZE=9 is more than WORLD_SIZE=8 "
                             "(torchrun's environment)");
  for (const char *rank : {"-1", "x", "1x", "4294967296"})
    EXPECT_EQ(torch(rank, "2"),
              fmt::format("LOCAL_RANK={} is no number in [0, 1048576] "
                          "(torchrun's environment)",
                          rank));
  auto mpi = [&](const char *rank, const char *ranks) {
    return complaint(mpirun, {{"OMPI_COMM_WORLD_LOCAL_RANK", rank},
                              {"OMPI_COMM_WORLD_LOCAL_SIZE", ranks}});
  };
  EXPECT_EQ(mpi("1", "2"), "");
  EXPECT_EQ(mpi("2", "2"), "OMPI_COMM_WORLD_LOCAL_RANK=2 is not below "
                           "OMPI_COMM_WORLD_LOCAL_SIZE=2 (mpirun's "
                           "environment)");
  EXPECT_EQ(mpi("-2", "2"), "OMPI_COMM_WORLD_LOCAL_RANK=-2 is no number in "
                            "[0, 1048576] (mpirun's environment)");
  auto slurm = [&](const char *rank, const char *node, const char *tasks) {
    return complaint(srun, {{"SLURM_LOCALID", rank},
                            {"SLURM_NODEID", node},
                            {"SLURM_STEP_TASKS_PER_NODE", tasks}});
  };
  EXPECT_EQ(slurm("1", "2", "2(x3),1"), "");
  EXPECT_EQ(slurm("0", "3", "2(x3),1"), "");
  EXPECT_EQ(slurm("1", "3", "2(x3),1"),
            "SLURM_LOCALID=1 is not below the 1 of node 3 in "
            "SLURM_STEP_TASKS_PER_NODE=2(x3),1 (srun's environment)");
  EXPECT_EQ(slurm("7", "", "2(x3),1"), "");
  EXPECT_EQ(slurm("8", "", ""), "SLURM_LOCALID=8 is not below "
                                "SLURM_STEP_NUM_TASKS=8 (srun's environment)");
  for (const char *list : {"2(x3),1", "2(x", "x", "2(x3", "2y3,1,1,1,1"})
    EXPECT_EQ(slurm("0", "4", list),
              fmt::format("SLURM_STEP_TASKS_PER_NODE={} says nothing of "
                          "SLURM_NODEID=4 (srun's environment)",
                          list));
}
