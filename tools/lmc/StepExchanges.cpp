// See StepExchanges.h.
#include "tools/lmc/StepExchanges.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <tuple>

using namespace lmc;

namespace {

std::string lower(std::string text) {
  for (char &c : text)
    c = char(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

int rowOf(plan::Collective::Kind kind) {
  using runtime::CollectiveKind;
  switch (kind) {
  case plan::Collective::REDUCE_SCATTER:
    return int(CollectiveKind::ReduceScatter);
  case plan::Collective::ALL_GATHER:
    return int(CollectiveKind::AllGather);
  case plan::Collective::ALL_TO_ALL:
    return int(CollectiveKind::AllToAll);
  case plan::Collective::BROADCAST:
    return int(CollectiveKind::Broadcast);
  default:
    return int(CollectiveKind::AllReduce);
  }
}

// Of one call; a group of one rank for what is no exchange.
Exchange describe(const plan::Plan &plan,
                  const plan::Instruction &instruction) {
  Exchange exchange;
  exchange.location = instruction.location();
  exchange.ofReshard = instruction.of_reshard();
  if (instruction.has_collective()) {
    const plan::Collective &collective = instruction.collective();
    exchange.row = rowOf(collective.kind());
    exchange.dtype = lower(plan::DataType_Name(collective.dtype()));
    for (uint32_t axis : collective.axes()) {
      const plan::Mesh::Axis &one = plan.mesh().axes(int(axis));
      exchange.members *= one.size();
      exchange.axes += (exchange.axes.empty() ? "" : ",") + one.name();
    }
    exchange.bytes =
        std::max(collective.source().bytes(), collective.target().bytes());
  } else if (instruction.has_send() || instruction.has_receive()) {
    exchange.row =
        instruction.has_send() ? runtime::sendRow : runtime::receiveRow;
    exchange.axes = "pp";
    exchange.members = 2;
    exchange.bytes = instruction.has_send()
                         ? instruction.send().slice().bytes()
                         : instruction.receive().slice().bytes();
  }
  exchange.received = runtime::ringBytesReceived(exchange.row, exchange.bytes,
                                                 exchange.members);
  return exchange;
}

} // namespace

std::vector<Exchange> lmc::exchangesOf(const plan::Plan &plan,
                                       const plan::Schedule &schedule) {
  std::vector<int64_t> calls(size_t(plan.programs_size()));
  std::vector<uint32_t> order;
  for (const plan::Call &call : schedule.calls())
    if (calls[call.program()]++ == 0)
      order.push_back(call.program());
  std::vector<Exchange> all;
  for (uint32_t index : order) {
    const plan::Program &program = plan.programs(int(index));
    using Key =
        std::tuple<int, std::string, std::string, int64_t, uint32_t, bool>;
    std::map<Key, size_t> places; // in `all`
    for (const plan::Instruction &instruction : program.instructions()) {
      Exchange exchange = describe(plan, instruction);
      if (exchange.members == 1)
        continue;
      Key key{exchange.row,   exchange.axes,     exchange.dtype,
              exchange.bytes, exchange.location, exchange.ofReshard};
      auto [place, isNew] = places.insert({key, all.size()});
      if (isNew) {
        exchange.program = program.name();
        all.push_back(std::move(exchange));
      }
      all[place->second].calls += calls[index];
    }
  }
  return all;
}

runtime::Traffic lmc::sum(const std::vector<Exchange> &exchanges) {
  runtime::Traffic total;
  for (const Exchange &exchange : exchanges)
    total.add(exchange.row, exchange.calls, exchange.bytes, exchange.members);
  return total;
}

std::string lmc::placeOf(const plan::Plan &plan, uint32_t index,
                         bool anyLayer) {
  if (index >= uint32_t(plan.locations_size()))
    return "";
  const plan::Location &location = plan.locations(int(index));
  std::string layer;
  bool startsPart = true;
  for (char c : location.layer()) {
    bool isDigit = std::isdigit(static_cast<unsigned char>(c)) != 0;
    if (!anyLayer || !isDigit || !startsPart)
      layer += c;
    else if (layer.empty() || layer.back() != '*')
      layer += '*';
    startsPart = c == '.' || (anyLayer && isDigit && startsPart);
  }
  std::string file = location.file();
  if (size_t slash = file.rfind('/'); slash != std::string::npos)
    file = file.substr(slash + 1);
  std::string text =
      file.empty() ? "" : file + ":" + std::to_string(location.line());
  return text + (text.empty() || layer.empty() ? "" : " ") + layer;
}
