// See SharedMemory.h.
#include "runtime/comm/host/SharedMemory.h"
#include "runtime/base/OpenFiles.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <new>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

namespace lmc::runtime {

static constexpr uint64_t segmentMagic = 0x3147455343'4d4c01; // and a version
// Two per buffer, when the call before has ended; or what a call lends: its
// source, and sums of two chunks.
static constexpr uint32_t offersUnderWay = 4;
static constexpr size_t pageBytes = 4096;
static constexpr size_t blockHeader = 64; // holds the block's `busy`

struct SharedMemory::Head {
  uint64_t magic;
  uint64_t token;
  uint32_t rank;
  uint64_t address; ///< of this, in its owner
  alignas(64) Bell bell;
  struct alignas(64) Counter {
    std::atomic<uint32_t> value;
  } released[3]; // the last: loans
};

struct SharedMemory::Pair {
  alignas(64) std::atomic<uint32_t> offered;
  Offer offers[offersUnderWay];
  alignas(64) std::atomic<uint32_t> sent;
  alignas(64) std::atomic<uint32_t> taken;
  alignas(64) Note notes[ringSize];
};

static_assert(std::atomic<uint32_t>::is_always_lock_free);

/// What a limit of the machine or the process keeps from being made.
static ErrorKind kindOf(int error) {
  return error == ENOMEM || error == ENOSPC || isOutOfFiles(error)
             ? ErrorKind::DoesNotFit
             : ErrorKind::JobFailed;
}

static size_t roundUp(size_t bytes, size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

SharedMemory::SharedMemory(Job &job)
    : job(job), me(job.rank()), ranks(job.numRanks()),
      segments(size_t(job.numRanks())), peers(size_t(job.numRanks())),
      theWaiter(job) {}

StatusOr<std::unique_ptr<SharedMemory>> SharedMemory::create(Job &job) {
  std::unique_ptr<SharedMemory> memory(new SharedMemory(job));
  LMC_RETURN_IF_ERROR(memory->createSegment());
  return memory;
}

size_t SharedMemory::fixedBytes() const {
  return pageBytes + roundUp(size_t(ranks) * sizeof(Pair), pageBytes) +
         2 * size_t(bufferBytes);
}

Status SharedMemory::createSegment() {
  static_assert(sizeof(Head) <= pageBytes);
  Segment &segment = segments[size_t(me)];
  segment.fd = ::memfd_create("lmc-rank", MFD_CLOEXEC);
  fileBytes = fixedBytes();
  if (segment.fd < 0 || ::ftruncate(segment.fd, off_t(fileBytes)) != 0)
    return makeError(kindOf(errno), "cannot make {} bytes of shared memory: {}",
                     fileBytes, std::strerror(errno));
  // The buffers are needed; of the pairs only those that are used.
  if (int error = ::posix_fallocate(segment.fd,
                                    off_t(fileBytes - 2 * size_t(bufferBytes)),
                                    2 * bufferBytes))
    return makeError(ErrorKind::DoesNotFit,
                     "cannot make {} bytes of shared memory: {}",
                     2 * bufferBytes, std::strerror(error));
  void *base = ::mmap(nullptr, fileBytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                      segment.fd, 0);
  if (base == MAP_FAILED)
    return makeError(kindOf(errno), "cannot map {} bytes of shared memory: {}",
                     fileBytes, std::strerror(errno));
  segment.base = static_cast<std::byte *>(base);
  Head *head = new (segment.base) Head{};
  head->token = job.tokenHash();
  head->rank = uint32_t(me);
  head->address = reinterpret_cast<uint64_t>(head);
  head->magic = segmentMagic;
  theWaiter.setBell(head->bell);
  return Status();
}

SharedMemory::~SharedMemory() {
  for (const Block &block : blocks)
    ::munmap(block.at, block.capacity);
  for (const Peer &peer : peers)
    for (const Block &block : peer.mapped)
      ::munmap(block.at, block.capacity);
  for (const Segment &segment : segments) {
    if (segment.base)
      ::munmap(segment.base, fixedBytes());
    if (segment.fd >= 0)
      ::close(segment.fd);
  }
}

/// Processes of equal marks can open each other's files under /proc.
static std::string hostMark() {
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  char name[128] = "";
  ssize_t length = ::readlink("/proc/self/ns/pid", name, sizeof name - 1);
  return fmt::format(
      "{}/{}/{}", boot,
      std::string_view(name, size_t(std::max<ssize_t>(0, length))),
      ::geteuid());
}

std::string SharedMemory::endpoint(const std::string &hostName) const {
  return fmt::format("{}/{} {} {}", hostMark(), hostName, ::getpid(),
                     segments[size_t(me)].fd);
}

std::string SharedMemory::hostOf(const std::string &endpoint) {
  return endpoint.substr(0, endpoint.find(' '));
}

Status SharedMemory::attach(int peer, const std::string &endpoint) {
  if (peer == me)
    return Status();
  int pid = 0, fd = 0;
  if (std::sscanf(endpoint.c_str(), "%*s %d %d", &pid, &fd) != 2)
    return makeError(ErrorKind::Bug, "rank {} has the endpoint {}", peer,
                     endpoint);
  peers[size_t(peer)].pid = pid;
  std::string path = fmt::format("/proc/{}/fd/{}", pid, fd);
  Segment &segment = segments[size_t(peer)];
  segment.fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  void *base = segment.fd < 0
                   ? MAP_FAILED
                   : ::mmap(nullptr, fixedBytes(), PROT_READ | PROT_WRITE,
                            MAP_SHARED, segment.fd, 0);
  if (base == MAP_FAILED) {
    int error = errno;
    bool isHere = kindOf(error) == ErrorKind::DoesNotFit;
    // Where the peer's process has ended, there is a better reason.
    if (!isHere && job.awaitVerdict(1000))
      return job.verdict();
    return makeError(isHere ? ErrorKind::DoesNotFit : ErrorKind::PeerFailed,
                     "rank {} cannot open the shared memory of rank {} at {}: "
                     "{}",
                     me, peer, path, std::strerror(error))
        .help("--comm tcp does without shared memory");
  }
  segment.base = static_cast<std::byte *>(base);
  const Head &head = this->head(peer);
  if (head.magic != segmentMagic || head.token != job.tokenHash() ||
      head.rank != uint32_t(peer))
    return makeError(ErrorKind::PeerFailed,
                     "{} is not the shared memory of rank {}", path, peer);
  return Status();
}

SharedMemory::Head &SharedMemory::head(int rank) const {
  return *reinterpret_cast<Head *>(segments[size_t(rank)].base);
}
Bell &SharedMemory::bell() { return head(me).bell; }
void SharedMemory::ring(int peer) { head(peer).bell.ring(); }
SharedMemory::Pair &SharedMemory::pair(int from, int to) const {
  return reinterpret_cast<Pair *>(segments[size_t(from)].base + pageBytes)[to];
}
std::byte *SharedMemory::buffer(int rank, int index) const {
  return segments[size_t(rank)].base + fixedBytes() -
         size_t(2 - index) * size_t(bufferBytes);
}

bool SharedMemory::tryRead(int peer, uint64_t address, void *to,
                           size_t bytes) const {
  for (size_t done = 0; done < bytes;) {
    iovec here = {static_cast<std::byte *>(to) + done, bytes - done};
    iovec there = {reinterpret_cast<void *>(address + done), bytes - done};
    ssize_t got = ::process_vm_readv(peers[size_t(peer)].pid, &here, 1, &there,
                                     1, /*flags=*/0);
    if (got <= 0)
      return false;
    done += size_t(got);
  }
  return true;
}

bool SharedMemory::readsPeers() const {
  for (int peer = 0; peer < ranks; ++peer) {
    uint64_t magic = 0;
    if (peer != me && segments[size_t(peer)].base &&
        !(tryRead(peer, head(peer).address, &magic, sizeof magic) &&
          magic == segmentMagic))
      return false;
  }
  return true;
}

Status SharedMemory::awaitReleases(int buffer) {
  std::atomic<uint32_t> &released = head(me).released[buffer].value;
  return theWaiter.until([&] {
    return released.load(std::memory_order_acquire) == expectedReleases[buffer];
  });
}

StatusOr<int> SharedMemory::acquire() {
  int index = nextBuffer;
  nextBuffer = 1 - nextBuffer;
  LMC_RETURN_IF_ERROR(awaitReleases(index));
  return index;
}

void SharedMemory::offer(const std::vector<int> &members, int buffer,
                         uint32_t signature, uint32_t releases) {
  publish(members, {uint32_t(buffer), signature, /*address=*/0}, releases);
}

void SharedMemory::lend(const std::vector<int> &members, const std::byte *from,
                        uint32_t signature) {
  publish(members, {lent, signature, reinterpret_cast<uint64_t>(from)},
          uint32_t(members.size() - 1));
}

void SharedMemory::publish(const std::vector<int> &members, const Offer &offer,
                           uint32_t releases) {
  expectedReleases[offer.buffer] += releases;
  for (int peer : members) {
    if (peer == me)
      continue;
    Pair &to = pair(me, peer);
    uint32_t number = to.offered.load(std::memory_order_relaxed);
    to.offers[number % offersUnderWay] = offer;
    to.offered.store(number + 1, std::memory_order_release);
    ring(peer);
  }
}

StatusOr<SharedMemory::Offer>
SharedMemory::takeNext(int peer, uint32_t signature, bool isLoan) {
  Pair &from = pair(peer, me);
  uint32_t &taken = peers[size_t(peer)].offersTaken;
  LMC_RETURN_IF_ERROR(theWaiter.until(
      [&] { return from.offered.load(std::memory_order_acquire) != taken; }));
  Offer offer = from.offers[taken % offersUnderWay];
  ++taken;
  if (offer.signature != signature || offer.buffer > lent ||
      (offer.buffer == lent) != isLoan)
    return makeError(ErrorKind::Bug,
                     "rank {} and rank {} meet in different collectives", peer,
                     me);
  return offer;
}

StatusOr<int> SharedMemory::take(int peer, uint32_t signature) {
  LMC_ASSIGN_OR_RETURN(Offer offer,
                       takeNext(peer, signature, /*isLoan=*/false));
  return int(offer.buffer);
}

StatusOr<uint64_t> SharedMemory::borrow(int peer, uint32_t signature) {
  LMC_ASSIGN_OR_RETURN(Offer offer, takeNext(peer, signature, /*isLoan=*/true));
  return offer.address;
}

Status SharedMemory::read(int peer, uint64_t address, std::byte *to,
                          int64_t bytes) {
  if (tryRead(peer, address, to, size_t(bytes)))
    return Status();
  int error = errno;
  if (job.awaitVerdict(500)) // it knows better why a peer has ended
    return job.verdict();
  return makeError(ErrorKind::PeerFailed,
                   "rank {} cannot read {} bytes that rank {} lends: {}", me,
                   bytes, peer, std::strerror(error))
      .help("--comm tcp does without reading others' memory");
}

void SharedMemory::release(int peer, int buffer) {
  head(peer).released[buffer].value.fetch_add(1);
  ring(peer);
}

static std::atomic<uint32_t> &busyFlag(std::byte *block) {
  return *reinterpret_cast<std::atomic<uint32_t> *>(block);
}

StatusOr<SharedMemory::Block> SharedMemory::freeBlock(int64_t bytes) {
  uint64_t wanted = roundUp(size_t(bytes) + blockHeader, pageBytes);
  for (const Block &block : blocks)
    if (block.capacity >= wanted && block.capacity <= 2 * wanted &&
        busyFlag(block.at).load(std::memory_order_acquire) == 0)
      return block;
  int fd = segments[size_t(me)].fd;
  Block block{fileBytes, wanted, nullptr};
  if (int error = ::posix_fallocate(fd, off_t(fileBytes), off_t(wanted)))
    return makeError(ErrorKind::DoesNotFit,
                     "cannot add {} bytes of shared memory for a message: {}",
                     wanted, std::strerror(error));
  void *at = ::mmap(nullptr, wanted, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                    off_t(fileBytes));
  if (at == MAP_FAILED)
    return makeError(kindOf(errno), "cannot map {} bytes of shared memory: {}",
                     wanted, std::strerror(errno));
  fileBytes += wanted;
  block.at = static_cast<std::byte *>(at);
  blocks.push_back(block);
  return block;
}

Status SharedMemory::send(int peer, uint64_t channel, const std::byte *source,
                          int64_t bytes) {
  Pair &to = pair(me, peer);
  uint32_t number = to.sent.load(std::memory_order_relaxed);
  LMC_RETURN_IF_ERROR(theWaiter.until([&] {
    return number - to.taken.load(std::memory_order_acquire) < ringSize;
  }));
  LMC_ASSIGN_OR_RETURN(Block block, freeBlock(bytes));
  busyFlag(block.at).store(1, std::memory_order_relaxed);
  std::memcpy(block.at + blockHeader, source, size_t(bytes));
  to.notes[number % ringSize] = {channel, block.offset, block.capacity,
                                 uint64_t(bytes)};
  to.sent.store(number + 1, std::memory_order_release);
  ring(peer);
  return Status();
}

SharedMemory::Queue &SharedMemory::queueOf(int peer, uint64_t channel) {
  std::vector<Queue> &queues = peers[size_t(peer)].queues;
  for (Queue &queue : queues)
    if (queue.channel == channel)
      return queue;
  queues.push_back({channel, {}, 0});
  return queues.back();
}

/// Moves what a peer has sent into the queues of its channels; false when
/// there was nothing.
bool SharedMemory::fetchNotes(int peer) {
  Pair &from = pair(peer, me);
  uint32_t taken = from.taken.load(std::memory_order_relaxed);
  uint32_t sent = from.sent.load(std::memory_order_acquire);
  if (taken == sent)
    return false;
  for (; taken != sent; ++taken) {
    const Note &note = from.notes[taken % ringSize];
    queueOf(peer, note.channel).notes.push_back(note);
  }
  from.taken.store(taken, std::memory_order_release);
  ring(peer);
  return true;
}

StatusOr<std::byte *> SharedMemory::mapBlock(int peer, const Note &note) {
  std::vector<Block> &mapped = peers[size_t(peer)].mapped;
  for (const Block &block : mapped)
    if (block.offset == note.offset)
      return block.at;
  void *at = ::mmap(nullptr, note.capacity, PROT_READ | PROT_WRITE, MAP_SHARED,
                    segments[size_t(peer)].fd, off_t(note.offset));
  if (at == MAP_FAILED)
    return makeError(kindOf(errno),
                     "cannot map {} bytes of rank {}'s memory: {}",
                     note.capacity, peer, std::strerror(errno));
  mapped.push_back({note.offset, note.capacity, static_cast<std::byte *>(at)});
  return mapped.back().at;
}

Status SharedMemory::receive(int peer, uint64_t channel, std::byte *target,
                             int64_t bytes) {
  while (true) {
    Queue &queue = queueOf(peer, channel);
    if (queue.next < queue.notes.size()) {
      Note note = queue.notes[queue.next++];
      if (queue.next == queue.notes.size()) {
        queue.notes.clear();
        queue.next = 0;
      }
      if (int64_t(note.bytes) != bytes ||
          note.bytes + blockHeader > note.capacity)
        return makeError(ErrorKind::Bug,
                         "rank {} expects {} bytes from rank {} on channel {}, "
                         "got {}",
                         me, bytes, peer, uint32_t(channel), note.bytes);
      LMC_ASSIGN_OR_RETURN(std::byte * block, mapBlock(peer, note));
      std::memcpy(target, block + blockHeader, size_t(bytes));
      busyFlag(block).store(0, std::memory_order_release);
      return Status();
    }
    LMC_RETURN_IF_ERROR(theWaiter.until([&] { return fetchNotes(peer); }));
  }
}

} // namespace lmc::runtime
